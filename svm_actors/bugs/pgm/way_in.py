"""Deviations of the way into device memory (pagemap section 3, M1 to M10).

All or nothing: what is not collected, not committed or comes from elsewhere ends the call with -EBUSY, the allocation
reference is consumed in every outcome, and the deadline is there before the pages are.
"""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.pagemap import DrmPagemap, PopulateMm
from svm_actors.drm.pagemap_dma import DmaBatch
from svm_actors.drm.pagemap_migrate import MigrateDetails, ToDevmem
from svm_actors.drm.pagemap_util import Owner, OwnerList, Peer
from svm_actors.drm.pagemap_zdd import Devmem
from svm_actors.engine.errors import EBUSY, EFAULT, KernelError
from svm_actors.mm.migrate_types import MigratePfn, MigrateVma
from svm_actors.mm.mm_struct import Mm
from svm_actors.xe.bo import Bo
from svm_actors.xe.migrate import Migrate
from svm_actors.xe.pagemap import XePagemap


def keeps_the_reference(_way: ToDevmem, _devmem: Devmem) -> None:
    """The caller will see to it."""


def releases_again(original: type[ToDevmem]) -> type[ToDevmem]:
    """A subclass that lets go of the allocation on an error, whoever has done so already."""

    class ReleasesAgain(original):  # type: ignore[misc, valid-type]
        async def run(self, devmem: Devmem, mm: Mm, start: int, end: int, details: MigrateDetails) -> None:
            try:
                await super().run(devmem, mm, start, end, details)
            except KernelError:
                devmem.release()
                raise

    return ReleasesAgain


def no_deadline(_way: ToDevmem, _devmem: Devmem, _details: MigrateDetails) -> None:
    """The allocation's old deadline, which has passed, will do."""


def deadline_last(original: type[ToDevmem]) -> type[ToDevmem]:
    """A subclass that sets the deadline when everything is through."""

    class DeadlineLast(original):  # type: ignore[misc, valid-type]
        def set_expiration(self, devmem: Devmem, details: MigrateDetails) -> None:
            return

        async def run(self, devmem: Devmem, mm: Mm, start: int, end: int, details: MigrateDetails) -> None:
            await super().run(devmem, mm, start, end, details)
            super().set_expiration(devmem, details)

    return DeadlineLast


def never_short(_way: ToDevmem, _args: MigrateVma) -> KernelError | None:
    """What was wanted is what was moved."""
    return None


def takes_a_part(original: type[ToDevmem]) -> type[ToDevmem]:
    """A subclass that moves what it could collect, and is satisfied when all of that has moved."""

    class TakesPart(original):  # type: ignore[misc, valid-type]
        def require_all_collected(self, args: MigrateVma) -> None:
            args.cpages = sum(entry.migrate for entry in args.src)

        def judge_moved(self, args: MigrateVma) -> KernelError | None:
            return None if sum(entry.migrate for entry in args.src) == args.cpages else EBUSY()

    return TakesPart


def one_batch(_way: ToDevmem, _index: int, _first: int, _copier: object, _source: object) -> bool:
    """Whoever copies the first page copies all of them."""
    return False


async def rejects_device_pages(batch: DmaBatch, _peer: DrmPagemap, _folios: object, _direction: object) -> None:
    """Only RAM can be mapped."""
    await batch._begin()
    raise EFAULT


async def without_mmap_lock(pagemap: DrmPagemap, message: PopulateMm) -> None:
    """The mm is alive; that must do."""
    await pagemap.ops.populate_mm(pagemap, message.mm, message.start, message.end, message.timeslice_ns)


def unlocks_early(original: type[XePagemap]) -> type[XePagemap]:
    """A subclass that lets go of the BO before it is filled."""

    class UnlocksEarly(original):  # type: ignore[misc, valid-type]
        def take_migration_reference(self, bo: Bo) -> None:
            super().take_migration_reference(bo)
            bo.unlock()

        def let_go(self, bo: Bo) -> None:
            return

    return UnlocksEarly


def no_dependency(_migrate: Migrate, _fence: Fence | None) -> Fence | None:
    """The destination is as good as idle."""
    return None


async def not_waited_for(_migrate: Migrate, _last: Fence) -> None:
    """It will be through in time."""


def any_member(owners: OwnerList, peer: Peer, owner: Owner) -> bool:
    """One member that can be reached will do."""
    return any(owners.has_interconnect(peer.gpu, member.gpu) for member in owner.peers)


def stays_open(pagemap: XePagemap) -> None:
    """drm_dev_enter without a look at whether the device is still there."""
    pagemap._inside += 1


def not_retired(_way: ToDevmem, _src: list[MigratePfn]) -> None:
    """As 7.3.4: only the way home marks its sources."""


PGM_B32 = Bug(
    id="PGM-B32",
    title="an early error of a migration to device memory does not consume the allocation reference",
    removes="ToDevmem.refuse",
    races=("PGM-R34", "RULE-59"),
    oracles=("leaks",),
    story="populate-and-unmap",
    plant=replace_guard(ToDevmem, "refuse", keeps_the_reference),
)

