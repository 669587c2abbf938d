"""Sections 3 and 4 of the catalogue igt_vm_bind: unbinding and replacing parts of what is bound.

The cases of 32 pages have their own size under the default schedule, and half of it under the random ones.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from cases import case
from igt_bench import BASE, PAGE, SUITE, Bench, Scenario, hold

from svm_actors.world import UserSyncobj, World
from svm_actors.xe.gem import XeBo


@attrs.frozen
class Shape:
    """Parameters of a case."""

    npages: int
    binds: int
    offset: int
    unbound: int


SHAPES = {
    "all": Shape(4, 2, 0, 4),
    "one-partial": Shape(4, 1, 1, 2),
    "either-side-partial": Shape(4, 2, 1, 2),
    "either-side-full": Shape(4, 4, 1, 2),
    "end": Shape(4, 2, 0, 3),
    "front": Shape(4, 2, 1, 3),
    "many-all": Shape(32, 16, 0, 32),
    "many-either-side-partial": Shape(32, 16, 1, 30),
    "many-either-side-full": Shape(32, 32, 8, 16),
    "many-end": Shape(32, 4, 0, 26),
    "many-front": Shape(32, 4, 6, 26),
}
SCALED = {
    "many-all": Shape(16, 8, 0, 16),
    "many-either-side-partial": Shape(16, 8, 1, 14),
    "many-either-side-full": Shape(16, 16, 4, 8),
    "many-end": Shape(16, 4, 0, 13),
    "many-front": Shape(16, 4, 3, 13),
}
MUNMAP = [*SHAPES, *(f"userptr-{name}" for name in list(SHAPES)[:7])]
MMAP = [*list(SHAPES)[:7], "userptr-all", "userptr-one-partial", "userptr-either-side-full"]


class Pieces:
    """Pages bound in equal pieces, to an object or to memory of the process at the same addresses."""

    def __init__(self, bench: Bench, shape: Shape, userptr: bool) -> None:
        self.bench = bench
        self.shape = shape
        self.userptr = userptr
        self.bo: XeBo | None = None
        self.new: XeBo | None = None

    async def bind(self) -> UserSyncobj:
        """Step 1."""
        bench, shape = self.bench, self.shape
        length = shape.npages * PAGE
        each = length // shape.binds
        if self.userptr:
            await bench.process.mmap(length, addr=BASE, fixed=True, shared=True)
        else:
            self.bo = await bench.vm.create_bo(length)
        for start in range(0, length, each):
            bound = await self._bind(start, each)
        return bound

    async def _bind(self, start: int, length: int) -> UserSyncobj:
        if self.bo is None:
            return await self.bench.bind_user(BASE + start, length)
        return await self.bench.bind(BASE + start, self.bo, offset=start, length=length)

    async def fill_hole(self) -> UserSyncobj:
        """Step 5."""
        return await self._bind(self.shape.offset * PAGE, self.shape.unbound * PAGE)

    async def read(self, page: int) -> bytes:
        """What the CPU finds."""
        if self.bo is None:
            return bytes(await self.bench.process.read(BASE + page * PAGE))
        return await self.bo.read(page * PAGE)

    async def store(self, pages: list[int], value: int, bound: UserSyncobj) -> None:
        """A store job per page."""
        for page in pages:
            await self.bench.job(BASE + page * PAGE, bytes([value + page]), bound)
        assert self.bench.last is not None
        await self.bench.last.wait()

    def in_hole(self, page: int) -> bool:
        """Taken out in step 3."""
        return self.shape.offset <= page < self.shape.offset + self.shape.unbound

    def surviving(self) -> int:
        """Mappings after step 3: pieces outside, and those that are cut, once for each side that sticks out."""
        each = self.shape.npages // self.shape.binds
        first, last = self.shape.offset, self.shape.offset + self.shape.unbound
        spans = [(start, start + each) for start in range(0, self.shape.npages, each)]
        return sum((start < first) + (end > last) for start, end in spans if start < last and first < end) + sum(
            end <= first or start >= last for start, end in spans
        )


def hold_in_size(name: str, scenario_of: Callable[[Shape, bool], Scenario]) -> None:
    """Default and random schedules; of a large case the random ones are of half the size."""
    plain = name.removeprefix("userptr-")
    userptr = plain != name
    hold(scenario_of(SCALED.get(plain, SHAPES[plain]), userptr))
    if plain in SCALED:
        hold(scenario_of(SHAPES[plain], userptr), schedules=0)


def munmap(shape: Shape, userptr: bool) -> Scenario:
    """A case of section 3."""

    async def scenario(world: World) -> None:
        pieces = Pieces(await Bench.start(world), shape, userptr)
        bench, wanted = pieces.bench, list(range(shape.binds))
        await pieces.store(wanted, 1, await pieces.bind())
        assert [await pieces.read(page) for page in wanted] == [bytes([1 + page]) for page in wanted]
        gone = await bench.unbind(BASE + shape.offset * PAGE, shape.unbound * PAGE)
        await gone.wait()
        assert bench.mappings() == pieces.surviving()
        left = [page for page in wanted if not pieces.in_hole(page)]
        if left:
            await pieces.store(left, 65, gone)
            assert [await pieces.read(page) for page in left] == [bytes([65 + page]) for page in left]
        await pieces.store(wanted, 129, await pieces.fill_hole())
        assert [await pieces.read(page) for page in wanted] == [bytes([129 + page]) for page in wanted]
        await (await bench.unbind(BASE, shape.npages * PAGE)).wait()
        assert (bench.mappings(), bench.nodes()) == (0, 0)

    return scenario


@pytest.mark.parametrize("name", MUNMAP)
def test_munmap_style_unbind(name: str) -> None:
    hold_in_size(name, munmap)


def mmap(shape: Shape, userptr: bool) -> Scenario:
    """A case of section 4."""
    length, start = shape.unbound * PAGE, shape.offset * PAGE

    async def scenario(world: World) -> None:
        pieces = Pieces(await Bench.start(world), shape, userptr)
        bench, every = pieces.bench, list(range(shape.npages))
        await pieces.store(every[: shape.binds], 1, await pieces.bind())
        before = [await pieces.read(page) for page in every]
        other = 0
        if userptr:
            other = await bench.process.mmap(length, shared=True)
            replaced = world.syncobj()
            await bench.vm.bind_userptr(BASE + start, other, length, syncs=[replaced.sync_out()])
        else:
            new = await bench.vm.create_bo(length)
            replaced = await bench.bind(BASE + start, new)
        await pieces.store(every, 65, replaced)
        for page in every:
            new_page = (page - shape.offset) * PAGE
            if not pieces.in_hole(page):
                assert await pieces.read(page) == bytes([65 + page])
            else:
                assert await pieces.read(page) == before[page]
                found = bench.process.read(other + new_page) if userptr else new.read(new_page)
                assert await found == bytes([65 + page])

    return scenario


@pytest.mark.parametrize("name", MMAP)
def test_mmap_style_bind(name: str) -> None:
    hold_in_size(name, mmap)


for _number, _name in enumerate(MUNMAP, 1):
    case(SUITE, f"M{_number}", f"munmap-style-unbind-{_name}")(test_munmap_style_unbind)
for _number, _name in enumerate(MMAP, 1):
    case(SUITE, f"N{_number}", f"mmap-style-bind-{_name}")(test_mmap_style_bind)

