"""Deviations of those who read page tables without a lock: hmm walks that are validated too early, too late, or not."""

from __future__ import annotations

import attrs

from svm_actors.bugs.bug import Bug, replace_function, replace_guard, replace_part
from svm_actors.engine.errors import EBUSY, EFAULT
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm import hmm
from svm_actors.mm.core import CoreMm
from svm_actors.mm.hmm_types import Hmm, HmmPfn, HmmRange
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import IntervalNotifier, MmuNotifierSubscriptions


def looked_before_locking(original: type[Mirror]) -> type[Mirror]:
    """A subclass that tests the sequence, then waits for the mutex."""

    class LooksBeforeLocking(original):  # type: ignore[misc, valid-type]
        async def _locked_and_current(self, walk: HmmRange) -> bool:
            stale = walk.notifier.read_retry(walk.notifier_seq)
            await self.mutex.acquire()
            if stale:
                self.mutex.release()
            return not stale

    return LooksBeforeLocking


def never_stale(_mirror: Mirror, _notifier: IntervalNotifier, _seq: int) -> bool:
    """What was walked is published, whatever came meanwhile."""
    return False


def sequence_left_alone(_mirror: Mirror, _seq: int) -> None:
    """Entries go; a walk that has seen the page before is not told."""


async def begin_without_waiting(_subs: MmuNotifierSubscriptions, sub: IntervalNotifier) -> int:
    """The sequence as it is, in an odd period or not."""
    return sub.seq


async def walk_then_begin(core: CoreMm, mm: Mm, range_: HmmRange, deadline: int | None) -> bool:
    """The round as it is, and then the sequence is read once more."""
    done = await hmm.unlocked_round(core, mm, range_, deadline)
    if done:
        range_.notifier_seq = await range_.notifier.read_begin()
    return done


async def go_on_where_it_was(core: CoreMm, mm: Mm, range_: HmmRange, deadline: int | None) -> bool:
    """The next round begins at the first page that has no answer; earlier answers are kept."""
    range_.notifier_seq = await range_.notifier.read_begin()
    done = next((index for index, pfn in enumerate(range_.pfns) if not pfn.valid), len(range_.pfns))
    rest = attrs.evolve(range_, start=range_.start + done, pfns=range_.pfns[done:])
    async with mm.mmap_lock.reading():
        if mm.unstable:
            raise EFAULT
        if deadline is not None and core.engine.now > deadline:
            raise EBUSY
        try:
            if rest.pfns:
                await hmm.hmm_range_fault(core, rest)
        except EBUSY:
            return False
        finally:
            range_.pfns[done:] = rest.pfns
    return True


def ask_page_by_page(mirror: Mirror, notifier: IntervalNotifier, start: int, end: int, request: Hmm) -> HmmRange:
    """The request stands in the entries, where the answers go too."""
    pfns = [HmmPfn(request)] * (end - start)
    mask = Hmm.REQ_FAULT | Hmm.REQ_WRITE
    return HmmRange(notifier, 0, start, end, pfns, Hmm.NONE, mask, mirror.device)


MM_B45 = Bug(
    id="MM-B45",
    title="an unlocked hmm walk starts again with the answers of its last round as requests",
    removes="Mirror.walk_of",
    races=("MM-R38",),
    oracles=("walks/INV-35",),
    story="device-reads-unlocked",
    plant=replace_guard(Mirror, "walk_of", ask_page_by_page),
)
"""Noticed when a read is refused for want of write permission."""

MM_B49 = Bug(
    id="MM-B49",
    title="whether a walk is stale is tested before the lock is taken under which it is published",
    removes="Mirror.stale",
    races=("MM-R03", "MM-R25"),
    oracles=("lifetime", "mirrors", "coherence", "invalidation/INV-01", "walks/INV-02"),
    story="device-reads-what-is-dropped",
    plant=replace_part(Mirror, looked_before_locking),
)

MM_R25 = Bug(
    id="MM-R25",
    title="a walk is published although reclaim or a migration has cleared an entry behind it",
    removes="Mirror.stale",
    races=("MM-R25", "MM-R03"),
    oracles=("lifetime", "mirrors", "coherence", "invalidation/INV-01", "walks/INV-02"),
    story="device-reads-what-is-dropped",
    plant=replace_guard(Mirror, "stale", never_stale),
)

MM_B50 = Bug(
    id="MM-B50",
    title="an invalidation drops translations and leaves the sequence as it was",
    removes="Mirror.store_sequence",
    races=("MM-R02", "MM-R03"),
    oracles=("lifetime", "mirrors", "coherence", "invalidation/INV-01"),
    story="device-reads-what-is-dropped",
    plant=replace_guard(Mirror, "store_sequence", sequence_left_alone),
)

MM_B51 = Bug(
    id="MM-B51",
    title="a reader begins in an odd period that has hit its subscription already",
    removes="MmuNotifierSubscriptions.read_begin",
    races=("MM-R04", "MM-R30"),
    oracles=("lifetime", "mirrors", "coherence", "invalidation/INV-01"),
    story="device-reads-what-is-dropped",
    plant=replace_guard(MmuNotifierSubscriptions, "read_begin", begin_without_waiting),
)

MM_B76 = Bug(
    id="MM-B76",
    title="an unlocked hmm walk answers with a sequence that was read after it",
    removes="hmm.unlocked_round",
    races=("MM-R38",),
    oracles=("lifetime", "mirrors", "coherence", "invalidation/INV-01", "walks/INV-43"),
    story="device-reads-unlocked",
    plant=replace_function(hmm.unlocked_round, walk_then_begin),
)

MM_R38 = Bug(
    id="MM-R38",
    title="an unlocked hmm walk that lost mmap_lock goes on where it was",
    removes="hmm.unlocked_round",
    races=("MM-R38",),
    oracles=("lifetime", "mirrors", "coherence", "invalidation/INV-01", "walks/INV-43"),
    story="device-reads-unlocked",
    plant=replace_function(hmm.unlocked_round, go_on_where_it_was),
)
