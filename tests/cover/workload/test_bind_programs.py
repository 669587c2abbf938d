"""Random programs over VM_BIND as data: what is drawn, that it can be read, and that operations can be left out."""

from __future__ import annotations

from collections import Counter
from random import Random

import attrs
import pytest

from svm_actors.workload import bind_programs as bp
from svm_actors.workload.bind_operations import places
from svm_actors.workload.bind_random import BindShape, random_bind_program
from svm_actors.workload.bind_run import bind_program
from svm_actors.workload.bind_stories import BIND_STORIES
from svm_actors.workload.program import Operation

SHAPES = {
    "bind": BindShape(),
    "svm-and-bind": BindShape(mirrors=True),
    "fault-bind": BindShape(modes=("fault", "dma_fence")),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
SEEDS = range(150)


def programs(shape: BindShape) -> list[bp.BindProgram]:
    return [bind_program(seed, shape) for seed in SEEDS]


@each_shape
def test_equal_numbers_give_equal_programs(shape: BindShape) -> None:
    assert programs(shape)[:5] == programs(shape)[:5]
    assert len({repr(program) for program in programs(shape)}) == len(SEEDS)


@each_shape
def test_a_program_can_be_read_back_from_its_text(shape: BindShape) -> None:
    """What is printed is what ran: a failing program can be pasted into a test."""
    from svm_actors.workload import concurrent_programs as cp

    names = vars(cp) | vars(bp)
    for program in programs(shape)[:20]:
        assert eval(repr(program), dict(names)) == program


@each_shape
def test_what_is_drawn_stays_within_the_shape(shape: BindShape) -> None:
    for program in programs(shape):
        assert 1 <= len(program.vms) <= shape.vms
        assert 1 <= len(program.clients) <= shape.clients
        assert 1 <= len(program.bos) <= shape.bos
        assert all(vm.process < len(program.base.processes) for vm in program.vms)
        assert all(client.vm < len(program.vms) for client in program.clients)
        assert all(bo.vm < len(program.vms) and bo.pages <= shape.bo_pages for bo in program.bos)
        assert all(len(client.operations) <= shape.operations + 1 for client in program.clients)
        assert bool(program.base.vms) == shape.mirrors
        for client in program.clients:
            for change in changes_of(client):
                if not isinstance(change, bp.UnmapAll):
                    assert 0 <= change.at < change.at + change.n <= bp.WINDOW


def changes_of(client: bp.Client) -> list[bp.Change]:
    binds = [operation for operation in client.operations if isinstance(operation, bp.Bind)]
    return [change for bind in binds for change in bind.changes]


@each_shape
def test_everything_is_drawn_sooner_or_later(shape: BindShape) -> None:
    seen: Counter[str] = Counter()
    for program in programs(shape):
        for client in program.clients:
            seen.update(type(operation).__name__ for operation in client.operations)
            seen.update(type(change).__name__ for change in changes_of(client))
        seen.update(type(task).__name__ for task in program.driver)
        seen.update(vm.mode for vm in program.vms)
    wanted = {
        *("Bind", "Submit", "Hang", "Stray", "Wait", "CpuRead", "CpuWrite", "UserWrite", "Mirror", "Unmirror"),
        *("Drop", "DestroyQueue", "Map", "MapUser", "MapNull", "Unmap", "UnmapAll", "Prefetch", "EvictPages"),
        *("ResetGt", "CloseBindVm", *shape.modes),
    }
    assert wanted <= set(seen)


def test_an_object_that_one_client_has_alone_can_be_mapped_by_it() -> None:
    for program in programs(BindShape()):
        for bo in program.bos:
            assert bo.client is None or bo.external or program.clients[bo.client].vm == bo.vm


def test_values_are_distinct() -> None:
    for program in programs(BindShape()):
        values = [
            access.value
            for client in program.clients
            for operation in client.operations
            if isinstance(operation, bp.Submit)
            for access in operation.accesses
            if access.do == "store"
        ]
        assert len(values) == len(set(values))


@each_shape
def test_every_operation_has_a_number_and_a_text(shape: BindShape) -> None:
    for program in programs(shape)[:40]:
        found = places(program)
        clients = [place for place in found if place[0] == "client"]
        assert len(clients) == sum(len(client.operations) for client in program.clients)
        assert len([place for place in found if place[0] == "bo"]) == len(program.bos)
        assert len([place for place in found if place[0] == "task"]) == len(program.driver)
        assert all(isinstance(each, Operation) and each.text and "(" not in each.text.replace("(swap out)", "")
                   for each in found.values())  # fmt: skip


TEXTS = {
    bp.Bind((bp.Map(0, 3, 1), bp.Unmap(4, 1)), 1): "bind [map bo 1 from page 0 to pages 0-2, unmap page 4] on queue 1",
    bp.Bind((bp.MapUser(2, 1, 5), bp.MapNull(0, 1))): "bind [map user page 5 to page 2, map null to page 0] on queue 0",
    bp.Bind((bp.UnmapAll(2), bp.Prefetch(0, 1))): "bind [unmap all of bo 2, prefetch page 0] on queue 0",
    bp.Bind((bp.Map(1, 1, 0, 2, True),)): "bind [map bo 0 from page 2 to page 1, read-only] on queue 0",
    bp.Submit((bp.Access(0, "store", 7), bp.Access(1, "add"))): (
        "submit [store 7 to page 0, count in page 1] on queue 0"
    ),
    bp.Submit((bp.Access(2, "load", of=1),)): "submit [load page 2, word of client 1] on queue 0",
    bp.Hang(1, True): "submit a stubborn hang on queue 1",
    bp.Stray(): "submit a load from nowhere on queue 0",
    bp.DestroyQueue(1): "destroy queue 1",
    bp.Drop(0): "close the handle of bo 0",
    bp.Wait(): "wait for everything",
    bp.Unmirror(1, 2): "unmap mirrored pages 1-2",
    bp.Remirror(1, 1): "mirror page 1 again",
    bp.CpuRead(0, 1): "read page 1 of bo 0 by the CPU",
    bp.CpuWrite(0, 1, 9): "write 9 to page 1 of bo 0 by the CPU",
    bp.UserWrite(1, 9): "write 9 to calm page 1 by the CPU",
    bp.Mirror(1, 9): "store 9 to calm page 1 in the mirroring vm",
    bp.Mirror(1, 0, True): "load wild page 1 in the mirroring vm",
}


def test_operations_in_words() -> None:
    """The text of each operation, as a person reads it in a shrunk failure."""
    for operation, text in TEXTS.items():
        program = bind_program(0)
        alone = attrs.evolve(program, clients=(bp.Client(0, (operation,)),), driver=())
        assert places(alone)["client", 0, 0].text == text


def test_driver_tasks_and_objects_in_words() -> None:
    program = bp.BindProgram(
        bind_program(0).base,
        1,
        (bp.BindVmProgram(0),),
        (bp.BoProgram(0, 2), bp.BoProgram(0, 1, "system", external=True)),
        (),
        (bp.EvictPages(3), bp.ResetGt(), bp.CloseBindVm(0)),
    )
    texts = [each.text for place, each in places(program).items() if place[0] in ("bo", "task")]
    assert texts == [
        "create, 2 pages, vram, local to vm 0",
        "create, 1 pages, system, external",
        "evict up to 3 pages",
        "reset the GT",
        "close vm 0",
    ]


def test_draws_are_all_that_matters() -> None:
    """A generator of the caller's own will do."""
    first, second = (random_bind_program(Random(5).randrange, BindShape()) for _ in range(2))
    assert first == second


def test_stories_are_small() -> None:
    for story in BIND_STORIES.values():
        program = story.program
        threads = sum(len(entry.threads) for entry in program.base.processes)
        assert threads + len(program.clients) + len(program.driver) <= 6, story.name
        assert story.races
        assert story.name.startswith("bind-")
