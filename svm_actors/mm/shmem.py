"""Objects behind shared and file mappings: a page cache and the VMAs that map it.

Shared anonymous memory and files are one thing here: pages by index, zero until written.
Simplified: no writeback, no truncate; a file's first contents are zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.mm.folio import Folio

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.vma import Vma


class FileObject:
    """An address_space.  Its pages live until the last VMA goes (shmem) or :meth:`drop` (files)."""

    def __init__(self, core: CoreMm, name: str, keep: bool = False) -> None:
        self.core = core
        self.name = name
        self.keep = keep
        """True for files: the page cache outlives its mappings."""
        self.pages: dict[int, Folio] = {}
        self.vmas: list[Vma] = []
        """i_mmap: every VMA that maps the object, in order of linking."""

    async def folio(self, index: int) -> Folio:
        """The page-cache folio at ``index``, allocated when missing.  -ENOMEM."""
        await self.core.engine.step("read", self, index)
        found = self.pages.get(index)
        if found is not None:
            return found
        folio = await self.core.allocator.alloc("pagecache")
        if index in self.pages:
            folio.put("pagecache")
            return self.pages[index]
        folio.mapping, folio.index = self, index
        folio.uptodate = folio.lru = True
        self.pages[index] = folio
        return folio

    def link(self, vma: Vma) -> None:
        """A VMA maps the object."""
        self.vmas.append(vma)

    def unlink(self, vma: Vma) -> None:
        """A VMA goes; the last one takes the pages of shared memory with it."""
        self.vmas.remove(vma)
        if not self.vmas and not self.keep:
            self.drop()

    def drop(self) -> None:
        """Drop the page cache."""
        for index in sorted(self.pages):
            folio = self.pages.pop(index)
            folio.mapping = None
            folio.put("pagecache")
