"""madvise takes all entries of an object's vma away and flushes only what it was called for (SVM-S13)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.madvise import VmMadvise


async def with_objects(advice: VmMadvise) -> None:
    """vmas of objects are not split, so all of each is zapped and marked."""
    await VmMadvise.run(advice)
    for vma in advice.vm.gpuvm.tree.overlapping(advice.start, advice.end):
        if isinstance(vma, XeBindVma) and vma.bo is not None and vma.valid:
            await vma.bo.resv.lock()
            try:
                await zap(advice, vma)
            finally:
                vma.bo.resv.unlock()


async def zap(advice: VmMadvise, vma: XeBindVma) -> None:
    """All of the vma, and then the flush of the interval."""
    vm = advice.vm
    async with vm.notifier_lock.reading():
        await advice.engine.step("pte_write", vm.page_table)
        vm.page_table.clear_range(vma.addr, vma.end)
        vma.invalidated = True
        await vm.device.tlb_inval.wait(await vm.device.tlb_inval.submit(vm.asid, advice.start, advice.end))


SVM_S13 = Bug(
    id="SVM-S13",
    title="madvise on a part of an object's mapping zaps all of it and flushes the part",
    removes="VmMadvise.mirror_vmas",
    races=(),
    oracles=("lifetime/INV-05",),
    story="advice-on-a-part-of-an-object",
    plant=replace_guard(VmMadvise, "run", with_objects),
)
