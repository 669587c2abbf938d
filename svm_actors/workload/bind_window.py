"""A client's window of a VM: what it has mapped where, page by page, and whether the VM agrees.

The map of pages is the specification of MAP and UNMAP, as sets of pages (INV-VMB-02).  After every bind the VM's
mappings in the window are compared with it: a call that succeeded has done exactly what was asked, one that failed
has changed nothing (INV-VMB-08).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from svm_actors.engine.errors import PropertyFailed
from svm_actors.workload import bind_programs as bp
from svm_actors.workload.bind_memory import ORACLE, Place
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from svm_actors.world import BindVm
    from svm_actors.xe.bind_vma import XeBindVma
    from svm_actors.xe.gem import XeBo


@attrs.frozen
class Target:
    """Where a page of a window leads."""

    place: Place | None
    """Object or process, and page; None for a null mapping."""
    bo: int | None = None
    """Number of the object."""
    read_only: bool = False
    atomic: bool = False
    """Additions work."""
    known: bool = True
    """Its bytes are known; not those of memory that CPU threads unmap."""


Pages = dict[int, Target]


class Window:
    """The pages one client has mapped."""

    def __init__(self, vm: BindVm, first: int, bos: dict[int, XeBo], process: str, user: int, calm: int) -> None:
        self.vm = vm
        self.first = first
        """First page of the window in the VM."""
        self.bos = bos
        """Objects the client may map, by their number in the program."""
        self.process = process
        """Name of the process, in places."""
        self.user = user
        """Page of the process at which the arena begins."""
        self.calm = calm
        """First page of the arena whose bytes are known."""
        self.pages: Pages = {}

    # -- what a bind asks for --------------------------------------------------------------

    def operations(self, changes: Sequence[bp.Change], alone: Container[int]) -> tuple[list[BindOp], Pages]:
        """The ioctl's operations, and the window after them; ``alone``: objects that only this client has.

        What cannot be said, such as a MAP of an object that is gone, is left out.
        """
        ops: list[BindOp] = []
        after = dict(self.pages)
        for change in changes:
            op = self._operation(change, after, alone)
            if op is not None:
                ops.append(op)
        return ops, after

    def _operation(self, change: bp.Change, after: Pages, alone: Container[int]) -> BindOp | None:
        match change:
            case bp.Map(at, n, number, offset, read_only):
                return self._map(after, at, n, number, offset, read_only)
            case bp.MapUser(at, n, page):
                for index in range(n):
                    after[at + index] = Target((self.process, page + index), known=page + index >= self.calm)
                return BindOp(BindKind.MAP_USERPTR, self.first + at, n, offset=self.user + page)
            case bp.MapNull(at, n):
                after.update((page, Target(None)) for page in range(at, at + n))
                return BindOp(BindKind.MAP, self.first + at, n, flags=BindFlag.NULL)
            case bp.Unmap(at, n):
                for page in range(at, at + n):
                    after.pop(page, None)
                return BindOp(BindKind.UNMAP, self.first + at, n)
            case bp.UnmapAll(number):
                return self._unmap_all(after, number) if number in alone else None
            case bp.Prefetch(at, n):
                return BindOp(BindKind.PREFETCH, self.first + at, n)

    def _map(self, after: Pages, at: int, n: int, number: int, offset: int, read_only: bool) -> BindOp | None:
        bo = self.bos.get(number)
        if bo is None:
            return None
        offset %= bo.npages
        n = min(n, bo.npages - offset)
        for index in range(n):
            place = (bo.name, offset + index)
            after[at + index] = Target(place, number, read_only, atomic=bo.placement == "vram" and not read_only)
        flags = BindFlag.READONLY if read_only else 0
        return BindOp(BindKind.MAP, self.first + at, n, bo, offset, flags)

    def _unmap_all(self, after: Pages, number: int) -> BindOp | None:
        bo = self.bos.get(number)
        if bo is None:
            return None
        for page in [page for page, target in after.items() if target.bo == number]:
            del after[page]
        return BindOp(BindKind.UNMAP_ALL, bo=bo)

    def only_new(self, changes: Sequence[bp.Change]) -> bool:
        """Nothing is mapped where they change something, so no job can be using it.

        It does not matter whether the same is mapped again: its entries may be gone for a moment.
        """
        spans = [range(change.at, change.at + change.n) for change in changes if not isinstance(change, bp.UnmapAll)]
        return len(spans) == len(changes) and not any(page in self.pages for span in spans for page in span)

    # -- what the VM says --------------------------------------------------------------------

    def check(self, rule: str, what: str) -> None:
        """Raise when the VM's mappings in the window are not these."""
        if self.vm.vm.closed:
            return
        found = self._found()
        wanted = {page: (target.place, target.read_only) for page, target in self.pages.items()}
        if found != wanted:
            wrong = sorted(page for page in {*found, *wanted} if found.get(page) != wanted.get(page))
            page = wrong[0]
            text = f"after {what} page {page} of the window at {self.first:#x} of {self.vm.vm.name} is mapped to"
            raise PropertyFailed(ORACLE, rule, f"{text} {found.get(page)}, not to {wanted.get(page)}")

    def _found(self) -> dict[int, tuple[Place | None, bool]]:
        pages: dict[int, tuple[Place | None, bool]] = {}
        for vma in self.vm.vm.vmas():
            for index in range(vma.range):
                page = vma.addr + index - self.first
                if 0 <= page < bp.WINDOW:
                    pages[page] = (self._place(vma, index), vma.read_only)
        return pages

    def _place(self, vma: XeBindVma, index: int) -> Place | None:
        if vma.bo is not None:
            return vma.bo.name, vma.offset + index
        if vma.userptr is not None:
            return self.process, vma.userptr.start + index - self.user
        return None
