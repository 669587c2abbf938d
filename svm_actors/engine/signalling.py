"""The fence-signalling critical section as a checked context (fences_and_scheduler 5 and 6, INV-FEN-03).

From the moment others can find a fence until it is signaled, no code that its completion needs may
wait for what may itself wait for fences.  Such code is put between :func:`begin` and :func:`end`, or
in ``with signalling(engine):``.  The section belongs to the running *thread*, so a request that an
actor serves for it is inside too, and it nests.

The check is lock order.  A section holds a pretended lock for read; waiting for a fence takes it for
write.  So a lock that was ever held over a fence wait may not be taken in a section, neither may one
that leads there through others, and neither order has to deadlock or even to come first to be
reported.  :data:`PRIMED` is what the kernel teaches its own checker at boot; allocation that may
reclaim is a pretended lock of that chain.  What is forbidden whatever the order (user faults, user
fences, the wait itself) fails at once.

Simplified: interrupts have no thread here and are not tracked, as in the kernel.  The optional fast
paths the digest exempts (poll, then signal) simply do not open a section.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final, NoReturn

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.lockdep import FENCE_MAP
from svm_actors.engine.locks import Lock

FS_RECLAIM: Final = "fs_reclaim"
"""The class that stands for direct reclaim: allocating acquires it for a moment."""

INVALIDATE_START: Final = "mmu_notifier_invalidate_start"
"""The class that stands for running MMU notifier callbacks."""

PRIMED: Final = (
    "mmap_lock",
    "dma_resv",
    FS_RECLAIM,
    "i_mmap_rwsem",
    INVALIDATE_START,
    FENCE_MAP,
)
"""Outermost first (section 6): everything a fence wait may happen under."""

ORACLE: Final = "signalling"
RULE: Final = "INV-FEN-03"


class Gfp(Enum):
    """How far an allocation may go; only ATOMIC never waits for reclaim (it fails instead)."""

    KERNEL = "GFP_KERNEL"
    NOFS = "GFP_NOFS"
    NOIO = "GFP_NOIO"
    ATOMIC = "GFP_ATOMIC"


class LockMap(Lock):
    """A pretended lock: it excludes nobody, it only takes part in the order.

    A work queue has one that every item runs inside and that a flush touches: so flushing it in a
    section is reported when any item was ever seen to do what the section may not.
    """

    __slots__ = ()

    def enter(self) -> None:
        """From here on it is held; like a trylock this adds no edge by itself."""
        task = self.engine.current
        assert task is not None
        self._take(task.thread, "r")

    def leave(self) -> None:
        """Until here."""
        self._drop()

    def touch(self) -> None:
        """Order it after everything held now, as taking and dropping it would."""
        task = self.engine.current
        assert task is not None
        self.engine.lockdep.waiting(task, self)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """``with map.inside():`` around what runs under it."""
        self.enter()
        try:
            yield
        finally:
            self.leave()


# -- the section -------------------------------------------------------------------------


def prime(engine: Engine) -> None:
    """Teach the order of section 6; calling it again changes nothing."""
    if FENCE_MAP not in engine.lockdep.after.get(PRIMED[-2], ()):
        engine.lockdep.declare(*PRIMED)


def begin(engine: Engine) -> bool:
    """dma_fence_begin_signalling; the answer goes to :func:`end`.

    Inside another section, or where nothing may sleep anyway, it does nothing and answers True.
    """
    if engine.atomic or in_signalling(engine):
        return True
    prime(engine)
    lockdep = engine.lockdep
    if lockdep.fence_map is None:
        lockdep.fence_map = LockMap(engine, FENCE_MAP, FENCE_MAP)
    lockdep.fence_map.enter()
    return False


def end(engine: Engine, cookie: bool) -> None:
    """dma_fence_end_signalling, with what :func:`begin` answered."""
    fence_map = engine.lockdep.fence_map
    if not cookie and fence_map is not None:
        fence_map.leave()


@contextmanager
def signalling(engine: Engine) -> Iterator[None]:
    """``with signalling(engine):`` from the promise to the signal, or around its tail end."""
    cookie = begin(engine)
    try:
        yield
    finally:
        end(engine, cookie)


def in_signalling(engine: Engine) -> bool:
    """True when the running thread is in a section."""
    fence_map = engine.lockdep.fence_map
    return fence_map is not None and fence_map.held_by_me()


# -- what a section must not do ----------------------------------------------------------


def might_wait(engine: Engine, what: str) -> None:
    """The running thread is about to wait for a dma-fence (``__dma_fence_might_wait``)."""
    task = engine.current
    assert task is not None
    lockdep = engine.lockdep
    if lockdep.fence_map is not None and lockdep.fence_map in task.thread.held:
        _forbidden(engine, f"waits for {what}")
    for held in task.thread.held:
        known = lockdep.after.get(held.lock_class)
        if known is None or FENCE_MAP not in known:
            lockdep.order(task, held.lock_class, FENCE_MAP)


def might_alloc(engine: Engine, what: str, gfp: Gfp = Gfp.KERNEL) -> None:
    """The running thread allocates; with any flag but ATOMIC that may reclaim, and reclaim waits for fences."""
    task = engine.current
    if gfp is Gfp.ATOMIC or task is None:
        return
    if in_signalling(engine):
        _forbidden(engine, f"allocates {what} with {gfp.value}, which may reclaim")
    last = FS_RECLAIM
    for held in task.thread.held:
        if held.lock_class not in (last, FS_RECLAIM):
            last = held.lock_class
            engine.lockdep.order(task, last, FS_RECLAIM)


def might_fault(engine: Engine, what: str) -> None:
    """The running thread touches user memory, pins it or asks hmm for it: mmap_lock and allocation."""
    if in_signalling(engine):
        _forbidden(engine, f"faults user memory: {what}")


def might_wait_for_user(engine: Engine, what: str) -> None:
    """The running thread waits for what user space controls: a user fence, a point not submitted yet."""
    if in_signalling(engine):
        _forbidden(engine, f"waits for user space: {what}")


def might_wait_for_notifier(engine: Engine, what: str) -> None:
    """The running thread waits for invalidations to end (``mmu_interval_read_begin``)."""
    if in_signalling(engine):
        _forbidden(engine, f"waits for a notifier that waits for fences: {what}")


def promised(engine: Engine, what: str) -> None:
    """The running thread is about to give up on work whose fence is out; it must set an error and signal."""
    if in_signalling(engine):
        _forbidden(engine, f"fails although the fence is promised: {what}")


def _forbidden(engine: Engine, text: str) -> NoReturn:
    task = engine.current
    assert task is not None
    raise PropertyFailed(ORACLE, RULE, f"{task.id} {text}, inside a fence-signalling section")
