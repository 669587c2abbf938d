"""A run queue: the entities of one scheduler and one priority that have jobs (section 8.1).

``rq.lock`` nests inside ``entity.lock``; both are needed to put an entity on a run queue, because
``entity.rq`` may change.

When the entity whose turn it is lacks only credits, nobody else is tried, of this or of a lower priority:
a stream of small jobs would starve a big one for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import SpinLock

if TYPE_CHECKING:
    from svm_actors.drm.sched import DrmSched
    from svm_actors.drm.sched_entity import SchedEntity
    from svm_actors.drm.sched_policy import Policy

Selection = tuple["SchedEntity | None", bool]
"""The entity to serve, and whether lower priorities may be tried when there is none."""


class RunQueue:
    """Entities with jobs, in the order of the policy."""

    def __init__(self, sched: DrmSched, name: str, policy: Policy) -> None:
        self.sched = sched
        self.name = name
        self.policy = policy
        self.lock = SpinLock(sched.engine, f"{name}.lock", "rq.lock")
        self.entities: dict[SchedEntity, None] = {}
        """Those that were pushed to and not taken off since: also some that have no job just now."""
        self.clock = 0
        """The logical clock of the RR policy; the virtual time of the FAIR policy."""
        self.freed = False
        """The scheduler is gone."""
        self._tree: SortedDict[tuple[int, int], SchedEntity] = SortedDict()
        """Those with jobs, by (place, arrival); also one whose only job was taken before its push came here."""
        self._arrivals = 0

    def smallest(self, default: int) -> int:
        """Place of whoever is first; ``default`` when there is nobody."""
        place: int = self._tree.peekitem(0)[0][0] if self._tree else default
        return place

    def waiting(self) -> list[SchedEntity]:
        """The entities with jobs, in the order in which they are served."""
        return list(self._tree.values())

    # -- changed with rq.lock held -----------------------------------------------------

    def add(self, entity: SchedEntity, submit_ts: int) -> None:
        """An entity has its first job."""
        if self.freed:
            raise PropertyFailed("lifetime", "INV-FEN-08", f"{entity.name} uses {self.name}, which is freed")
        if entity not in self.entities:
            self.entities[entity] = None
            self.sched.score.value += 1
        self._place(entity, self.policy.place_new(self, entity, submit_ts))

    def popped(self, entity: SchedEntity) -> None:
        """One of its jobs was taken: it goes to its new place, or out of the order when it has no more."""
        if not self.is_on(entity):
            return
        self._unplace(entity)
        head = entity.queue.peek()
        if head is None:
            self.policy.leave(self, entity)
        else:
            self._place(entity, self.policy.place_again(self, entity, head))

    def remove(self, entity: SchedEntity) -> None:
        """It is no longer served from here."""
        if entity not in self.entities:
            return
        del self.entities[entity]
        self.sched.score.value -= 1
        self._unplace(entity)

    def is_on(self, entity: SchedEntity) -> bool:
        """Whether it was not killed since its job was chosen; else it would be served once more, when freed."""
        return entity in self.entities

    def _place(self, entity: SchedEntity, place: int) -> None:
        self._unplace(entity)
        self._arrivals += 1
        entity.rq_key = (place, self._arrivals)
        self._tree[entity.rq_key] = entity

    def _unplace(self, entity: SchedEntity) -> None:
        if entity.rq_key is not None:
            del self._tree[entity.rq_key]
            entity.rq_key = None

    # -- the worker --------------------------------------------------------------------

    async def select(self) -> Selection:
        """The first ready entity; it counts as in use until its ``entity_idle`` is completed."""
        async with self.lock:
            for entity in self._tree.values():
                if entity.is_ready():
                    if not self.sched.can_queue(entity):
                        return None, False
                    entity.entity_idle.reinit()
                    return entity, True
            return None, True
