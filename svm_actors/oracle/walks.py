"""hmm fails for the reasons it may fail for (core_mm section 8; INV-35).

-EPERM is for a caller that wants to write where nobody may; one that only reads never gets it.  An unlocked walk whose
answers are taken for requests in the next round asks for more than its caller did, and that is where it shows.
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.hmm_types import WalkFailed

MAY_FAIL_WITH = ("EBUSY", "EFAULT", "EINTR", "EINVAL", "ENOMEM", "EPERM")


class Walks:
    """Listens to walks that fail."""

    name = "walks"
    hears = (WalkFailed,)

    def __call__(self, event: Any) -> None:
        """Take one event."""
        if type(event) is not WalkFailed:
            return
        if event.code not in MAY_FAIL_WITH:
            raise PropertyFailed(self.name, "INV-35", f"a walk for {event.name} fails with {event.code}")
        if event.code == "EPERM" and not event.for_write:
            raise PropertyFailed(self.name, "INV-35", f"a walk for {event.name} that only reads fails with EPERM")
