"""FEN-B20: after a GT reset jobs are put on the ring again that the hardware has completed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_part
from svm_actors.xe.queue_reset import GtReset

if TYPE_CHECKING:
    from svm_actors.xe.exec_job import ExecJob
    from svm_actors.xe.exec_queue import ExecQueue


def replays_everything(original: type[GtReset]) -> type[GtReset]:
    """Whatever is on the list of pending jobs is put on the ring; what is done runs again."""

    class ReplaysEverything(original):  # type: ignore[misc, valid-type]
        replaying = False
        """The guard is asked for the second purpose; for the first, who is guilty, it stays."""

        def skips(self, job: ExecJob) -> bool:
            return not self.replaying and super().skips(job)

        async def restart(self, queue: ExecQueue) -> None:
            self.replaying = True
            await super().restart(queue)
            self.replaying = False

    return ReplaysEverything


FEN_B20 = Bug(
    id="FEN-B20",
    title="a GT reset replays jobs that are complete and only not freed yet",
    removes="GtReset.skips",
    races=("FEN-R31",),
    oracles=("lifetime", "binds", "submission", "fences", "engine"),
    story="bind-reset",
    plant=replace_part(GtReset, replays_everything),
)
