"""hmm fails for the reasons it may fail for, and what it finds is used while it holds (core_mm section 8).

INV-35, INV-02, INV-43.

-EPERM is for a caller that wants to write where nobody may; one that only reads never gets it.  An unlocked walk whose
answers are taken for requests in the next round asks for more than its caller did, and that is where it shows.

What an unlocked walk answers with is the sequence of its last round, which went from the first page to the last.  When
a device maps what was found, its subscription must still have the sequence of before the walk: an event that hits it
sets another.
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.hmm_types import HmmRange, WalkDone, WalkFailed, WalkPublished

MAY_FAIL_WITH = ("EBUSY", "EFAULT", "EINTR", "EINVAL", "ENOMEM", "EPERM")


class Walks:
    """Listens to the ends of walks."""

    name = "walks"
    hears = (WalkDone, WalkFailed, WalkPublished)

    def __call__(self, event: Any) -> None:
        """Take one event."""
        if type(event) is WalkDone:
            self._of_last_round(event.range)
        elif type(event) is WalkPublished:
            self._holds(event.range)
        else:
            self._failed(event)

    def _failed(self, event: WalkFailed) -> None:
        """INV-35."""
        if event.code not in MAY_FAIL_WITH:
            raise PropertyFailed(self.name, "INV-35", f"a walk for {event.name} fails with {event.code}")
        if event.code == "EPERM" and not event.for_write:
            raise PropertyFailed(self.name, "INV-35", f"a walk for {event.name} that only reads fails with EPERM")

    def _of_last_round(self, range_: HmmRange) -> None:
        """INV-43."""
        if range_.notifier_seq != range_.walked_seq:
            seqs = f"answers with {range_.notifier_seq}, it ran under {range_.walked_seq}"
            raise PropertyFailed(self.name, "INV-43", f"a walk for {range_.notifier.name} {seqs}")

    def _holds(self, range_: HmmRange) -> None:
        """INV-02."""
        if range_.notifier.seq != range_.notifier_seq:
            text = f"what {range_.notifier.name} was told of since the walk is mapped for the device"
            raise PropertyFailed(self.name, "INV-02", text)
