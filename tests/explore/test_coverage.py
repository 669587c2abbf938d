"""Coverage: what a run exercised, without touching it (DESIGN section 5)."""

from __future__ import annotations

import attrs
import pytest

from svm_actors.catalogue import catalogue
from svm_actors.explore.coverage import Mailbox, Reached, family, role, universe
from svm_actors.explore.edges import VmaEdges
from svm_actors.explore.run import Run, run
from svm_actors.explore.targets import resolve
from svm_actors.mm.events import RangeChanged, RangeChanging
from svm_actors.world import World

PAGE = 4096


async def there_and_back(world: World) -> None:
    """A page goes to the GPU, comes back and is unmapped while another is being read."""
    process = world.process()
    vm = await world.gpu().create_vm(process)
    addr = await process.mmap(2 * PAGE)
    await process.write(addr, b"a")
    await vm.store(addr, b"b")
    assert await process.read(addr, 1) == b"b"

    async def read() -> None:
        await process.read(addr + PAGE, 1)

    async with world.nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(process.munmap, addr, PAGE)


def covered(seed: int = 0, strategy: str = "random", **options: object) -> Run:
    return run(there_and_back, seed=seed, strategy=strategy, coverage=True, **options)  # type: ignore[arg-type]


def features(one: Run, kind: str) -> list[str]:
    return [name.partition(":")[2] for name in one.features if name.startswith(f"{kind}:")]


# -- what is seen ----------------------------------------------------------------------------


def test_entries() -> None:
    edges = features(covered(), "pte")
    assert {"none>present+w", "present+w>migration+w", "device_private+w>migration+w"} <= set(edges)
    assert any(edge.endswith(">none") for edge in edges)


def test_translations_and_ranges() -> None:
    one = covered()
    assert features(one, "tlb")[0].startswith("none>")
    assert any(edge.startswith("none>live") for edge in features(one, "range"))
    assert any(edge.endswith(">none") for edge in features(one, "range"))


def test_messages_and_handlers() -> None:
    one = covered()
    assert {"Mmap", "Munmap", "CpuFault", "Invalidate"} <= set(features(one, "message"))
    assert any(edge.startswith("core_mm Mmap>") for edge in features(one, "after"))


def test_a_message_meets_a_handler_only_where_requests_overlap() -> None:
    quiet = features(covered(strategy="fifo"), "while")
    raced = {name for seed in range(8) for name in features(covered(seed), "while")}
    assert any("CpuFault" in name and "Munmap" in name for name in raced)
    assert raced - set(quiet)


def test_handoffs_are_between_threads() -> None:
    """One thread alone hands nothing over to another one of its own making."""

    async def alone(world: World) -> None:
        process = world.process()
        addr = await process.mmap(PAGE)
        await process.write(addr, b"a")
        await process.munmap(addr, PAGE)

    one = run(alone, coverage=True, backend="direct")
    assert one.ok
    assert features(one, "handoff") == []
    assert features(covered(), "handoff") != []


def test_races_are_those_counted() -> None:
    races = {entry.id for entry in catalogue().values() if entry.kind == "race"}
    found: set[str] = set()
    for target in resolve("random-small"):
        for index in range(6):
            one = run(target.subject(index), seed=index, strategy="random", backend="direct", coverage=True)
            counted = {name for name in one.counters if name in races}
            assert counted == set(features(one, "race"))
            found |= counted
    assert found


def test_vmas_that_change_at_once() -> None:
    class Mm:
        name = "p0"

    mm, edges = Mm(), VmaEdges()
    edges.changing(RangeChanging(mm, 0, 8, "map"))  # type: ignore[arg-type]
    edges.changed(RangeChanged(mm, 0, 8, "map"))  # type: ignore[arg-type]
    edges.changing(RangeChanging(mm, 0, 4, "unmap"))  # type: ignore[arg-type]
    edges.changing(RangeChanging(mm, 3, 5, "dontneed"))  # type: ignore[arg-type]
    edges.changing(RangeChanging(mm, 6, 8, "free"))  # type: ignore[arg-type]
    edges.changed(RangeChanged(mm, 0, 4, "unmap"))  # type: ignore[arg-type]
    assert edges.edges == {("none", "map"), ("map", "unmap")}
    assert edges.races == {("unmap", "dontneed")}


def test_a_mailbox_knows_what_is_being_served() -> None:
    box = Mailbox()
    for verb in ("Mmap", "CpuFault"):
        box.sent(verb)
    box.answered("Mmap")
    box.answered("Mmap")
    box.sent("Munmap")
    assert sorted(box.features("core_mm")) == [
        "after:core_mm CpuFault>Munmap",
        "after:core_mm Mmap>CpuFault",
        "message:CpuFault",
        "message:Mmap",
        "message:Munmap",
        "while:core_mm CpuFault|Munmap",
        "while:core_mm Mmap|CpuFault",
    ]


# -- and what it does not do -----------------------------------------------------------------


@pytest.mark.parametrize("record", [False, True])
def test_coverage_changes_nothing(record: bool) -> None:
    """Choices, trace, digest and counters are those of the run without."""
    plain = run(there_and_back, seed=3, strategy="random", record=record)
    with_it = covered(3, record=record)
    assert plain.features == ()
    assert with_it.features
    quiet = {"features": (), "elapsed": 0.0}
    assert attrs.evolve(with_it, **quiet) == attrs.evolve(plain, **quiet)


def test_failures_look_the_same() -> None:
    async def stuck(world: World) -> None:
        process = world.process()
        await process.mmap(PAGE)
        raise AssertionError("on purpose")

    runs = [run(stuck, backend="direct", coverage=coverage) for coverage in (False, True)]
    assert runs[0].failure == runs[1].failure is not None


def test_features_are_the_same_on_both_back_ends_and_in_order() -> None:
    trio, direct = covered(5), covered(5, backend="direct")
    assert trio.features == direct.features == tuple(sorted(set(trio.features)))


def test_names_say_nothing_of_instances() -> None:
    assert family("gpu0.vm12.svm.notifier[7e00-7e08]") == "gpu#.vm#.svm.notifier#"
    assert family("folio:10ffff") == "folio:#"
    named = {"37:CpuFault.0": "CpuFault", "Munmap.3": "Munmap", "t0": "t#", "main": "main"}
    assert {local: role(local) for local in named} == named


# -- a campaign's view -----------------------------------------------------------------------


def test_reached() -> None:
    reached = Reached()
    assert reached.add(("message:Mmap", "pte:none>present")) == ("message:Mmap", "pte:none>present")
    assert reached.add(("message:Mmap", "message:Munmap")) == ("message:Munmap",)
    assert reached.by_kind() == {"message": 2, "pte": 1}
    assert "message:Mmap" not in reached.missing()["message"]
    assert "message:CpuFault" in reached.missing()["message"]


def test_the_universe_is_what_the_model_says() -> None:
    known = universe()
    assert {"message:Munmap", "message:Invalidate", "message:OpenMirror"} <= set(known["message"])
    assert {"message:Command", "message:Message"}.isdisjoint(known["message"])
    races = [one for one in catalogue().values() if one.kind == "race"]
    assert set(known["race"]) == {f"race:{race.id}" for race in races if race.windows}
    assert set(features(covered(), "message")) <= {name.partition(":")[2] for name in known["message"]}
