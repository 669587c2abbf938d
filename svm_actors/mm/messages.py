"""What can be asked of the core MM actor.

System calls take byte addresses as user space passes them; everything for drivers is in pages.
Errors are kernel errors raised in the caller; signals are :class:`Signal`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from svm_actors.engine.actor import Message
from svm_actors.engine.errors import KernelError
from svm_actors.mm.constants import Prot
from svm_actors.mm.folio import Folio
from svm_actors.mm.hmm_types import HmmRange
from svm_actors.mm.migrate_types import MigratePfn, MigrateVma
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import IntervalNotifier
from svm_actors.mm.plain_notifier import MmuNotifier

if TYPE_CHECKING:
    from svm_actors.mm.memremap import DevPagemap


class Signal(KernelError):
    """A fault that kills the access: SIGSEGV or SIGBUS."""


class SIGSEGV(Signal):
    """No VMA, or it forbids the access."""

    errno = 11


class SIGKILL(Signal):
    """The process has been killed: its thread ends on its way back to user space."""

    errno = 9


class SIGBUS(Signal):
    """The VMA exists but the page cannot be had."""

    errno = 7


# -- system calls -------------------------------------------------------------------------


@attrs.frozen
class Mmap(Message[int]):
    """mmap; answers the address."""

    mm: Mm
    """Caller's address space."""
    addr: int
    """Hint, or the address with ``fixed``."""
    length: int
    """Bytes, rounded up to pages."""
    prot: Prot
    """Protection."""
    shared: bool = False
    """MAP_SHARED."""
    fixed: bool = False
    """MAP_FIXED: replaces what is there."""
    noreplace: bool = False
    """MAP_FIXED_NOREPLACE: -EEXIST when something is there."""
    file: Any = None
    """A file object for file mappings; None is anonymous."""
    offset: int = 0
    """Page offset in the file."""
    huge: bool = False
    """MAP_HUGETLB: pages of 2 MiB; length and, with ``fixed``, address are multiples of that."""


@attrs.frozen
class Mlock(Message[None]):
    """mlock."""

    mm: Mm
    """Caller's address space."""
    addr: int
    """Rounded down to a page."""
    length: int
    """Bytes; the end is rounded up."""


@attrs.frozen
class Munlock(Message[None]):
    """munlock."""

    mm: Mm
    """Caller's address space."""
    addr: int
    """Rounded down to a page."""
    length: int
    """Bytes; the end is rounded up."""


@attrs.frozen
class Munmap(Message[None]):
    """munmap."""

    mm: Mm
    """Caller's address space."""
    addr: int
    """Page aligned."""
    length: int
    """Bytes."""


@attrs.frozen
class Mremap(Message[int]):
    """mremap; answers the new address."""

    mm: Mm
    """Caller's address space."""
    addr: int
    """Old address."""
    old_length: int
    """Bytes."""
    new_length: int
    """Bytes."""
    maymove: bool = False
    """MREMAP_MAYMOVE."""
    fixed: bool = False
    """MREMAP_FIXED: move to ``new_addr``."""
    dontunmap: bool = False
    """MREMAP_DONTUNMAP: the old VMA stays, empty."""
    new_addr: int = 0
    """Target of ``fixed``."""


@attrs.frozen
class Mprotect(Message[None]):
    """mprotect."""

    mm: Mm
    """Caller's address space."""
    addr: int
    """Page aligned."""
    length: int
    """Bytes."""
    prot: Prot
    """New protection."""


@attrs.frozen
class Madvise(Message[None]):
    """madvise."""

    mm: Mm
    """Caller's address space."""
    addr: int
    """Page aligned."""
    length: int
    """Bytes."""
    advice: str
    """``dontneed``, ``free``, ``pageout``, ``cold``, ``willneed``, ``hugepage`` ..."""


@attrs.frozen
class OomReap(Message[None]):
    """process_mrelease on a killed process: take its private memory.  -EAGAIN when some of it stays."""

    mm: Mm
    """The victim's address space."""


