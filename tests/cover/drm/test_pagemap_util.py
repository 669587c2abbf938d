"""Owner groups: a peer joins a group only when it reaches every member."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagemap_bench import Machine, run

from svm_actors.drm.pagemap_util import Owner, OwnerList
from svm_actors.engine.errors import EngineError


@attrs.frozen
class Peer:
    name: str
    gpu: Any


def peers(*devices: str) -> list[Peer]:
    return [Peer(f"peer{number}", device) for number, device in enumerate(devices)]


def test_peers_of_one_device_share_an_owner() -> None:
    owners = OwnerList()
    first, second, third = (owners.acquire_owner(peer) for peer in peers("a", "b", "a"))
    assert first is third
    assert first is not second


def test_a_group_is_joined_only_when_all_members_are_reached() -> None:
    links = {("b", "a"), ("c", "b")}
    owners = OwnerList(lambda first, second: first is second or (first, second) in links)  # type: ignore[comparison-overlap]
    a, b, c = (owners.acquire_owner(peer) for peer in peers("a", "b", "c"))
    assert a is b
    assert c is not a


def test_the_group_goes_with_its_last_member() -> None:
    owners = OwnerList()
    one, two = peers("a", "a")
    owner = owners.acquire_owner(one)
    owners.acquire_owner(two)
    owners.release_owner(one, owner)
    assert owners.owners == [owner]
    owners.release_owner(two, owner)
    assert owners.owners == []
    with pytest.raises(EngineError, match="no member"):
        owners.release_owner(two, owner)


Links = st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)))


@given(st.lists(st.integers(0, 4), max_size=12), Links)
def test_groups_are_cliques_and_first_fit(devices: list[int], links: set[tuple[int, int]]) -> None:
    def fast(first: Any, second: Any) -> bool:
        return bool(first == second or (first, second) in links)

    owners = OwnerList(fast)
    joined: list[Owner] = []
    for number, device in enumerate(devices):
        before = [list(owner.peers) for owner in owners.owners]
        owner = owners.acquire_owner(Peer(f"peer{number}", device))
        fits = [all(fast(device, member.gpu) for member in group) for group in before]
        expected = fits.index(True) if True in fits else len(before)
        assert owners.owners.index(owner) == expected
        joined.append(owner)
    assert sum(len(owner.peers) for owner in owners.owners) == len(devices)


def test_pages_of_another_group_are_not_taken() -> None:
    """Another owner's pages are not selected, so the window is not complete and nothing moves."""

    async def body(machine: Machine) -> None:
        at = await machine.map(2)
        await machine.write(at, 5, 6)
        assert await machine.populate(at, 2, gpu=0) == "ok"
        before = [machine.folio(at + page) for page in range(2)]
        assert await machine.populate(at, 2, gpu=1) == "EBUSY"
        assert [machine.folio(at + page) for page in range(2)] == before
        assert await machine.read(at, 2) == [5, 6]

    run(body, gpus=2, fast=False)
