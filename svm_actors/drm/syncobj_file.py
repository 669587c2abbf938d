"""The syncobj handles of one open file, and the ioctls on them (fences_and_scheduler section 2).

A handle may be destroyed while somebody sleeps on its syncobj: every ioctl therefore takes references
of its own when it looks the handles up, and drops them when it is through (FEN-R32, FEN-B28).
"""

from __future__ import annotations

from collections.abc import Sequence

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT
from svm_actors.dma_buf.fence_memory import FenceMemory, allocate
from svm_actors.dma_buf.unwrap import merge
from svm_actors.drm.syncobj import Syncobj
from svm_actors.drm.syncobj_wait import NO_FLAGS, WaitFlags, find_fence, wait_array
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, ENOENT, ENOMEM


class SyncobjFile:
    """The handle table of a drm_file."""

    def __init__(self, engine: Engine, name: str, *, memory: FenceMemory | None = None) -> None:
        self.engine = engine
        self.name = name
        self.memory = memory
        self._table: dict[int, Syncobj] = {}
        self._last = 0

    # -- handles -----------------------------------------------------------------------------------

    async def create(self, *, signaled: bool = False) -> int:
        """DRM_IOCTL_SYNCOBJ_CREATE.  -ENOMEM."""
        allocate(self.engine, self.memory, "syncobj")
        await self.engine.step("write", self)
        name = f"{self.name}.{self._last + 1}"
        syncobj = self.engine.parts.of(Syncobj)(self.engine, name, signaled=signaled, memory=self.memory)
        return self._add(syncobj)

    async def import_syncobj(self, syncobj: Syncobj) -> int:
        """DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE: another handle on what may have one elsewhere."""
        await self.engine.step("write", self)
        return self._add(syncobj.get())

    def _add(self, syncobj: Syncobj) -> int:
        self._last += 1
        self._table[self._last] = syncobj
        return self._last

    async def destroy(self, handle: int) -> None:
        """DRM_IOCTL_SYNCOBJ_DESTROY: the handle is gone at once, the syncobj when the last user is.  -EINVAL."""
        await self.engine.step("write", self)
        syncobj = self._table.pop(handle, None)
        if syncobj is None:
            raise EINVAL
        if syncobj.refs > 1:
            self.engine.count("FEN-R32")
        syncobj.put()

    def find(self, handle: int) -> Syncobj:
        """drm_syncobj_find: with a reference for the caller, who announced the op.  -ENOENT."""
        syncobj = self._table.get(handle)
        if syncobj is None:
            raise ENOENT
        return syncobj.get()

    async def close(self) -> None:
        """drm_syncobj_release: the file is closed, every handle goes."""
        await self.engine.step("write", self)
        while self._table:
            self._table.popitem()[1].put()

    # -- ioctls --------------------------------------------------------------------------------------

    async def wait(
        self,
        handles: Sequence[int],
        points: Sequence[int] | None = None,
        flags: WaitFlags = NO_FLAGS,
        timeout: int = MAX_SCHEDULE_TIMEOUT,
        deadline: int | None = None,
    ) -> tuple[int, int]:
        """DRM_IOCTL_SYNCOBJ_(TIMELINE_)WAIT: (time left, index of the first that is over).

        FEN-R32: with references of its own until it is through, as the handles may be closed meanwhile.

        -ENOENT, -EINVAL, -ETIME, -ERESTARTSYS.
        """
        syncobjs = await self._find_all(handles)
        try:
            return await wait_array(self.engine, syncobjs, points, flags, timeout, deadline)
        finally:
            _put_all(syncobjs)

    async def signal(self, handles: Sequence[int], points: Sequence[int] | None = None) -> None:
        """DRM_IOCTL_SYNCOBJ_(TIMELINE_)SIGNAL.  -ENOENT, -ENOMEM."""
        syncobjs = await self._find_all(handles)
        try:
            for syncobj, point in zip(syncobjs, points or [0] * len(syncobjs), strict=True):
                await self.engine.step("write", syncobj)
                if point:
                    syncobj.signal_point(point)
                else:
                    syncobj.signal()
        finally:
            _put_all(syncobjs)

    async def reset(self, handles: Sequence[int]) -> None:
        """DRM_IOCTL_SYNCOBJ_RESET.  -ENOENT."""
        syncobjs = await self._find_all(handles)
        for syncobj in syncobjs:
            await self.engine.step("write", syncobj)
            syncobj.reset()
        _put_all(syncobjs)

    async def query(self, handles: Sequence[int], *, last_submitted: bool = False) -> list[int]:
        """DRM_IOCTL_SYNCOBJ_QUERY.  -ENOENT."""
        syncobjs = await self._find_all(handles)
        points = []
        for syncobj in syncobjs:
            await self.engine.step("read", syncobj)
            points.append(syncobj.query(last_submitted))
        _put_all(syncobjs)
        return points

    async def transfer(
        self, source: int, source_point: int, target: int, target_point: int, *, for_submit: bool = False
    ) -> None:
        """DRM_IOCTL_SYNCOBJ_TRANSFER: what one slot holds for a point becomes a point, 0: all, of another.

        -ENOENT, -EINVAL, -ENOMEM; -ETIME and -ERESTARTSYS while waiting for the submission.
        """
        first, second = await self._find_all([source, target])
        try:
            await self._transfer(first, source_point, second, target_point, for_submit)
        finally:
            _put_all([first, second])

    async def _transfer(self, source: Syncobj, source_point: int, target: Syncobj, point: int, wait: bool) -> None:
        fence = await find_fence(source, source_point, for_submit=wait)
        try:
            if not point:
                await self.engine.step("write", target)
                target.replace_fence(fence)
                return
            flat = merge(self.engine, [fence], self.memory)  # a timeline point may not hold a timeline
            if flat is None:
                raise ENOMEM
            try:
                target.chain_alloc()
                await self.engine.step("write", target)
                target.add_point(flat, point)
            finally:
                flat.put()
        finally:
            fence.put()

    async def _find_all(self, handles: Sequence[int]) -> list[Syncobj]:
        """drm_syncobj_array_find.  -EINVAL for none; -ENOENT, with nothing kept."""
        if not handles:
            raise EINVAL
        found: list[Syncobj] = []
        for handle in handles:
            await self.engine.step("read", self)
            try:
                found.append(self.find(handle))
            except ENOENT:
                _put_all(found)
                raise
        return found

    def statistics(self) -> dict[str, int]:
        """Handles open."""
        return {"handles": len(self._table)}


def _put_all(syncobjs: Sequence[Syncobj]) -> None:
    for syncobj in syncobjs:
        syncobj.put()
