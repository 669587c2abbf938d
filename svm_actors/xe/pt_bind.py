"""Carrying out operations on the page table: prepare, pre-commit, write, commit, abort (vm_bind sections 6, 7.3).

*Prepare* stages nodes and computes what to write; it may fail, and may be run again, so it starts from
nothing every time (VMB-B01).  *Pre-commit* decides between CPU and job and takes a last look at user memory.
Then nothing fails any more: entries are written, or the job that will is pushed; staging becomes live;
fences are published; the notifier lock, if it was needed, is dropped last.

The CPU writes at once when nothing at all has to be waited for.  Otherwise a job waits for in-syncs, for
the slots the operations need (KERNEL; BOOKKEEP where entries in use are rewritten), for the external
objects' KERNEL slots and for overlapping updates of other queues.

Simplified: one tile; entries of one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import allocate
from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.errors import EAGAIN, ENOMEM, KernelError, PropertyFailed
from svm_actors.gpu.page_table import GpuPte
from svm_actors.xe.bind_ops import OpKind, XeOp
from svm_actors.xe.bind_queue import PtJob, TlbJob
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.pt_prepared import Prepared
from svm_actors.xe.scratch import SCRATCH_PTE, bind_must_flush
from svm_actors.xe.svm_prefetch import is_still_valid

if TYPE_CHECKING:
    from svm_actors.drm.exec import DrmExec
    from svm_actors.xe.bind_queue import BindQueue
    from svm_actors.xe.svm_prefetch import RangePrefetch
    from svm_actors.xe.vm_mode import XeBindVm

NULL_PTE = SCRATCH_PTE
"""Of a null mapping: it leads to no page."""

FENCES_PER_BIND = 2
"""Slots a bind needs in every reservation: the writes and the flush."""


class PtBind:
    """One run of operations against the page table of a VM, through one queue."""

    def __init__(self, vm: XeBindVm, queue: BindQueue, ops: Sequence[XeOp], in_fences: Sequence[Fence] = ()) -> None:
        self.vm = vm
        self.engine = vm.engine
        self.queue = queue
        self.ops = ops
        self.in_fences = in_fences
        self.prepared = Prepared()
        self.passes = 0

    async def run(self, exec_: DrmExec) -> list[Fence]:
        """ops_execute: answers the fences that, all signaled, make it complete."""
        self.vm.resv_dma.assert_held()
        await self.prepare()
        if self.prepared.updates:
            return await self._run_prepared(exec_)
        # Nothing to write, as for an unmap of a hole; the syncs count all the same.
        self.vm.pt_tree.abort()
        self._settle()
        return [*self.in_fences, *self.queue.last_fences()]

    # -- prepare -----------------------------------------------------------------------------

    def reset(self) -> None:
        """VMB-B01: a pass that runs again starts from nothing."""
        for vma in self.prepared.staged:
            vma.staged = False
        self.vm.pt_tree.abort()
        self.prepared = Prepared()

    async def prepare(self) -> None:
        """xe_pt_update_ops_prepare.  -ENOMEM."""
        self.reset()
        self.passes += 1
        await self.engine.step("alloc", self.vm.pt_tree, "page tables")
        try:
            allocate(self.engine, self.vm.memory, "page tables")
            self.engine.faults.fail("pgtable")
            for op in self.ops:
                if op.ranges is not None:
                    await op.ranges.take_cursors()
                self._prepare_op(op)
        except BaseException:
            self.reset()
            raise

    def _prepare_op(self, op: XeOp) -> None:
        match op.kind:
            case OpKind.MAP:
                if not op.vma.deferred:
                    self._bind(op.vma)
                    self.prepared.wait_for(Usage.KERNEL)
            case OpKind.UNMAP:
                self._unbind(op.vma, op.vma.addr, op.vma.end)
            case OpKind.REMAP:
                self._remap(op)
            case OpKind.REBIND | OpKind.PREFETCH:
                if op.ranges is not None:
                    self._bind_ranges(op.ranges)
                elif op.vma.mirror is None:
                    self._rewrite(op.vma)

    def _bind_ranges(self, prefetch: RangePrefetch) -> None:
        """bind_range_prepare: SVM ranges that an operation prefetches, in its place among the others."""
        for range_, entries in prefetch.cursors:
            self.prepared.add_entries(entries, range_.start, range_.end, flush=bind_must_flush(self.vm))
            self.vm.pt_tree.stage(range_.start, range_.end)
            self.prepared.ranges.append((prefetch.vm, range_, self.prepared.updates[-1]))
            self.prepared.wait_for(Usage.KERNEL)

    def _bind(self, vma: XeBindVma) -> None:
        """xe_pt_stage_bind: nodes and entries of a vma."""
        vma.alive("somebody binds")
        self.vm.pt_tree.stage(vma.addr, vma.end)
        entries = self.entries(vma)
        if entries:
            self.prepared.add_entries(entries, vma.addr, vma.end, flush=bind_must_flush(self.vm))
        self.prepared.userptr |= vma.userptr is not None
        self.prepared.staged.append(vma)
        vma.staged = True

    def entries(self, vma: XeBindVma) -> tuple[tuple[int, GpuPte], ...]:
        """Entries for the pages where they are now (VMB-B35); those of a null mapping lead nowhere."""
        writable = not vma.read_only
        if vma.userptr is not None:
            pages = vma.userptr.dma_pages()
            return tuple((vma.addr + i, GpuPte.of(dma, writable, folio)) for i, (dma, folio) in enumerate(pages))
        if vma.bo is None:
            return tuple((vpn, NULL_PTE) for vpn in range(vma.addr, vma.end))
        bo, first = vma.bo, vma.offset
        if not bo.resident:
            text = f"entries of {vma.name} are written, but {bo.name} was thrown out since it was validated"
            raise PropertyFailed("bindings", "INV-VMB-13", text)
        return tuple(
            (vma.addr + index, GpuPte.of(bo.dma_addr(first + index), writable, bo.folios[first + index]))
            for index in range(vma.range)
        )

    def _unbind(self, vma: XeBindVma, start: int, end: int, *, flush: bool = True) -> None:
        """xe_pt_stage_unbind; nothing to do for what was never bound."""
        if vma.present or vma.staged:
            self.prepared.clear(start, end, flush=flush)
            self.prepared.unstaged.append(vma)
            self.prepared.userptr |= self.is_zapped_by_notifiers(vma)

    @staticmethod
    def is_zapped_by_notifiers(vma: XeBindVma) -> bool:
        """VMB-R09: then whoever takes its entries away, and frees nodes with that, keeps notifiers out.

        Where they do not zap, they come before the last look at what goes, or find the fence.
        """
        return vma.userptr is not None

    def _remap(self, op: XeOp) -> None:
        """What the cut vacates goes; pieces whose entries cannot stay are written again (8.5, VMB-R13).

        Such a piece is gone for a moment, although nobody asked for that: so the job is memory management, it
        waits for everything, and everything after it waits for it.
        """
        old = op.vma
        start = old.addr if op.prev is None or not op.skip_prev else op.prev.end
        end = old.end if op.next is None or not op.skip_next else op.next.addr
        self._unbind(old, start, end)
        for piece, skip in ((op.prev, op.skip_prev), (op.next, op.skip_next)):
            if piece is None:
                continue
            if skip:
                if old.present or old.staged:
                    piece.staged = True
                    self.prepared.staged.append(piece)
            elif old.present or old.staged or not old.deferred:
                self._bind(piece)
                self.kept_piece_is_kernel_work()

    def kept_piece_is_kernel_work(self) -> None:
        """VMB-R13: nobody has asked for the moment in which it is gone, so no job may meet it."""
        self._is_kernel_work()

    def _is_kernel_work(self) -> None:
        """Wait for BOOKKEEP, publish as KERNEL (section 3)."""
        self.prepared.wait_for(Usage.BOOKKEEP)
        self.prepared.kernel = True

    def _rewrite(self, vma: XeBindVma) -> None:
        """xe_vm_rebind and prefetch: the same place, maybe other pages.

        No message: the next job of every queue flushes in its ring, and none runs meanwhile (VMB-B13).  A
        long-running context has no next job.  In fault mode whoever changed the pages has zapped the entries and
        flushed, so entries are only added.
        """
        if not self.vm.faulting:
            self._unbind(vma, vma.addr, vma.end, flush=self.vm.lr)
        self._bind(vma)
        self._is_kernel_work()

    # -- pre-commit, write, commit ---------------------------------------------------------------

    async def _run_prepared(self, exec_: DrmExec) -> list[Fence]:
        """What allocates comes first: under notifier_lock nothing may, as reclaim waits for notifiers."""
        job, flush = self._make_jobs()
        keeps_notifiers_out = self.prepared.needs_notifier_lock
        if keeps_notifiers_out:
            await self.vm.notifier_lock.read()
            try:
                self.look_at_user_memory()
                self._look_at_ranges(job)
            except KernelError:
                self.vm.notifier_lock.release()
                self._abort(job, flush)
                raise
        self.look_at_what_goes()
        try:
            written = await self._write(job)
            await self._commit(exec_, written, flush)
        finally:
            if keeps_notifiers_out:
                self.vm.notifier_lock.release()
        return self.queue.last_fences()

    def _make_jobs(self) -> tuple[PtJob | None, TlbJob | None]:
        """Both jobs, or neither; each step of the way back undoes what was done, and no more (FEN-B24).  -ENOMEM."""
        job = None
        try:
            job = self._make_job()
            return job, self._make_flush()
        except ENOMEM:
            self._abort(job)
            raise

    def _make_job(self) -> PtJob | None:
        """None: the CPU may write at once (7.3)."""
        depends = self._dependencies()
        if not depends:
            if self.queue_is_idle():
                return None
            self.engine.count("VMB-R11")
        self.engine.faults.fail("memory")
        job = PtJob(self.queue, self.prepared.updates)
        try:
            for fence in depends:
                job.add_dependency(fence.get())
        except ENOMEM:
            job.cleanup()
            raise
        return job

    def queue_is_idle(self) -> bool:
        """VMB-R11: the CPU does not overtake what the queue has still to write; vm.resv keeps others from adding."""
        return self.queue.idle

    def _make_flush(self) -> TlbJob | None:
        """xe_tlb_inval_job_create; room for the one fence it will depend on is made now (section 13)."""
        span = self.prepared.flush
        if span is None:
            return None
        self.engine.faults.fail("memory")
        flush = TlbJob(self.queue, *self._flush_span(span))
        try:
            flush.prealloc_dependency()
        except ENOMEM:
            flush.cleanup()
            raise
        return flush

    @staticmethod
    def _flush_span(span: tuple[int, int]) -> tuple[int, int]:
        """What has to go from the TLB: exactly what was asked, or more."""
        return span

    def look_at_user_memory(self) -> None:
        """VMB-R17: pages that went meanwhile are bound all the same; in fault mode they are not: -EAGAIN.

        The notifier has put the vma on the list of invalidated ones, so the next exec or the rebind worker binds
        it again before a job runs (section 6, step 2).  With faults nobody looks again before the GPU does.
        """
        if any(vma.userptr is not None and vma.userptr.stale() for vma in self.prepared.staged):
            self.engine.count("VMB-R17")
            if self.vm.faulting:
                raise EAGAIN

    def _look_at_ranges(self, job: PtJob | None) -> None:
        """SVM-R28: ranges whose pages went meanwhile are not bound; that is no error, nor anybody else's business."""
        for vm, range_, update in [*self.prepared.ranges]:
            if not is_still_valid(vm, range_):
                self.prepared.drop(update)
        if job is not None:
            job.updates = tuple(self.prepared.updates)

    def look_at_what_goes(self) -> None:
        """An invalid mapping that is bound no more must be unbound before the next job runs (section 4.1).

        Its entries lead to memory that belongs to somebody else by now, and the user's in-syncs may hold them up.  So
        jobs wait for the unbind, and the rebind worker does, as for a move.
        """
        if not self.vm.faulting and any(self.is_invalid(vma) for vma in self.prepared.unstaged):
            self.engine.count("bind.invalid_unbound")
            self.prepared.kernel = True

    def is_invalid(self, vma: XeBindVma) -> bool:
        """What is behind it has moved or changed since its entries were written."""
        if vma.userptr is not None:
            return bool(vma.userptr.stale())
        return vma in self.vm.rebind_list or (vma.vm_bo is not None and vma.vm_bo.evicted)

    def _abort(self, *jobs: PtJob | TlbJob | None) -> None:
        """xe_pt_update_ops_abort: nothing was written; the caller gives up, or pins again and comes back."""
        for job in jobs:
            if job is not None:
                job.cleanup()
        self.reset()

    async def _write(self, job: PtJob | None) -> Fence | None:
        """By the CPU, answering None, or by a job, answering its fence."""
        if job is None:
            for update in self.prepared.updates:
                single = update.start if update.end - update.start == 1 else None
                await self.engine.step("pte_write", self.vm.page_table, single)
                update.write(self.vm.page_table)
            self.engine.count("bind.cpu")
            return None
        await job.arm()
        fence = job.s_fence.finished.get()
        await job.push()
        self.queue.note_pt(fence)
        self.engine.count("bind.job")
        return fence

    def _dependencies(self) -> list[Fence]:
        """Everything unsignaled that must come first (7.3)."""
        vm, prepared = self.vm, self.prepared
        found = self.in_syncs()
        if prepared.wait is not None:
            found += vm.resv_dma.unsignaled(prepared.wait)
        for op in self.ops:
            obj = op.vma.obj
            if obj is not None and op.kind is not OpKind.UNMAP and vm.gpuvm.is_extobj(obj):
                found += obj.resv.unsignaled(Usage.KERNEL)
        found += self.other_updates()
        self._note_running_jobs()
        return list(dict.fromkeys(found))

    def in_syncs(self) -> list[Fence]:
        """VMB-R12: what user space says comes first, jobs that use what is unbound among it; nobody else knows."""
        return [fence for fence in self.in_fences if not fence.is_signaled()]

    def _note_running_jobs(self) -> None:
        """VMB-R12: jobs that may use what goes; it is for user space to wait for them, with an in-sync.

        VMB-R13: where the kernel rewrites what nobody asked it to, it waits itself.
        """
        own = self.queue.last_fences()
        pending = [fence for fence in self.vm.resv_dma.unsignaled(Usage.BOOKKEEP) if fence not in own]
        if self.prepared.kernel and pending:
            self.engine.count("VMB-R13")
        elif self.prepared.unstaged and pending:
            self.engine.count("VMB-R12")

    def other_updates(self) -> list[Fence]:
        """VMB-R10: updates under the same page-table nodes, whichever queue they came through."""
        found = self.vm.range_fences.overlapping(*self.prepared.span)
        if any(fence is not self.queue.last_pt for fence in found):
            self.engine.count("VMB-R10")
        return found

    async def _commit(self, exec_: DrmExec, written: Fence | None, flush: TlbJob | None) -> None:
        """Point of no return behind it: nothing here fails."""
        vm, prepared = self.vm, self.prepared
        await self.engine.step("write", vm.pt_tree, "commit")
        vm.pt_tree.commit(prepared.updates)
        if written is not None and prepared.updates:
            vm.range_fences.insert(*prepared.span, written)
        if prepared.kernel:
            vm.tlb_flush_seqno += 1
        if flush is not None:
            await self._push_flush(flush, written)
        fences = [fence for fence in (written, self.queue.last_tlb if flush is not None else None) if fence is not None]
        usage = Usage.KERNEL if prepared.kernel else Usage.BOOKKEEP
        await self.engine.step("write", vm.resv_dma)
        for fence in fences:
            for obj in exec_.objects:
                obj.resv.add(fence, usage)
        self._settle()

    def _settle(self) -> None:
        """The state of the vmas is what the page table will be when all that was submitted is through.

        In the order of the array: a piece that a cut has left may be written, or cut again, by a later operation.
        """
        for _vm, range_, _update in self.prepared.ranges:
            range_.note_bound()
            self.engine.count("gpu.bind")
        for vma in self.prepared.unstaged:
            vma.present = False
        inherited = self._inherited()
        for vma in self.prepared.staged:
            vma.staged = False
            vma.present = not vma.destroyed
            vma.large = vma.may_have_large_entries()
            old = inherited.pop(vma, None)
            if old is not None:
                vma.invalidated = old.invalidated
            else:
                vma.invalidated = False
                self.vm.rebind_list.pop(vma, None)

    def _inherited(self) -> dict[XeBindVma, XeBindVma]:
        """Pieces that begin with entries of a vma that was cut, with that vma.

        A piece that keeps entries keeps those that were zapped, too.  The digest is silent; were it forgotten, a
        fault would find the piece valid and never bind it.  What an operation of the array has written anew is not
        zapped any more, neither here nor in what is cut from it: the next eviction would pass it over.
        """
        return {
            piece: op.vma
            for op in self.ops
            for piece, skip in ((op.prev, op.skip_prev), (op.next, op.skip_next))
            if piece is not None and skip
        }

    async def _push_flush(self, flush: TlbJob, written: Fence | None) -> None:
        """After the entries are written, and not before (section 13)."""
        if written is not None:
            flush.add_dependency(written.get())
        await flush.arm()
        fence = flush.s_fence.finished.get()
        await flush.push()
        self.queue.note_tlb(fence)
