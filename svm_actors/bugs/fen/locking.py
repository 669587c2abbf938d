"""Deviations of drm_exec, which locks several reservations at once (fences_and_scheduler 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.exec import DrmExec
from svm_actors.engine.ww_mutex import WwCtx

if TYPE_CHECKING:
    from svm_actors.drm.exec import ExecObject


def no_context(_exec: DrmExec) -> None:
    """Each lock by itself."""


def a_new_one(exec_: DrmExec) -> WwCtx:
    """Begins every pass as the youngest of all."""
    return WwCtx(exec_.engine, exec_.ww_class, inject=exec_.inject)


def keeps_what_was_contended(original: type[DrmExec]) -> type[DrmExec]:
    """A subclass that counts as locked what it slept for, asked for again or not."""

    class KeepsWhatWasContended(original):  # type: ignore[misc, valid-type]
        slept_for: ExecObject | None = None
        """In the list ahead of its turn."""

        async def _lock_contended(self) -> None:
            await super()._lock_contended()
            if self.prelocked is not None:
                self.slept_for = self.prelocked
                self._adopt(self.prelocked)

        async def lock_obj(self, obj: ExecObject) -> None:
            await self._lock_contended()
            if obj is self.slept_for:
                self.slept_for = None
            else:
                await super().lock_obj(obj)

    return KeepsWhatWasContended


async def only_locks(exec_: DrmExec, obj: ExecObject, _num_fences: int) -> None:
    """Slots are somebody else's business."""
    await exec_.lock_obj(obj)


FEN_R12 = Bug(
    id="FEN-R12",
    title="several reservations are locked outside of an acquire context",
    removes="DrmExec._context",
    races=("FEN-R12",),
    oracles=("lockdep/INV-FEN-05", "engine/deadlock"),
    story="exec-opposite-orders",
    plant=replace_guard(DrmExec, "_context", no_context),
)

FEN_R13 = Bug(
    id="FEN-R13",
    title="a transaction that backs off begins again as the youngest",
    removes="DrmExec.ticket_for_pass",
    races=("FEN-R13",),
    oracles=("caller/FEN-R13",),
    story="exec-among-younger-ones",
    plant=replace_guard(DrmExec, "ticket_for_pass", a_new_one),
)

FEN_B25 = Bug(
    id="FEN-B25",
    title="an object that was contended once counts as locked, though nobody asks for it again",
    removes="DrmExec._lock_contended",
    races=("FEN-R12",),
    oracles=("caller/FEN-B25",),
    story="exec-drops-a-buffer",
    plant=replace_part(DrmExec, keeps_what_was_contended),
)

FEN_B30 = Bug(
    id="FEN-B30",
    title="a reservation is locked without a slot for the fence that will be added",
    removes="DrmExec.prepare_obj",
    races=(),
    oracles=("resv/INV-FEN-04",),
    story="exec-without-memory",
    plant=replace_guard(DrmExec, "prepare_obj", only_locks),
)