PGM_R34 = Bug(
    id="PGM-R34",
    title="every error of a migration to device memory drops the allocation reference, also when the zone data has it",
    removes="ToDevmem.run",
    races=("PGM-R34",),
    oracles=("lifetime/RULE-41",),
    story="populate-what-comes-home",
    plant=replace_part(ToDevmem, releases_again),
)

PGM_B33 = Bug(
    id="PGM-B33",
    title="a new allocation keeps the deadline it has",
    removes="ToDevmem.set_expiration",
    races=("PGM-R24",),
    oracles=("migrations/RULE-47",),
    story="fault-in-a-timeslice",
    plant=replace_guard(ToDevmem, "set_expiration", no_deadline),
)

PGM_R24 = Bug(
    id="PGM-R24",
    title="the deadline of an allocation is set when CPU entries name its pages already",
    removes="ToDevmem.set_expiration",
    races=("PGM-R24",),
    oracles=("migrations/RULE-47",),
    story="fault-in-a-timeslice",
    plant=replace_part(ToDevmem, deadline_last),
)

PGM_B39 = Bug(
    id="PGM-B39",
    title="pages that were not committed in the end are reported as moved",
    removes="ToDevmem.judge_moved",
    races=("PGM-R06", "PGM-R22"),
    oracles=("migrations/RULE-58",),
    story="populate-untouched-memory",
    plant=replace_guard(ToDevmem, "judge_moved", never_short),
)

PGM_B54 = Bug(
    id="PGM-B54",
    title="a migration to device memory takes the part of the range it could collect for the range",
    removes="ToDevmem.require_all_collected",
    races=("PGM-R02",),
    oracles=("migrations/RULE-58",),
    story="populate-what-comes-home",
    plant=replace_part(ToDevmem, takes_a_part),
)

PGM_B50 = Bug(
    id="PGM-B50",
    title="pages of two devices are copied in one batch",
    removes="ToDevmem.copier_changes",
    races=("PGM-R23",),
    oracles=("lifetime", "model"),
    story="half-from-another-device",
    plant=replace_guard(ToDevmem, "copier_changes", one_batch),
)

PGM_B12 = Bug(
    id="PGM-B12",
    title="device pages of a peer cannot be mapped for a copy",
    removes="DmaBatch.map_peer",
    races=("PGM-R05",),
    oracles=("scenario",),
    story="device-to-device",
    plant=replace_guard(DmaBatch, "map_peer", rejects_device_pages),
)
"""A page of one GPU never gets to another one but through RAM."""

PGM_B53 = Bug(
    id="PGM-B53",
    title="memory is brought to the device without mmap_lock",
    removes="DrmPagemap.populate_locked",
    races=("SVM-R17", "RULE-08"),
    oracles=("engine", "lifetime"),
    story="populate-and-unmap",
    plant=replace_guard(DrmPagemap, "populate_locked", without_mmap_lock),
)
"""The VMA of the window may go at any time; the lock checker sees the first look at it."""

PGM_B43 = Bug(
    id="PGM-B43",
    title="the reservation of a BO is let go before its pages have been put there",
    removes="XePagemap.let_go",
    races=("PGM-R04",),
    oracles=("migrations/RULE-55",),
    story="populate-what-comes-home",
    plant=replace_part(XePagemap, unlocks_early),
)

PGM_B08 = Bug(
    id="PGM-B08",
    title="a copy into fresh device memory does not wait for its clear",
    removes="Migrate.dependency",
    races=("PGM-R08",),
    oracles=("coherence", "scenario"),
    story="device-to-device",
    plant=replace_guard(Migrate, "dependency", no_dependency),
)
"""The clear is the target's job, the copy the source's; a clear that lands late wipes the copy."""

PGM_R25 = Bug(
    id="PGM-R25",
    title="entries change when the copy has been submitted",
    removes="Migrate.wait_copy",
    races=("PGM-R25", "SVM-R16"),
    oracles=("coherence", "lifetime", "scenario", "copies/INV-15"),
    story="populate-and-write",
    plant=replace_guard(Migrate, "wait_copy", not_waited_for),
)

PGM_B42 = Bug(
    id="PGM-B42",
    title="a device joins an owner group if it reaches any member",
    removes="OwnerList.reaches_all",
    races=(),
    oracles=("lifetime/RULE-18",),
    story="chain-of-devices",
    plant=replace_guard(OwnerList, "reaches_all", any_member),
)
"""Pages of one that it does not reach count as within reach, and the copy finds no path."""

PGM_B52 = Bug(
    id="PGM-B52",
    title="memory is brought to a device that has been removed",
    removes="XePagemap.enter_device",
    races=("PGM-R28", "SVM-R34"),
    oracles=("lifetime", "scenario"),
    story="unbind-and-populate",
    plant=replace_guard(XePagemap, "enter_device", stays_open),
)

PGM_S11 = Bug(
    id="PGM-S11",
    title="device pages moved to another device are not marked, and can be evicted once more",
    removes="ToDevmem.retire_sources",
    races=("PGM-R21",),
    oracles=("migrations/RULE-53",),
    story="device-to-device-and-eviction",
    plant=replace_guard(ToDevmem, "retire_sources", not_retired),
)
"""As 7.3.4 does.  An eviction of the source that locks such a page before it is put makes an orphan of the copy."""
