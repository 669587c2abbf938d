"""VMB-B14: whoever evicts an external object edits the lists of the VMs that map it."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.drm.gpuvm import DrmGpuvm, DrmGpuvmBo


def in_reach(_vm: DrmGpuvm, _vm_bo: DrmGpuvmBo) -> bool:
    """As if the reservation of the object were that of the VM."""
    return False


VMB_B14 = Bug(
    id="VMB-B14",
    title="the eviction of an external object edits the VM's evict list without the VM's reservation",
    removes="GpuvmEvict.evict_list_out_of_reach",
    races=("VMB-R06",),
    oracles=("gpuvm", "engine"),
    story="bind-shared",
    plant=replace_guard(DrmGpuvm, "evict_list_out_of_reach", in_reach),
)
