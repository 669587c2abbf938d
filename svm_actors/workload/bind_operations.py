"""The operations of a program over VM_BIND, numbered: what a shrunk run keeps, and what a story tells.

First come those of the processes and mirroring VMs (:mod:`svm_actors.workload.concurrent_operations`), then the
objects, the clients' operations, and the driver's tasks.  A client whose object is left out cannot map it.
"""

from __future__ import annotations

from collections.abc import Iterator

from svm_actors.workload import bind_programs as bp
from svm_actors.workload import concurrent_operations
from svm_actors.workload.concurrent_operations import Place
from svm_actors.workload.program import Operation


def places(program: bp.BindProgram) -> dict[Place, Operation]:
    """Every operation by its place; the position in the dict is its number."""
    return {**concurrent_operations.places(program.base), **dict(_walk(program))}


def _walk(program: bp.BindProgram) -> Iterator[tuple[Place, Operation]]:
    for number, bo in enumerate(program.bos):
        yield ("bo", number), Operation(f"bo {number}", bo_text(bo))
    for number, client in enumerate(program.clients):
        vm = program.vms[client.vm]
        for index, operation in enumerate(client.operations):
            yield ("client", number, index), Operation(f"client {number} of {vm.mode} vm {client.vm}", text(operation))
    for index, task in enumerate(program.driver):
        yield ("task", index), Operation("driver", task_text(task))


def bo_text(bo: bp.BoProgram) -> str:
    """``create, 2 pages, vram, external``."""
    home = "external" if bo.external else f"local to vm {bo.vm}"
    return f"create, {bo.pages} pages, {bo.placement}, {home}"


def text(operation: bp.Operation) -> str:
    """``bind [map bo 1 to pages 0-2, unmap page 4] on queue 1``."""
    match operation:
        case bp.Bind(changes, queue):
            return f"bind [{', '.join(change_text(change) for change in changes)}] on queue {queue}"
        case bp.Submit(accesses, queue):
            return f"submit [{', '.join(access_text(access) for access in accesses)}] on queue {queue}"
        case bp.Hang(queue, stubborn):
            return f"submit a {'stubborn ' if stubborn else ''}hang on queue {queue}"
        case bp.Stray(queue):
            return f"submit a load from nowhere on queue {queue}"
        case bp.DestroyQueue(queue):
            return f"destroy queue {queue}"
        case bp.Drop(bo):
            return f"close the handle of bo {bo}"
        case bp.Wait():
            return "wait for everything"
        case bp.Unmirror(page, n):
            return f"unmap mirrored {_pages(page, n)}"
        case bp.Remirror(page, n):
            return f"mirror {_pages(page, n)} again"
    return _look_text(operation)


def _look_text(operation: bp.Look) -> str:
    match operation:
        case bp.CpuRead(bo, page):
            return f"read page {page} of bo {bo} by the CPU"
        case bp.CpuWrite(bo, page, value):
            return f"write {value} to page {page} of bo {bo} by the CPU"
        case bp.UserWrite(page, value):
            return f"write {value} to calm page {page} by the CPU"
        case bp.Mirror(page, value, wild):
            what = f"store {value} to" if value else "load"
            return f"{what} {'wild' if wild else 'calm'} page {page} in the mirroring vm"


def change_text(change: bp.Change) -> str:
    """``map bo 1 to pages 0-2``."""
    match change:
        case bp.Map(at, n, bo, offset, read_only):
            mode = ", read-only" if read_only else ""
            return f"map bo {bo} from page {offset} to {_pages(at, n)}{mode}"
        case bp.MapUser(at, n, page):
            return f"map user page {page} to {_pages(at, n)}"
        case bp.MapNull(at, n):
            return f"map null to {_pages(at, n)}"
        case bp.UnmapAll(bo):
            return f"unmap all of bo {bo}"
        case bp.Prefetch(at, n):
            return f"prefetch {_pages(at, n)}"
        case bp.Unmap(at, n):
            return f"unmap {_pages(at, n)}"


def access_text(access: bp.Access) -> str:
    """``store 7 to page 2``."""
    match access.do:
        case "store":
            return f"store {access.value} to page {access.at}"
        case "add":
            return f"count in page {access.at}"
    whose = "" if access.of is None else f", word of client {access.of}"
    return f"load page {access.at}{whose}"


def task_text(task: bp.DriverTask) -> str:
    """``evict up to 2 pages``."""
    match task:
        case bp.EvictPages(n):
            return f"evict up to {n} pages"
        case bp.CloseBindVm(vm):
            return f"close vm {vm}"
        case bp.ResetGt():
            return "reset the GT"


def _pages(first: int, count: int) -> str:
    return f"page {first}" if count == 1 else f"pages {first}-{first + count - 1}"
