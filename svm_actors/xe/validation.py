"""xe_validation: what runs out of VRAM tries again with everybody else kept out (vm_bind sections 4 and 7.4).

Two users of memory that lock what the other wants to evict can refuse each other although there is room for
either.  So whoever makes things resident holds the validation lock of the device for read; who is told that
there is no room takes it for write and tries once more: then nobody else holds anything for long.

That holds only if everybody who locks reservations in a transaction has the lock, also who just links a vma,
unlinks one or publishes a fence: the one that tries alone would have to give way to an older transaction, and a
caller would see -ENOMEM.  Those use :func:`keeping_out`.

The lock is outside of all reservations and inside vm.lock and mmap_lock, so user memory is pinned before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeVar

from svm_actors.engine.errors import ENOMEM

if TYPE_CHECKING:
    from svm_actors.xe.bo import VramManager

T = TypeVar("T")


def keeping_out(manager: VramManager) -> AbstractAsyncContextManager[None]:
    """For a transaction that makes nothing resident: it begins when nobody tries alone."""
    return manager.validation.reading()


async def validating(manager: VramManager, attempt: Callable[[], Awaitable[T]]) -> T:
    """Run ``attempt``, which takes its reservations and lets go of them; again, alone, when VRAM was short.

    Its errors pass through; -ENOMEM that has other reasons is not tried again.
    """
    refusals = manager.refusals
    async with manager.validation.reading():
        try:
            return await attempt()
        except ENOMEM:
            if manager.refusals == refusals:
                raise
    manager.engine.count("vram.exclusive")
    async with manager.validation.writing():
        return await attempt()
