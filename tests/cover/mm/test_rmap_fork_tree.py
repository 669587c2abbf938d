"""Reverse mapping across fork: one lock for the whole tree, and every entry is found wherever it moved."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from svm_actors import World
from svm_actors.explore.run import run
from svm_actors.mm.page_table import Entry
from svm_actors.mm.vma import Vma
from svm_actors.world import Process

PAGE = 4096


def holds(scenario: Callable[[World], Coroutine[Any, Any, None]], seeds: range = range(1)) -> None:
    for seed in seeds:
        strategy = "random" if seed else "fifo"
        result = run(scenario, strategy=strategy, seed=seed, backend="direct", step_budget=20_000)
        assert result.failure is None, f"seed {seed}"


def vma_at(process: Process, addr: int) -> Vma:
    vma = process.mm.vmas.find(addr >> 12)
    assert vma is not None
    return vma


def test_a_fork_tree_has_one_lock() -> None:
    async def scenario(world: World) -> None:
        parent = world.process()
        addr = await parent.mmap(PAGE)
        await parent.write(addr, b"x")
        child = await parent.fork()
        grandchild = await child.fork()
        tops = [vma_at(process, addr).anon_vma for process in (parent, child, grandchild)]
        assert len({anon_vma.name for anon_vma in tops if anon_vma is not None}) == 3
        assert all(anon_vma is not None and anon_vma.root is tops[0] for anon_vma in tops)
        assert all(anon_vma is not None and anon_vma.rwsem is tops[0].rwsem for anon_vma in tops if tops[0] is not None)

    holds(scenario)


def test_unrelated_mappings_have_locks_of_their_own() -> None:
    async def scenario(world: World) -> None:
        first, second = world.process(), world.process()
        tops = []
        for process in (first, second):
            addr = await process.mmap(PAGE)
            await process.write(addr, b"x")
            tops.append(vma_at(process, addr).anon_vma)
        assert tops[0] is not None
        assert tops[1] is not None
        assert tops[0].rwsem is not tops[1].rwsem

    holds(scenario)


@pytest.mark.parametrize("change", ["mremap", "split", "fork", "munmap"])
def test_a_walk_keeps_the_tree_as_it_is(change: str) -> None:
    """Whoever links or unlinks a VMA waits until the walker is through."""

    async def scenario(world: World) -> None:
        parent = world.process()
        addr = await parent.mmap(4 * PAGE)
        await parent.write(addr, b"x")
        child = await parent.fork()
        anon_vma = vma_at(parent, addr).anon_vma
        assert anon_vma is not None
        order: list[str] = []

        async def walk() -> None:
            async with anon_vma.rwsem.reading():
                order.append("walking")
                before = list(anon_vma.vmas)
                for _ in range(200):
                    await world.engine.step("local")
                assert anon_vma.vmas == before
                order.append("walked")

        async def change_the_tree() -> None:
            while not order:
                await world.engine.step("local")
            match change:
                case "mremap":
                    await child.mremap(addr, 2 * PAGE, 2 * PAGE, to=addr - 64 * PAGE)
                case "split":
                    await child.mprotect(addr + PAGE, PAGE, "r")
                case "fork":
                    await child.fork()
                case "munmap":
                    await child.munmap(addr, 4 * PAGE)
            order.append("changed")

        async with world.nursery() as nursery:
            nursery.start_soon(walk)
            nursery.start_soon(change_the_tree)
        assert order == ["walking", "walked", "changed"]

    holds(scenario, range(1, 8))


def test_a_page_read_back_by_a_child_is_found_in_the_parent() -> None:
    """The child reads a shared page from swap, the parent maps the same copy: eviction must find both entries."""

    async def scenario(world: World) -> None:
        parent = world.process()
        vm = await world.gpu().create_vm(parent)
        addr = await parent.mmap(PAGE)
        await parent.write(addr, b"x")
        assert await parent.swap_out(addr, PAGE) == 1
        child = await parent.fork()
        assert await child.read(addr) == b"x"
        assert await parent.read(addr) == b"x"
        pages = [process.mm.page_table.get(addr >> 12) for process in (parent, child)]
        assert pages[0] is not None
        assert pages[1] is not None
        assert pages[0].folio is pages[1].folio
        assert await vm.load(addr) == b"x"
        await world.gpu().evict(PAGE)
        kinds = {process.mm.page_table.get(addr >> 12).kind for process in (parent, child)}  # type: ignore[union-attr]
        assert kinds == {Entry.PRESENT}
        assert await child.read(addr) == b"x"

    holds(scenario)


def test_a_copied_page_leaves_the_swap_cache_with_its_last_user() -> None:
    """Whoever copies a page on write takes it out of the swap cache when nobody needs it there any more."""

    async def scenario(world: World) -> None:
        parent = world.process()
        addr = await parent.mmap(PAGE)
        await parent.write(addr, b"x")
        await parent.swap_out(addr, PAGE)
        child = await parent.fork()
        assert await parent.read(addr) == b"x"
        async with world.nursery() as nursery:
            nursery.start_soon(child.exit)
            nursery.start_soon(parent.write, addr, b"y")
        assert await parent.read(addr) == b"y"

    holds(scenario, range(1, 200))
