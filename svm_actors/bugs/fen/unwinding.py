"""FEN-B24: the way back of a page-table update that could not be prepared."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_part
from svm_actors.engine.errors import ENOMEM
from svm_actors.xe.bind_queue import PtJob, TlbJob
from svm_actors.xe.pt_bind import PtBind


def frees_what_failed(original: type[PtBind]) -> type[PtBind]:
    """A subclass whose caller frees the flush as well that could not be made, and has been freed there."""

    class FreesWhatFailed(original):  # type: ignore[misc, valid-type]
        def _make_jobs(self) -> tuple[PtJob | None, TlbJob | None]:
            job = self._make_job()
            span = self.prepared.flush
            if span is None:
                return job, None
            flush = TlbJob(self.queue, *self._flush_span(span))
            try:
                self.prealloc(flush)
            except ENOMEM:
                if job is not None:
                    job.cleanup()
                flush.cleanup()
                raise
            return job, flush

        @staticmethod
        def prealloc(flush: TlbJob) -> None:
            """As where the flush is made: it goes when there is no room for its dependency."""
            try:
                flush.prealloc_dependency()
            except ENOMEM:
                flush.cleanup()
                raise

    return FreesWhatFailed


FEN_B24 = Bug(
    id="FEN-B24",
    title="the way back of an update frees a job once more that could not be made",
    removes="PtBind._make_jobs",
    races=(),
    oracles=("lifetime/INV-FEN-08",),
    story="unbind-without-memory",
    plant=replace_part(PtBind, frees_what_failed),
)
