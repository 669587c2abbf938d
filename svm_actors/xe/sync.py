"""drm_xe_sync: what an ioctl waits for, and what it signals (vm_bind sections 7.1, 7.2; fences_and_scheduler 2).

In-fences are looked up when the ioctl begins: what is put into a syncobj later does not change what this one
waits for.  Out-fences are installed when nothing can fail any more.  A user fence can only be an
out-fence: a wait for memory that user space writes may not hide behind a dma-fence.

A long-running VM publishes no dma-fence at all, as nothing there ends by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.unwrap import unwrap
from svm_actors.drm.syncobj import Syncobj
from svm_actors.engine.errors import EINVAL, ENOMEM, EOPNOTSUPP, KernelError

if TYPE_CHECKING:
    from svm_actors.xe.user_fence import UserFence


@attrs.frozen
class Sync:
    """One entry of an ioctl's array: either a syncobj or a user fence."""

    syncobj: Syncobj | None = None
    """Its slot, or a point of its timeline."""
    user_fence: UserFence | None = None
    """Memory that gets a value."""
    signal: bool = False
    """Out-fence; otherwise it is waited for."""
    point: int = 0
    """Point of the timeline; 0: a binary syncobj."""


class SyncList:
    """xe_sync_entry_parse for all entries; owns references until :meth:`cleanup`."""

    def __init__(self) -> None:
        self.in_fences: list[Fence] = []
        """What to wait for."""
        self.out: list[Sync] = []
        """Syncobjs to install the out-fence in."""
        self.user_fences: list[UserFence] = []
        """The user fence to write, if any: one ioctl has one."""

    @classmethod
    def parse(cls, syncs: Sequence[Sync], *, lr: bool = False) -> SyncList:
        """-EINVAL: nothing was submitted to an in-syncobj, or a second user fence.

        -EOPNOTSUPP: user fence to wait for, or a dma-fence out of a long-running VM.
        """
        parsed = cls()
        try:
            for sync in syncs:
                parsed._parse(sync, lr)
        except KernelError:
            parsed.cleanup()
            raise
        return parsed

    def _parse(self, sync: Sync, lr: bool) -> None:
        if (sync.syncobj is None) == (sync.user_fence is None):
            raise EINVAL
        if sync.user_fence is not None:
            if not sync.signal:
                raise EOPNOTSUPP
            if self.user_fences:
                raise EINVAL
            self.user_fences.append(sync.user_fence)
        elif sync.signal:
            if lr:
                raise EOPNOTSUPP
            assert sync.syncobj is not None
            if sync.point:
                sync.syncobj.chain_alloc()
            self.out.append(attrs.evolve(sync, syncobj=sync.syncobj.get()))
        else:
            self._wait_for(sync)

    def _wait_for(self, sync: Sync) -> None:
        assert sync.syncobj is not None
        fence = sync.syncobj.lookup_point(sync.point)
        for leaf in unwrap(fence):
            self.in_fences.append(leaf.get())
        fence.put()

    @property
    def empty(self) -> bool:
        """Nothing to do."""
        return not (self.in_fences or self.out or self.user_fences)

    def install(self, fence: Fence) -> None:
        """xe_sync_entry_signal for the syncobjs; cannot fail."""
        for sync in self.out:
            assert sync.syncobj is not None
            if sync.point:
                sync.syncobj.add_point(fence, sync.point)
            else:
                sync.syncobj.replace_fence(fence)

    def cleanup(self) -> None:
        """Drop the references."""
        for fence in self.in_fences:
            fence.put()
        for sync in self.out:
            assert sync.syncobj is not None
            sync.syncobj.put()
        self.in_fences, self.out, self.user_fences = [], [], []


def one_fence(fence: Fence | None) -> Fence:
    """-ENOMEM when there was none to be had."""
    if fence is None:
        raise ENOMEM
    return fence
