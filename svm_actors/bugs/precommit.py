"""SVM-B37: the last look before page-table entries are written is left out."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.xe.pt import XePt
from svm_actors.xe.svm_range import XeSvmRange


def no_recheck(_pt: XePt, _range: XeSvmRange) -> None:
    """Whatever get_pages found is bound, given back meanwhile or not."""


SVM_B37 = Bug(
    id="SVM-B37",
    title="page-table entries are committed without checking that the pages are still valid",
    removes="XePt.precommit_range",
    races=("SVM-R02", "SVM-R12", "SVM-R49", "RULE-09"),
    oracles=("invalidation/INV-01", "structure/INV-03", "lifetime", "coherence"),
    story="two-vms",
    plant=replace_guard(XePt, "precommit_range", no_recheck),
)
