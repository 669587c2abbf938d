"""At rest, a mirror's entries name what the CPU entries name, with no more permission (INV-03, INV-04).

An entry of a page in the mirror's own device memory names the page behind it.  An entry of exclusive access is there
only while the CPU entry is a device-exclusive one: any CPU access takes both away.

The stock driver stores entries nobody has validated (HM-D02, HM-D05), so only mended mirrors are judged.
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mirror.memory import backing_of
from svm_actors.mirror.mended import MendedMirror
from svm_actors.mirror.page_table import MirrorEntry, Tag
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.mm.page_table import Entry, Pte

ORACLE = "mirrors"


def check_mirrors(world: Any) -> None:
    """Walk every open mirror; raise at the first disagreement."""
    for mirror in world.mirrors:
        if isinstance(mirror, MendedMirror) and not mirror.closed:
            _check(mirror)


def _check(mirror: MendedMirror) -> None:
    at = 0
    while (found := mirror.pt.next_from(at, TASK_PAGES)) is not None:
        vpn, entry = found
        at = vpn + 1
        _check_entry(mirror, f"{mirror.name} maps page {vpn:#x}", entry, mirror.mm.page_table.get(vpn))


def _check_entry(mirror: MendedMirror, where: str, entry: MirrorEntry, pte: Pte | None) -> None:
    kinds = (Entry.DEVICE_EXCLUSIVE,) if entry.tag is Tag.ATOMIC else (Entry.PRESENT, Entry.DEVICE_PRIVATE)
    if pte is None or pte.kind not in kinds:
        state = "has nothing there" if pte is None else f"has {pte.kind.value}"
        raise PropertyFailed(ORACLE, "INV-03", f"{where} ({entry.tag.name.lower()}), the CPU {state}")
    folio = backing_of(pte.folio) if pte.folio.owner is mirror.device else pte.folio
    if entry.folio is not folio or entry.generation != folio.generation:
        raise PropertyFailed(ORACLE, "INV-03", f"{where} to {entry.folio.name}, the CPU to {folio.name}")
    if entry.tag is Tag.WRITABLE and not pte.writable:
        raise PropertyFailed(ORACLE, "INV-04", f"{where} writable, the CPU read-only")
