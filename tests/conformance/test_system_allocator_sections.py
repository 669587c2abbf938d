"""Sections A1 to C22 of the catalogue igt_system_allocator, each in every shape that applies.

Every section in every shape runs under the default schedule; then each section runs under fifty random ones, which
take its shapes in turn, the cheaper ones more often than the others.  Chunks have their real sizes in small
shapes, and for plain memory in all; elsewhere they are scaled down.
"""

from __future__ import annotations

from typing import Any

import pytest
from cases import case, note_schedules
from igt_bench import SCHEDULES, hold, hold_once
from system_allocator_bench import FULL, SMALL, SUITE, Scale
from system_allocator_drivers import run_section
from system_allocator_sections import SECTIONS, SHAPES, Section, Shape

from svm_actors.explore.run import run
from svm_actors.world import World

FULL_SHAPES = {"S1", "S2", "S3", "S8"}
"""In these sections have chunks of the real size; but one exec never gets a second buffer, so S2 once is enough."""
FULL_SECTIONS = {"malloc", "mmap"}
"""These have them in all shapes."""
EVERYTHING = [(section, shape) for section in SECTIONS for shape in SHAPES if shape.applies(section)]


def scenario_of(section: Section, shape: Shape, scale: Scale) -> Any:
    async def scenario(world: World) -> None:
        await run_section(world, section, shape, scale)

    return scenario


@pytest.mark.parametrize(
    ("section", "shape"), [pytest.param(*pair, id=pair[1].prefix + pair[0].name) for pair in EVERYTHING]
)
def test_section(section: Section, shape: Shape) -> None:
    large_again = shape.id == "S2" and section.renews
    full = (shape.id in FULL_SHAPES and not large_again) or section.name in FULL_SECTIONS
    hold(scenario_of(section, shape, FULL if full else SMALL), 0)


def times(shape: Shape) -> int:
    """How often a shape has its turn."""
    if shape.threads > 1:
        return 1
    return 8 if shape.execs < 4 and not shape.size else 4


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_section_on_random_schedules(section: Section) -> None:
    shapes = [shape for shape in SHAPES if shape.applies(section)]
    turns = [shape for shape in shapes for _ in range(times(shape))]
    for seed in range(1, SCHEDULES + 1):
        hold_once(scenario_of(section, turns[seed % len(turns)], SMALL), seed)
    note_schedules(SCHEDULES)


for _section in SECTIONS:
    case(SUITE, _section.id, f"*-{_section.name}")(test_section_on_random_schedules)


def test_sections_and_shapes_are_those_of_the_catalogue() -> None:
    """Each name once, in 17 shapes but for the skip rules: file-backed memory in threads that do not fork, reading in
    a child, four faults at once without room for them, and an even number of execs."""
    assert (len(SECTIONS), len({section.name for section in SECTIONS})) == (52, 52)
    assert [shape.id for shape in SHAPES] == [f"S{number}" for number in range(1, 18)]
    assert len({shape.prefix for shape in SHAPES}) == 17
    skipped = 2 * 6 + 9 + 11 + 2
    assert len(EVERYTHING) == 52 * 17 - skipped


@pytest.mark.parametrize("name", ["twice-malloc-race", "threads-shared-vm-many-mmap-free", "process-many-malloc"])
def test_one_seed_has_one_trace(name: str) -> None:
    """I5."""
    ((section, shape),) = [pair for pair in EVERYTHING if pair[1].prefix + pair[0].name == name]
    first, again = (
        run(scenario_of(section, shape, SMALL), seed=7, strategy="random", backend="direct", record=True)
        for _ in range(2)
    )
    assert first.failure is None
    assert (first.trace, first.tape) == (again.trace, again.tape)