@attrs.frozen
class Brk(Message[int]):
    """brk; answers the resulting end of the heap."""

    mm: Mm
    """Caller's address space."""
    end: int
    """Wanted end, 0 asks for the present one."""


@attrs.frozen
class Fork(Message[Mm]):
    """fork's copy of the address space; answers the child's."""

    mm: Mm
    """The parent's address space."""
    name: str
    """Name of the child's mm."""


@attrs.frozen
class CpuFault(Message[None]):
    """A CPU page fault; on return the access is tried again."""

    mm: Mm
    """Faulting address space."""
    vpn: int
    """Faulting page."""
    write: bool
    """True for a write."""


# -- for drivers --------------------------------------------------------------------------


@attrs.frozen
class IntervalNotifierInsert(Message[None]):
    """mmu_interval_notifier_insert.  -EINVAL on a dead mm."""

    notifier: IntervalNotifier
    """The subscription."""
    mm: Mm
    """The address space to watch."""
    start: int
    """First page."""
    npages: int
    """Length."""


@attrs.frozen
class NotifierRegister(Message[None]):
    """mmu_notifier_register: a plain notifier, for good."""

    notifier: MmuNotifier
    """The subscriber."""
    mm: Mm
    """The address space to watch."""


@attrs.frozen
class IntervalNotifierRemove(Message[None]):
    """mmu_interval_notifier_remove: waits for running callbacks."""

    notifier: IntervalNotifier
    """The subscription."""


@attrs.frozen
class HmmRangeFault(Message[None]):
    """hmm_range_fault: the caller holds mmap_lock for read.  -EBUSY, -EFAULT, -EPERM, -ENOMEM, -EINVAL."""

    range: HmmRange
    """In and out."""


@attrs.frozen
class HmmRangeFaultUnlocked(Message[None]):
    """hmm_range_fault_unlocked_timeout (8.4): takes mmap_lock itself and refreshes the sequence."""

    range: HmmRange
    """In and out."""
    timeout: int = 0
    """Virtual nanoseconds; 0 retries for ever."""


@attrs.frozen
class MigrateVmaSetup(Message[None]):
    """migrate_vma_setup: fills ``src`` and ``cpages``.  -EINVAL."""

    args: MigrateVma
    """In and out."""


@attrs.frozen
class MigrateVmaPages(Message[None]):
    """migrate_vma_pages: commits what can be; clears ``migrate`` on the rest."""

    args: MigrateVma
    """In and out."""


@attrs.frozen
class MigrateVmaFinalize(Message[None]):
    """migrate_vma_finalize: restores entries, unlocks and puts everything."""

    args: MigrateVma
    """In and out."""


@attrs.frozen
class MigrateDevicePfns(Message[list[MigratePfn]]):
    """migrate_device_pfns: collect device pages by physical page, no mm and no address (9.7)."""

    pgmap: DevPagemap
    """The region."""
    pfns: list[int]
    """Device page frame numbers."""


@attrs.frozen
class MigrateDevicePages(Message[None]):
    """migrate_device_pages."""

    src: list[MigratePfn]
    """From MigrateDevicePfns."""
    dst: list[Folio | None]
    """Locked destination folios or None."""


@attrs.frozen
class MigrateDeviceFinalize(Message[None]):
    """migrate_device_finalize."""

    src: list[MigratePfn]
    """From MigrateDevicePfns."""
    dst: list[Folio | None]
    """As given to MigrateDevicePages."""


@attrs.frozen
class MakeDeviceExclusive(Message[Folio]):
    """make_device_exclusive: answers the folio, locked and referenced (reason ``exclusive``).

    mmap_lock is held for read.  -EFAULT no VMA or not writable, -EOPNOTSUPP file page,
    -ENOMEM, -EBUSY.
    """

    mm: Mm
    """Address space."""
    vpn: int
    """The page."""
    owner: object
    """Owner cookie of the EXCLUSIVE event."""


@attrs.frozen
class ReclaimPages(Message[int]):
    """Swap out cold pages of a range; answers how many went.  GPU use does not make a page hot."""

    mm: Mm
    """Address space."""
    start: int
    """First page."""
    end: int
    """One past the last page."""
