"""What can be asked of a mirror device actor (hmm_mirror sections 2, 4, 5 and 7).

Commands are what user space sends through the device file: one message class each, addresses in
bytes, lengths in pages.  The rest is what the core MM and the life cycle send.  Errors are kernel
errors raised in the caller; on any error nothing is copied back, so there is no result object.

Simplified: host buffers are Python values, so the -EFAULT cases of an unreadable argument or a bad
host buffer do not exist.
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING

import attrs

from svm_actors.engine.actor import Message
from svm_actors.mm.content import Content
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import IntervalNotifier, NotifierRange

if TYPE_CHECKING:
    from svm_actors.mirror.mirror import Mirror


class Perm(IntFlag):
    """Snapshot byte of a page (hmm_mirror section 4); READ and WRITE never come together."""

    NONE = 0x00
    READ = 0x01
    WRITE = 0x02
    PMD = 0x04
    PUD = 0x08
    ZERO = 0x10
    DEV_PRIVATE_LOCAL = 0x20
    DEV_PRIVATE_REMOTE = 0x30
    ERROR = 0xFF


class Flag(IntFlag):
    """Bits of a mirror's flag word."""

    NONE = 0
    FAIL_ALLOC = 1
    """The next page allocation made for this mirror fails; one shot."""


@attrs.frozen
class CommandResult:
    """What a command that succeeded copies back."""

    cpages: int = 0
    """Pages handled, as each command counts them."""
    faults: int = 0
    """Rounds of fault-in, not pages."""
    pages: tuple[Content, ...] = ()
    """Page contents read; empty for commands that read none."""
    codes: tuple[int, ...] = ()
    """Snapshot bytes; empty for other commands."""

    @property
    def data(self) -> tuple[int, ...]:
        """The first byte of each page read."""
        return tuple(page.byte(0) for page in self.pages)


# -- commands -----------------------------------------------------------------------------


@attrs.frozen
class Command(Message[CommandResult]):
    """Common argument.  -EINVAL: address not page aligned, no pages, or wrapping around."""

    mirror: Mirror
    """The open file."""
    addr: int
    """First byte."""
    npages: int
    """Length in pages."""


@attrs.frozen
class Read(Command):
    """READ.  -EFAULT, -EBUSY, -ENOMEM."""


@attrs.frozen
class ReadUnlocked(Command):
    """READ through the hmm call that takes mmap_lock itself.  -EFAULT, -EINTR, -ENOMEM."""


@attrs.frozen
class Write(Command):
    """WRITE.  As READ, and -EPERM; pages written in earlier rounds stay written on an error."""

    pages: tuple[Content, ...]
    """What to write, one content per page."""


@attrs.frozen
class MigrateToDev(Command):
    """MIGRATE_TO_DEV and read back.  -EINVAL, -ENOENT, -ENOMEM; steps done before an error stay done."""


@attrs.frozen
class MigrateToSys(Command):
    """MIGRATE_TO_SYS.  -EINVAL, -ENOMEM; nothing on the device is success with 0 pages."""


@attrs.frozen
class Snapshot(Command):
    """SNAPSHOT: what the CPU tables hold, without faulting.  -EINVAL, -EBUSY."""


@attrs.frozen
class MakeExclusive(Command):
    """EXCLUSIVE and read back.  -EINVAL, -EFAULT, -EOPNOTSUPP, -ENOMEM, -ENOENT."""


@attrs.frozen
class CheckExclusive(Command):
    """CHECK_EXCLUSIVE: -EPERM when an entry of the mirror is still atomic."""


@attrs.frozen
class Release(Command):
    """RELEASE: remove every chunk of the device's memory; may wait for pages in use."""


@attrs.frozen
class SetFlags(Command):
    """FLAGS: the flag word becomes ``npages``; it cannot become 0, which is -EINVAL."""


# -- life cycle and callbacks -------------------------------------------------------------


@attrs.frozen
class OpenMirror(Message["Mirror"]):
    """open: a mirror of an address space, subscribed to all of it.  -EINVAL on a dead mm."""

    mm: Mm
    """The opener's address space."""


@attrs.frozen
class CloseMirror(Message[None]):
    """Last close: unsubscribe, evict the whole device, forget the page table."""

    mirror: Mirror
    """The open file."""


@attrs.frozen
class RemoveDevice(Message[None]):
    """Module unload: remove every chunk; waits until every page is free."""


@attrs.frozen
class InvalidateMirror(Message[bool]):
    """Interval callback of a mirror; False refuses (non-blockable only)."""

    mirror: Mirror
    """Whose page table."""
    range: NotifierRange
    """What changes."""
    seq: int
    """Sequence value of the period."""


@attrs.frozen
class InvalidateSnapshot(Message[bool]):
    """Interval callback of the temporary subscription of a SNAPSHOT in progress."""

    mirror: Mirror
    """Whose mutex serializes it."""
    notifier: IntervalNotifier
    """The temporary subscription."""
    range: NotifierRange
    """What changes."""
    seq: int
    """Sequence value of the period."""


@attrs.frozen
class MigrateToRam(Message[None]):
    """CPU fault on a page of this device.  -ENOMEM is VM_FAULT_OOM, -EFAULT is VM_FAULT_SIGBUS."""

    fault: VmFault
    """From the core MM."""
