"""The operations of a concurrent program, numbered: what a shrunk run keeps, and what a story tells.

The order is that of the program's text: per process its set-up and its threads, a forked child's actions right after
the fork; then the VMs, the GPU accesses by stream, and the driver's own work.  Creating a VM is an operation too:
without it the accesses of its streams have nowhere to go and are left out with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from svm_actors.workload import concurrent_programs as cp
from svm_actors.workload.program import Operation

Place = tuple[str, *tuple[int, ...]]
"""Where an operation stands: a kind of place and indexes into the program."""


def places(program: cp.RandomProgram) -> dict[Place, Operation]:
    """Every operation by its place; the position in the dict is its number."""
    return dict(_walk(program))


def _walk(program: cp.RandomProgram) -> Iterator[tuple[Place, Operation]]:
    for process, entry in enumerate(program.processes):
        for index, action in enumerate(entry.setup):
            yield ("setup", process, index), Operation(f"p{process} before", action_text(action))
        for thread, actions in enumerate(entry.threads):
            for index, each in enumerate(actions):
                who = f"p{process} thread {thread}"
                yield ("thread", process, thread, index), Operation(who, action_text(each))
                yield from _child((process, thread, index), each)
    for index, vm in enumerate(program.vms):
        yield ("vm", index), Operation(f"vm {index}", f"create, on gpu {vm.gpu}, for p{vm.process}")
    for index, stream in enumerate(program.streams):
        for number, access in enumerate(stream.accesses):
            yield ("stream", index, number), Operation(f"gpu stream {index} of vm {stream.vm}", access_text(access))
    for index, work in enumerate(program.driver):
        yield ("driver", index), Operation("driver", driver_text(work))


def _child(at: tuple[int, int, int], action: cp.ThreadAction) -> Iterator[tuple[Place, Operation]]:
    """The actions of a child, if this forks one."""
    if isinstance(action, cp.Fork):
        for index, each in enumerate(action.actions):
            yield ("child", *at, index), Operation(f"child of p{at[0]} thread {at[1]}", action_text(each))


def action_text(action: cp.ThreadAction) -> str:
    """``mremap pages 0-1 to page 2``."""
    if isinstance(action, cp.Fork):
        return "fork"
    pages = _pages(action)
    match action:
        case cp.Mmap(prot=prot, share=share):
            return f"mmap {pages}, {prot}, {share}"
        case cp.Mremap(to=to):
            return f"mremap {pages} to page {to}"
        case cp.Mprotect(prot=prot):
            return f"mprotect {pages} {prot}"
        case cp.Madvise(advice=advice):
            return f"madvise {pages} {advice}"
        case cp.Reclaim():
            return f"reclaim {pages} (swap out)"
        case cp.Write(value=value):
            return f"write {value} to {pages}"
        case cp.Read():
            return f"read {pages}"
    return f"munmap {pages}"


def access_text(access: cp.Access) -> str:
    """``store 20 to page 0``."""
    match access:
        case cp.Store(page=page, value=value):
            return f"store {value} to page {page}"
        case cp.AtomicAdd(page=page, value=value):
            return f"atomic add of {value} to page {page}"
    return f"load page {access.page}"


def driver_text(work: cp.DriverWork) -> str:
    """``evict up to 2 pages from the gpu of vm 0``."""
    if isinstance(work, cp.CloseVm):
        return f"close vm {work.vm}"
    return f"evict up to {work.n} pages from the gpu of vm {work.vm}"


def _pages(action: cp.ChildAction) -> str:
    count = getattr(action, "n", 1)
    return f"page {action.page}" if count == 1 else f"pages {action.page}-{action.page + count - 1}"
