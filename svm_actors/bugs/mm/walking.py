"""MM-B08, MM-B31: what a device fault makes of what it finds and of what goes wrong (core_mm section 8)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.engine.errors import EFAULT, KernelError
from svm_actors.engine.parts import Deviate
from svm_actors.mm import hmm
from svm_actors.mm.core import CoreMm
from svm_actors.mm.hmm_types import HMM_NONE, Hmm
from svm_actors.mm.vma import Vma

STORY = "two-devices-want-one-page"


def no_place_for_me(self: hmm.Walk, _vma: Vma, vpn: int, _stop: int, request: Hmm) -> None:
    """A page that another device has is an address that cannot be reached."""
    if request:
        raise EFAULT
    self._put(vpn, HMM_NONE)


MM_B08 = Bug(
    id="MM-B08",
    title="hmm refuses a page that lies in the memory of another device",
    removes="Walk._foreign",
    races=(),
    oracles=("scenario/EFAULT",),
    story=STORY,
    plant=replace_guard(hmm.Walk, "_foreign", no_place_for_me),
)


def folded(original: Deviate) -> object:
    """Whatever kept a page from being had, the address was bad."""

    async def fault_in(core: CoreMm, need: hmm.NeedsFault) -> None:
        try:
            await hmm.fault_in(core, need)
        except KernelError:
            raise EFAULT from None

    return fault_in


MM_B31 = Bug(
    id="MM-B31",
    title="hmm reports that memory has run out as a bad address",
    removes="hmm.fault_in",
    races=(),
    oracles=("scenario/EFAULT",),
    story=STORY,
    plant=replace_part(hmm.fault_in, folded),
)
