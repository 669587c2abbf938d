"""The oracle that keeps books of what is in reservations (INV-FEN-12)."""

from __future__ import annotations

from typing import Any

import pytest

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import DmaResv, Slot, Usage
from svm_actors.explore.run import Run, run
from svm_actors.world import World


class Place:
    """One locked reservation with room, and fences of timeline 1."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.resv = DmaResv(world.engine, "buffer")
        self.fences: list[Fence] = []

    def fence(self, seqno: int, context: int = 1) -> Fence:
        fence = Fence(self.world.engine, f"{context}.{seqno}", context=context, seqno=seqno)
        self.fences.append(fence)
        return fence

    async def lock(self) -> Place:
        await self.resv.lock()
        self.resv.reserve(8)
        return self

    def lose(self, fence: Fence) -> None:
        """Its slot goes, as no driver can make it go."""
        self.resv.fences.slots = [slot for slot in self.resv.fences.slots if slot.fence is not fence]


def checked(body: Any) -> Run:
    async def scenario(world: World) -> None:
        place = await Place(world).lock()
        body(place)
        for fence in place.fences:
            fence.signal()
        place.resv.unlock()

    return run(scenario, backend="direct")


def lost_before_the_next_one(place: Place) -> None:
    first = place.fence(1)
    place.resv.add(first, Usage.WRITE)
    place.lose(first)
    place.resv.add(place.fence(1, context=2), Usage.READ)


def asked_for_less(place: Place) -> None:
    """What writers have to wait for becomes what only memory management asks for."""
    first = place.fence(1)
    place.resv.add(first, Usage.WRITE)
    place.resv.fences.slots = [Slot(first, Usage.BOOKKEEP)]
    place.resv.add(place.fence(1, context=2), Usage.READ)


def earlier_one_instead(place: Place) -> None:
    second = place.fence(2)
    place.resv.add(second, Usage.WRITE)
    place.lose(second)
    place.resv.add(place.fence(1), Usage.WRITE)


@pytest.mark.parametrize("body", [lost_before_the_next_one, asked_for_less, earlier_one_instead])
def test_a_fence_that_no_slot_stands_for_is_lost(body: Any) -> None:
    failure = checked(body).failure
    assert failure is not None
    assert (failure.oracle, failure.rule) == ("reservations", "INV-FEN-12")
    assert "and is not signaled, but no slot says so" in failure.message


def later_one_instead(place: Place) -> None:
    for seqno in (1, 2):
        place.resv.add(place.fence(seqno), Usage.WRITE)
    assert len(place.resv.fences.slots) == 1
    place.resv.add(place.fence(1, context=2), Usage.READ)


def signaled_first(place: Place) -> None:
    first = place.fence(1)
    place.resv.add(first, Usage.WRITE)
    first.signal()
    place.lose(first)
    place.resv.add(place.fence(1, context=2), Usage.READ)


def asked_for_more(place: Place) -> None:
    first = place.fence(1)
    place.resv.add(first, Usage.READ)
    place.resv.add(first, Usage.KERNEL)
    assert [slot.usage for slot in place.resv.fences.slots] == [Usage.KERNEL]
    place.resv.add(place.fence(1, context=2), Usage.READ)


def replaced_by_the_driver(place: Place) -> None:
    place.resv.add(place.fence(1), Usage.BOOKKEEP)
    place.resv.replace(1, place.fence(1, context=2), Usage.BOOKKEEP)
    place.resv.add(place.fence(1, context=3), Usage.READ)


@pytest.mark.parametrize("body", [later_one_instead, signaled_first, asked_for_more, replaced_by_the_driver])
def test_what_may_leave_its_slot(body: Any) -> None:
    assert checked(body).failure is None
