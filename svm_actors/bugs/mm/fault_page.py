"""MM-B01, MM-B03, MM-B04, MM-B10, MM-R07: how a CPU fault holds a device page (core_mm sections 10 and 11).

A fault locks the page, then references it; everybody else sleeps on the lock and holds nothing.
"""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function, together
from svm_actors.engine.errors import EFAULT
from svm_actors.engine.locks import Mutex
from svm_actors.engine.parts import Deviate, Parts
from svm_actors.mm import memory
from svm_actors.mm.core import CoreMm
from svm_actors.mm.folio import Folio
from svm_actors.mm.memory import Fault
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.messages import SIGBUS
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Pte
from svm_actors.mm.vma import Vma

STORY = "readers-of-a-device-page"


# -- the order of lock and reference -------------------------------------------------------------


def reference_first(locks: dict[str, Mutex]) -> Deviate:
    """do_swap_page before 6.15: every fault references the page, and the driver makes them queue."""

    async def fault(core: CoreMm, vma: Vma, vpn: int, seen: Pte, write: bool, vma_locked: bool) -> Fault:
        if vma_locked:
            return Fault.RETRY
        folio: Folio = seen.folio
        await core.engine.step("get", folio)
        if vma.mm.page_table.get(vpn) != seen:
            return Fault.DONE
        folio.get("fault")
        lock = locks.setdefault(core.name, Mutex(core.engine, "migrate_to_ram", "migrate_to_ram"))
        await lock.acquire()
        try:
            await folio.lock.acquire()
            assert folio.pgmap is not None
            await folio.pgmap.ops.migrate_to_ram(VmFault(vma.mm, vma, vpn, write, folio))
        except EFAULT:
            raise SIGBUS from None
        finally:
            if not core.engine.closing:
                folio.lock.release()
                lock.release()
        await core.engine.step("put", folio)
        folio.put("fault")
        return Fault.DONE

    return lambda _original: fault


def plant_reference_first(parts: Parts) -> None:
    """With one driver lock per machine."""
    parts.replace(memory.device_private_fault, reference_first({}))


MM_B01 = Bug(
    id="MM-B01",
    title="a fault references the device page before it locks it, and queues with the reference",
    removes="memory.device_private_fault",
    races=("MM-R07", "SVM-R13"),
    oracles=("migrations/MM-R07", "liveness"),
    story=STORY,
    plant=plant_reference_first,
)


async def put_then_unlock(core: CoreMm, folio: Folio) -> None:
    """The page may be free, and its lock bit somebody else's, by the time it is unlocked."""
    await core.engine.step("put", folio)
    folio.put("fault")
    folio.lock.release()


MM_B03 = Bug(
    id="MM-B03",
    title="the fault drops its reference before it unlocks the page",
    removes="memory.release_fault_page",
    races=("MM-R07",),
    oracles=("lifetime/INV-08",),
    story=STORY,
    plant=replace_function(memory.release_fault_page, put_then_unlock),
)


# -- no reference at all -----------------------------------------------------------------------


def no_reference(_folio: Folio) -> None:
    """Nothing but the entry keeps the page, and the callback takes that away."""


async def unlock_only(_core: CoreMm, folio: Folio) -> None:
    """There is nothing to put."""
    folio.lock.release()


MM_B04 = Bug(
    id="MM-B04",
    title="migrate_to_ram is called without a reference on the page",
    removes="memory.hold_fault_page",
    races=("MM-R07", "MM-R08"),
    oracles=("lifetime/INV-08", "lifetime/INV-05", "fault_pages/RULE-03"),
    story=STORY,
    plant=together(
        replace_function(memory.hold_fault_page, no_reference),
        replace_function(memory.release_fault_page, unlock_only),
    ),
)


def whatever_it_is_now(_vma: Vma, _vpn: int, _seen: Pte) -> bool:
    """The page of a moment ago, although it may have gone home, been freed and be another one's."""
    return True


MM_R07 = Bug(
    id="MM-R07",
    title="a fault locks and references the page it saw without looking at the entry again",
    removes="memory.is_same_entry",
    races=("MM-R07",),
    oracles=("lifetime/INV-05",),
    story=STORY,
    plant=replace_function(memory.is_same_entry, whatever_it_is_now),
)


# -- waiting for a migration ---------------------------------------------------------------------


async def wait_with_reference(core: CoreMm, mm: Mm, vpn: int, seen: Pte) -> None:
    """Everybody who waits for the migration is a reason for it to fail."""
    await core.engine.step("pte_read", mm.page_table, vpn)
    if mm.page_table.get(vpn) == seen:
        seen.folio.get("wait")
        await seen.folio.lock.wait_clear()
        seen.folio.put("wait")


MM_B10 = Bug(
    id="MM-B10",
    title="those who wait for a migrating page hold a reference on it",
    removes="memory.migration_entry_wait",
    races=("MM-R11", "MM-R24"),
    oracles=("migrations/MM-R11",),
    story="migration-met-by-readers",
    plant=replace_function(memory.migration_entry_wait, wait_with_reference),
)
