"""xe_migrate as pagemap uses it: clears and copies by the device's copy engine (pagemap section 3.1).

Contiguous device pages are merged into one job of up to 8 MiB; an entry without page or address
ends a run.  The first job waits for the fence, the copy waits for the *last* job.  If no job consumed the
fence, the fence itself is waited for.  Unlike 7.3.4 (PGM-S05) it looks at the errors of its jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EIO, PropertyFailed
from svm_actors.gpu.address import Direction, DmaAddr, Proto
from svm_actors.gpu.copy_engine import SubmitCopy
from svm_actors.mm.folio import Folio

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.drm.pagemap_zdd import Addrs, Pages
    from svm_actors.gpu.gpu import Gpu

MAX_JOB_PAGES = 2048
"""8 MiB in pages."""


class Migrate:
    """xe_migrate of one tile."""

    def __init__(self, engine: Engine, gpu: Gpu) -> None:
        self.engine = engine
        self.gpu = gpu

    async def clear(self, pfns: list[int]) -> Fence:
        """xe_migrate_clear: zero fresh VRAM; answers the fence, does not wait."""
        pairs = tuple((None, _local(pfn, Direction.FROM_DEVICE)) for pfn in pfns)
        return await self.gpu.copy.call(SubmitCopy(pairs))

    async def copy(self, pages: Pages, addrs: Addrs, fence: Fence | None, *, to_vram: bool) -> None:
        """xe_svm_copy: done on return.  -EIO."""
        jobs: list[Fence] = []
        pending = self.dependency(fence)
        for run in self._runs(pages, addrs):
            jobs.append(await self.gpu.copy.call(SubmitCopy(tuple(_pair(*item, to_vram) for item in run), pending)))
            pending = None
        if jobs:
            await self.wait_copy(jobs[-1])
        if pending is not None:
            await pending.wait()
        self.check_copied(jobs if fence is None else [fence, *jobs])

    def check_copied(self, jobs: list[Fence]) -> None:
        """MM-B13: what was not filled, or not cleared, must not be committed.  -EIO; 7.3.4 does not look (PGM-S05)."""
        if any(job.error is not None for job in jobs):
            self.engine.count("gpu.copy_failed")
            raise EIO

    def dependency(self, fence: Fence | None) -> Fence | None:
        """PGM-R08: no copy into memory whose clear or previous eviction is not through."""
        if fence is not None and not fence.signaled:
            self.engine.count("PGM-R08")
        return fence

    async def wait_copy(self, last: Fence) -> None:
        """PGM-R25, SVM-R16: the copy is over before any CPU entry names its target."""
        await last.wait()

    def _runs(self, pages: Pages, addrs: Addrs) -> Iterator[list[tuple[Folio, DmaAddr]]]:
        """Maximal runs of contiguous device pages, cut at 8 MiB."""
        run: list[tuple[Folio, DmaAddr]] = []
        for page, addr in zip(pages, addrs, strict=True):
            if page is None or addr is None:
                if run:
                    yield run
                run = []
                continue
            self._check_local(page)
            if run and (page.pfn != run[-1][0].pfn + 1 or len(run) == MAX_JOB_PAGES):
                yield run
                run = []
            run.append((page, addr))
        if run:
            yield run

    def _check_local(self, page: Folio) -> None:
        """Every page of a batch belongs to the copying device's region."""
        if page.pgmap is not self.gpu.vram.pgmap:
            raise PropertyFailed("lifetime", "PGM-R23", f"{self.gpu.name} copies {page.name}, which is not its own")


def _local(pfn: int, direction: Direction) -> DmaAddr:
    return DmaAddr(pfn, Proto.VRAM, 0, direction)


def _pair(page: Folio, addr: DmaAddr, to_vram: bool) -> tuple[DmaAddr, DmaAddr]:
    local = _local(page.pfn, Direction.BIDIRECTIONAL)
    return (addr, local) if to_vram else (local, addr)
