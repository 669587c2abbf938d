"""Whether two runs fail in the same way (exploration digest, section 1.4: accept only the same failure class).

The class is property name and normalised message, which is the failure's signature.  Of a deadlock the signature lists
the ops of everybody who is stuck, and most of them are bystanders who came by later and want what the first ones
hold.  A smaller program has fewer bystanders; so a deadlock in which everybody is stuck in an op that somebody was
stuck in before is the same one.  The other way round it is not: who is stuck somewhere else may have another reason.
"""

from __future__ import annotations

import attrs

from svm_actors.explore.failure import Failure, stuck_in


@attrs.frozen
class FailureClass:
    """How a run failed, as far as shrinking must keep it."""

    kind: str
    """What the failure amounts to."""
    signature: str
    """Equal for failures of the same class."""
    stuck: frozenset[str]
    """Of a deadlock: the ops that somebody is stuck in."""

    @classmethod
    def of(cls, failure: Failure) -> FailureClass:
        """The class of this failure."""
        stuck = stuck_in(failure.message) if failure.kind == "deadlock" else frozenset()
        return cls(failure.kind, failure.signature, stuck)

    def holds(self, failure: Failure | None) -> bool:
        """Whether this is a failure of the class."""
        if failure is None:
            return False
        if self.stuck and failure.kind == self.kind:
            stuck = stuck_in(failure.message)
            return bool(stuck) and stuck <= self.stuck
        return failure.signature == self.signature
