"""Deviations of fault service: locks, the way out of it, and where pages must be (gpusvm section 5)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import attrs

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.drm.gpusvm import DrmGpusvm
from svm_actors.drm.gpusvm_range import GpusvmCtx, GpusvmNotifier, GpusvmRange
from svm_actors.drm.pagemap import DrmPagemap
from svm_actors.engine.errors import ENOENT, EPERM
from svm_actors.gpu.fault import Access
from svm_actors.mm.constants import Vm
from svm_actors.mm.vma import Vma
from svm_actors.xe.pagefault import Pagefaults
from svm_actors.xe.svm import XeSvm
from svm_actors.xe.svm_fault import PAGES_64K, SvmFault
from svm_actors.xe.svm_host import SvmHost
from svm_actors.xe.svm_range import XeSvmRange
from svm_actors.xe.vm_attr import Atomic


def anywhere(_svm: XeSvm, _access: Access, _allowed: Atomic = Atomic.UNDEFINED) -> bool:
    """Atomics make no demand on placement."""
    return False


def no_timeslice(_fault: SvmFault) -> int:
    """However often it is tried."""
    return 0


def anywhere_will_do(_fault: SvmFault, _range: XeSvmRange, _target: DrmPagemap | None) -> bool:
    """A range that is bound is good for every access."""
    return True


async def always_populated(
    _gpusvm: DrmGpusvm, _notifier: GpusvmNotifier, _start: int, _end: int, _ctx: GpusvmCtx
) -> bool:
    """The VMA is large enough, so the chunk is good."""
    return True


def any_vma(gpusvm: DrmGpusvm, vpn: int, ctx: GpusvmCtx) -> Vma:
    """There is a VMA, and it permits the access; what is behind it turns out later."""
    vma = gpusvm.mm.find_vma(vpn)
    if vma is None:
        raise ENOENT
    if not ctx.read_only and not vma.flags & Vm.WRITE:
        raise EPERM
    return vma


def with_64k_itself(fault: SvmFault, range_: XeSvmRange) -> bool:
    """Up to and including."""
    return fault.vm.device.needs_64k and range_.npages <= PAGES_64K


def pretend_success(_fault: SvmFault) -> bool:
    """The access is replayed, and faults again."""
    return True


def only_do_not_migrate(fault: SvmFault, target: DrmPagemap | None) -> GpusvmCtx:
    """System memory is preferred, and all that comes of it is that nothing is migrated to the device."""
    return attrs.evolve(SvmFault._ctx(fault, target), device_private_page_owner=fault.vm.owner)


def shared(_pagefaults: Pagefaults, vm: SvmHost) -> AbstractAsyncContextManager[object]:
    """Faults of one VM look at its trees at the same time."""
    return vm.lock.reading()


async def without_notifier_lock(
    gpusvm: DrmGpusvm, notifier: GpusvmNotifier, range_: GpusvmRange, fresh: bool
) -> None:
    """The driver's lock is held; that a callback walks the tree is not thought of."""
    gpusvm._insert_range(notifier, range_)
    if fresh:
        gpusvm.root[notifier.start] = notifier


SVM_B07 = Bug(
    id="SVM-B07",
    title="an atomic fault is served with system pages, on which the device can do no atomics",
    removes="XeSvm.needs_vram",
    races=(),
    oracles=("svm",),
    story="an-atomic-on-system-memory",
    plant=replace_guard(XeSvm, "needs_vram", anywhere),
)

SVM_B08 = Bug(
    id="SVM-B08",
    title="pages that an atomic has brought to device memory may be taken back at once",
    removes="SvmFault.first_timeslice",
    races=("SVM-R10", "RULE-11"),
    oracles=("svm/SVM-R10",),
    story="the-cpu-wants-it-back",
    plant=replace_guard(SvmFault, "first_timeslice", no_timeslice),
)

SVM_B09 = Bug(
    id="SVM-B09",
    title="a range that is bound counts as good for an atomic wherever its pages are",
    removes="SvmFault.is_in_place",
    races=("SVM-R10",),
    oracles=("svm",),
    story="an-atomic-on-system-memory",
    plant=replace_guard(SvmFault, "is_in_place", anywhere_will_do),
)

SVM_B12 = Bug(
    id="SVM-B12",
    title="a range of exactly 64 KiB counts as too small for device memory that comes in 64 KiB",
    removes="SvmFault.is_too_small",
    races=(),
    oracles=("svm/SVM-B12",),
    story="device-memory-in-64k",
    plant=replace_guard(SvmFault, "is_too_small", with_64k_itself),
)

SVM_B16 = Bug(
    id="SVM-B16",
    title="pages stay in device memory although system memory is preferred",
    removes="SvmFault._ctx",
    races=("SVM-R55",),
    oracles=("svm",),
    story="system-memory-is-preferred",
    plant=replace_guard(SvmFault, "_ctx", only_do_not_migrate),
)

SVM_B28 = Bug(
    id="SVM-B28",
    title="a range of 64 KiB is made over memory that the CPU has hardly touched",
    removes="DrmGpusvm.check_pages",
    races=("SVM-R54",),
    oracles=("svm/SVM-R54",),
    story="a-small-allocation",
    plant=replace_guard(DrmGpusvm, "check_pages", always_populated),
)

SVM_B33 = Bug(
    id="SVM-B33",
    title="a fault on memory of a device is tried again and again",
    removes="DrmGpusvm.check_vma",
    races=("SVM-R53",),
    oracles=("ranges/SVM-R53",),
    story="a-fault-on-device-registers",
    plant=replace_guard(DrmGpusvm, "check_vma", any_vma),
)

SVM_B32 = Bug(
    id="SVM-B32",
    title="an atomic that no retry can serve is acknowledged as served, for ever",
    removes="SvmFault.refuse_atomic",
    races=("SVM-R53",),
    oracles=("svm",),
    story="an-atomic-on-a-file",
    plant=replace_guard(SvmFault, "refuse_atomic", pretend_success),
)

SVM_B44 = Bug(
    id="SVM-B44",
    title="a range enters the tree without notifier_lock",
    removes="DrmGpusvm.insert_range",
    races=("SVM-R07", "RULE-14"),
    oracles=("engine",),
    story="unmap",
    plant=replace_guard(DrmGpusvm, "insert_range", without_notifier_lock),
)
"""Noticed by the assertion, as the kernel's would: that an insertion here is one step hides what it protects."""

SVM_B45 = Bug(
    id="SVM-B45",
    title="faults of one VM are served with its lock held for read",
    removes="Pagefaults.exclusive",
    races=("SVM-R08",),
    oracles=("engine",),
    story="unmap",
    plant=replace_guard(Pagefaults, "exclusive", shared),
)
"""Noticed by the assertion that find_or_insert begins with."""
