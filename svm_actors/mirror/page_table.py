"""The mirror's own page table: virtual page to page and tag (hmm_mirror section 1).

An entry holds no reference on its page: only the notifier keeps it truthful (INV-05).  So a device
access checks that the page still is what it was when the entry was stored.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from sortedcontainers import SortedDict

from svm_actors.mm.folio import Folio


class Tag(IntEnum):
    """Tag bits of an entry."""

    READ_ONLY = 0
    ATOMIC = 1
    """Stored by EXCLUSIVE; not writable for WRITE."""
    WRITABLE = 3


class MirrorEntry(NamedTuple):
    """One entry."""

    folio: Folio
    """A RAM page, or the backing page of a device page."""
    generation: int
    """Which allocation of that page it was."""
    tag: Tag
    """What the device may do."""


class MirrorPageTable:
    """Sparse table over the whole address space."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._entries: SortedDict = SortedDict()

    def load(self, vpn: int) -> MirrorEntry | None:
        """The entry of a page, None when absent."""
        found: MirrorEntry | None = self._entries.get(vpn)
        return found

    def store(self, vpn: int, folio: Folio, tag: Tag) -> None:
        """Set the entry of a page."""
        self._entries[vpn] = MirrorEntry(folio, folio.generation, tag)

    def erase(self, first: int, last: int) -> int:
        """Drop the entries of pages [first, last], **both inclusive**; answers how many there were."""
        doomed = list(self._entries.irange(first, last))
        for vpn in doomed:
            del self._entries[vpn]
        return len(doomed)

    def next_from(self, vpn: int, end: int) -> tuple[int, MirrorEntry] | None:
        """The first entry at or after a page and before ``end``."""
        for found in self._entries.irange(vpn, end - 1):
            return found, self._entries[found]
        return None

    def __len__(self) -> int:
        return len(self._entries)
