"""The memory counters of an address space: MM_ANONPAGES, MM_FILEPAGES, MM_SWAPENTS (core_mm section 14, INV-31).

Whoever makes, copies or takes away an entry counts it; whoever only moves the page behind it, to a device and back
or into a migration entry, does not.

Simplified: pages of shared memory count as those of a file, and the pages of a huge page as anonymous ones, each.
"""

from __future__ import annotations

import attrs

from svm_actors.mm.page_table import Entry, Pte


@attrs.define
class Rss:
    """Pages by kind."""

    anon: int = 0
    """Anonymous pages, wherever they are: in RAM, on a device, in migration."""
    file: int = 0
    """Pages of files and of shared memory."""
    swap: int = 0
    """Entries that name a swap slot."""

    def count(self, pte: Pte, change: int = 1) -> None:
        """One entry of this kind more, or with -1 less."""
        if pte.kind is Entry.SWAP:
            self.swap += change
        elif pte.folio.is_zero:
            return
        elif pte.folio.anon:
            self.anon += change
        else:
            self.file += change

    @classmethod
    def of(cls, entries: list[Pte]) -> Rss:
        """What the counters have to be when these are all entries."""
        rss = cls()
        for pte in entries:
            rss.count(pte)
        return rss
