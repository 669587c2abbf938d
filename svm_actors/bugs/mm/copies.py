"""MM-B13: copies that failed are taken for done (core_mm section 9.3)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.dma_buf.fence import Fence
from svm_actors.xe.migrate import Migrate


def done_is_done(_self: Migrate, _jobs: list[Fence]) -> None:
    """The fence has signaled; what with, nobody asks."""


MM_B13 = Bug(
    id="MM-B13",
    title="the status of a copy is not looked at, and a page that was not filled is committed",
    removes="Migrate.check_copied",
    races=(),
    oracles=("coherence/INV-14", "copies/INV-15"),
    story="copy-home-that-fails",
    plant=replace_guard(Migrate, "check_copied", done_is_done),
)
