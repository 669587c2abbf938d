"""mm_struct: one address space, with its locks and counts (core_mm sections 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError
from svm_actors.engine.locks import RwSem
from svm_actors.mm.events import EntryChanged
from svm_actors.mm.mmu_notifier import MmuNotifierSubscriptions
from svm_actors.mm.page_table import PageTable, Pte
from svm_actors.mm.rss import Rss
from svm_actors.mm.vma import Vma, VmaTree

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


class Mm:
    """One address space.  VMAs and entries change only under the locks named in the digest."""

    def __init__(self, engine: Engine, name: str, core: CoreMm) -> None:
        self.engine = engine
        self.name = name
        self.core = core
        self.mmap_lock = RwSem(engine, f"{name}.mmap_lock", "mmap_lock")
        self.vmas = VmaTree()
        self.page_table = PageTable(f"{name}.pt", self._entry_changed)
        self.rss = Rss()
        self.subscriptions = engine.parts.of(MmuNotifierSubscriptions)(engine, f"{name}.subs")
        self.users = 1
        """mm_users: 0 means exiting, and mmget_not_zero fails."""
        self.count = 1
        """mm_count: the structure itself (mmgrab / mmdrop)."""
        self.unstable = False
        """MMF_UNSTABLE: reaped, contents are not to be trusted."""
        self.killed = False
        """A fatal signal is pending for every thread of it."""
        self.write_marked: list[Vma] = []
        """VMAs marked by vma_start_write since mmap_lock was taken for write."""
        self.brk_start = 0
        self.brk_end = 0
        self.exited = False
        self.tags: dict[str, Any] = {}

    def _entry_changed(self, vpn: int, old: Pte | None, new: Pte | None) -> None:
        self.engine.emit(EntryChanged(self, vpn, old, new))

    # -- lifetime --------------------------------------------------------------------

    def grab(self) -> None:
        """mmgrab: keep the structure."""
        self.count += 1

    def drop(self) -> None:
        """mmdrop."""
        self.count -= 1
        if self.count < 0 and not self.engine.closing:
            raise EngineError(f"{self.name}: mmdrop without mmgrab")

    async def mmget_not_zero(self) -> bool:
        """Keep the address space alive; False once it is exiting."""
        await self.engine.step("get", self, "mm_users")
        if self.users <= 0:
            return False
        self.users += 1
        return True

    async def mmput(self) -> None:
        """Drop a user; the last one tears the address space down."""
        await self.engine.step("put", self, "mm_users")
        self.users -= 1
        if not self.users:
            await self.core.exit_mmap(self)

    # -- mmap_lock -------------------------------------------------------------------

    async def mmap_write_lock(self) -> None:
        """mmap_write_lock."""
        await self.mmap_lock.write()

    def mmap_write_unlock(self) -> None:
        """mmap_write_unlock: also ends every VMA write mark."""
        self._end_write_marks()
        self.mmap_lock.release()

    def mmap_write_downgrade(self) -> None:
        """mmap_write_downgrade: ends the marks, lets readers in, keeps writers out."""
        self._end_write_marks()
        self.mmap_lock.downgrade()

    def _end_write_marks(self) -> None:
        for vma in self.write_marked:
            vma.writer = False
        self.write_marked.clear()

    # -- lookups ---------------------------------------------------------------------

    def pte_alloc(self, vpn: int) -> None:
        """The leaf table of a page, if there is none yet.  -ENOMEM."""
        if not self.page_table.tables(vpn, vpn + 1):
            self.engine.faults.fail("pgtable")

    def find_vma(self, vpn: int) -> Vma | None:
        """The VMA containing a page; mmap_lock must be held."""
        self.mmap_lock.assert_held()
        return self.vmas.find(vpn)

    def __repr__(self) -> str:
        return f"<{self.name} users={self.users} vmas={len(self.vmas)}>"
