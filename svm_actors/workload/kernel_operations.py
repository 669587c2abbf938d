"""The operations that recorded kernel programs are made of, as arguments without results.

One class per operation; the class tag is the name in the recording.  Pages are 4 KiB pages of the arena, counted from
its start; ``dev`` is the index of a mirror (``hmm_mirror.md`` section 4 has the device commands).  A write fills its
page with the byte ``value``; a device write of ``n`` pages writes ``value``, ``value + 1``, and so on, modulo 256.

Executors match on these classes and nothing else: a recorded result cannot leak into the run that is to reproduce it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Page = Annotated[int, msgspec.Meta(ge=0)]
Pages = Annotated[int, msgspec.Meta(ge=1)]
Device = Annotated[int, msgspec.Meta(ge=0)]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
Protection = Literal["none", "r", "rw"]
Sharing = Literal["private", "shared"]


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op"):
    """What one operation is called with."""

    @property
    def op(self) -> str:
        """The name of the operation in the recording."""
        return str(self.__struct_config__.tag)

    @property
    def span(self) -> tuple[int, int]:
        """First page and number of pages."""
        return getattr(self, "page"), getattr(self, "n", 1)  # noqa: B009 - each subclass has it, the base cannot


class Mmap(Arguments, frozen=True, tag="mmap"):
    """Anonymous MAP_FIXED mapping over the pages."""

    page: Page
    n: Pages
    prot: Protection
    share: Sharing


class Munmap(Arguments, frozen=True, tag="munmap"):
    """munmap of the pages."""

    page: Page
    n: Pages


class Mprotect(Arguments, frozen=True, tag="mprotect"):
    """mprotect of the pages."""

    page: Page
    n: Pages
    prot: Protection


class Mremap(Arguments, frozen=True, tag="mremap"):
    """mremap with MAYMOVE and FIXED to page ``to``, same size."""

    page: Page
    n: Pages
    to: Page


class MadviseDontneed(Arguments, frozen=True, tag="madvise_dontneed"):
    """madvise MADV_DONTNEED of the pages."""

    page: Page
    n: Pages


class CpuRead(Arguments, frozen=True, tag="cpu_read"):
    """The process reads the first byte of the page."""

    page: Page


class CpuWrite(Arguments, frozen=True, tag="cpu_write"):
    """The process writes the page."""

    page: Page
    value: Byte


class ChildRead(Arguments, frozen=True, tag="child_read"):
    """A child is forked, reads the page and exits."""

    page: Page


class ChildWrite(Arguments, frozen=True, tag="child_write"):
    """A child is forked, writes the page, reads it back and exits."""

    page: Page
    value: Byte


class DevRead(Arguments, frozen=True, tag="dev_read"):
    """Mirror command READ."""

    dev: Device
    page: Page
    n: Pages


class DevWrite(Arguments, frozen=True, tag="dev_write"):
    """Mirror command WRITE."""

    dev: Device
    page: Page
    n: Pages
    value: Byte


class ToDev(Arguments, frozen=True, tag="to_dev"):
    """Mirror command MIGRATE_TO_DEV."""

    dev: Device
    page: Page
    n: Pages


class ToSys(Arguments, frozen=True, tag="to_sys"):
    """Mirror command MIGRATE_TO_SYS."""

    dev: Device
    page: Page
    n: Pages


class Exclusive(Arguments, frozen=True, tag="exclusive"):
    """Mirror command EXCLUSIVE."""

    dev: Device
    page: Page
    n: Pages


class Snapshot(Arguments, frozen=True, tag="snapshot"):
    """Mirror command SNAPSHOT."""

    dev: Device
    page: Page
    n: Pages


class MprotectR(Arguments, frozen=True, tag="mprotect_r"):
    """mprotect to read-only (litmus programs)."""

    page: Page
    n: Pages


class MprotectRw(Arguments, frozen=True, tag="mprotect_rw"):
    """mprotect to read and write (litmus programs)."""

    page: Page
    n: Pages


class MremapAway(Arguments, frozen=True, tag="mremap_away"):
    """mremap to a free address outside the arena (litmus programs)."""

    page: Page
    n: Pages
