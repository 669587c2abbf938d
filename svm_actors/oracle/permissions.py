"""At rest, no CPU entry lets more be done than the VMA it lies in (core_mm section 5, mprotect; MM-R16).

mprotect changes the VMA first and the entries under an event; an entry that was in migration meanwhile must come back
as mprotect left it.  A writable entry in a mapping that may not be written is a store that should have faulted.
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.constants import Vm
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Entry

ORACLE = "permissions"


def check_permissions(world: Any) -> None:
    """Walk every address space; raise at the first entry with a permission too many."""
    for mm in world.core.mms.values():
        _check(mm)


def _check(mm: Mm) -> None:
    for vpn, pte in mm.page_table.items():
        if pte.kind is Entry.SWAP or not pte.writable:
            continue
        vma = mm.vmas.find(vpn)
        if vma is None or not vma.flags & Vm.WRITE:
            place = "no mapping" if vma is None else f"{vma.name}, which is not"
            raise PropertyFailed(ORACLE, "MM-R16", f"{mm.name} page {vpn:#x} is writable in {place}")
