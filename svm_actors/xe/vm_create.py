"""DRM_IOCTL_XE_VM_CREATE, VM_DESTROY and VM_BIND as user space makes them (vm_bind sections 1, 7.1; igt_vm_bind 5).

The structures have the fields of the real ones, also those that have no meaning yet: an extension chain
that nobody knows, and reserved or padding fields that must be zero, so that they can get a meaning later.
What is checked here is checked before anything is looked up or made.

A client (an open file) names its VMs by number.  A number it was not given, or gave back, is -ENOENT.

The flags say the mode: none of them a VM with dma-fences, LR a long-running one with preempt fences, LR and
FAULT one with page faults.  FAULT without LR is no mode.  SCRATCH and FAULT contradict each other: hardware
that needs scratch pages in fault mode is not modelled.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from svm_actors.engine.errors import EINVAL, ENOENT
from svm_actors.engine.signals import restarting
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.vm import XeVmConfig
from svm_actors.xe.vm_bind import BindOp, vm_bind
from svm_actors.xe.vm_mode import XeBindVm

if TYPE_CHECKING:
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.xe.bind_queue import BindQueue
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.sync import Sync


class VmFlag(enum.IntFlag):
    """DRM_XE_VM_CREATE_FLAG_*."""

    SCRATCH_PAGE = 1
    """What is not mapped reads 0 and swallows writes."""
    LR_MODE = 2
    """Long-running: jobs have no dma-fence."""
    FAULT_MODE = 4
    """Page faults are served; only with LR_MODE."""


KNOWN_FLAGS: Final = 7

MODE_FLAGS: Final[dict[str, VmFlag]] = {
    "dma_fence": VmFlag(0),
    "lr": VmFlag.LR_MODE,
    "fault": VmFlag.LR_MODE | VmFlag.FAULT_MODE,
}
"""The modes by name."""


@attrs.frozen
class VmCreate:
    """struct drm_xe_vm_create."""

    flags: int = 0
    """:class:`VmFlag` bits."""
    extensions: int = 0
    """Address of the first extension; there are none, so 0."""
    reserved: tuple[int, int] = (0, 0)
    """Must be zero."""


@attrs.frozen
class VmDestroy:
    """struct drm_xe_vm_destroy."""

    vm_id: int
    """What :meth:`XeFile.vm_create` answered."""
    pad: int = 0
    """Must be zero."""
    reserved: tuple[int, int] = (0, 0)
    """Must be zero."""


@attrs.frozen
class VmBind:
    """struct drm_xe_vm_bind."""

    vm_id: int
    """Which VM."""
    ops: Sequence[BindOp] = ()
    """What to do, in order."""
    queue: BindQueue | None = None
    """Bind queue; None: the VM's default one."""
    syncs: Sequence[Sync] = ()
    """In- and out-fences."""
    extensions: int = 0
    """There are none, so 0."""
    pad: int = 0
    """Must be zero."""
    pad2: int = 0
    """Must be zero."""
    reserved: tuple[int, int] = (0, 0)
    """Must be zero."""


def flags_of(mode: str, *, scratch: bool = False) -> int:
    """The flags of a mode by name.  -EINVAL."""
    if mode not in MODE_FLAGS:
        raise EINVAL
    return MODE_FLAGS[mode] | (VmFlag.SCRATCH_PAGE if scratch else 0)


def check_create(args: VmCreate) -> None:
    """-EINVAL for fields that must be zero, unknown flags and flags that make no mode."""
    flags = args.flags
    if args.extensions or any(args.reserved) or flags & ~KNOWN_FLAGS:
        raise EINVAL
    if flags & VmFlag.FAULT_MODE and flags & VmFlag.SCRATCH_PAGE:
        raise EINVAL
    if flags & VmFlag.FAULT_MODE and not flags & VmFlag.LR_MODE:
        raise EINVAL


async def create_vm(device: XeDevice, mm: Mm, args: VmCreate) -> XeBindVm:
    """xe_vm_create_ioctl without the number: an empty VM in the mode that the flags say.  -EINVAL."""
    check_create(args)
    if args.flags & VmFlag.FAULT_MODE:
        return await XeFaultVm.create_faulting(device, mm, XeVmConfig())
    mode = "lr" if args.flags & VmFlag.LR_MODE else "dma_fence"
    return await XeBindVm.create(device, mm, mode, scratch=bool(args.flags & VmFlag.SCRATCH_PAGE))


class XeFile:
    """struct xe_file: one client of one device; ``mm`` is the process that opened it."""

    def __init__(self, device: XeDevice, mm: Mm) -> None:
        self.device = device
        self.mm = mm
        self.vms: dict[int, XeBindVm] = {}
        """VMs by number."""
        self._next = 1

    async def vm_create(self, args: VmCreate) -> int:
        """DRM_IOCTL_XE_VM_CREATE: the number of an empty VM.  -EINVAL."""
        vm = await create_vm(self.device, self.mm, args)
        vm_id, self._next = self._next, self._next + 1
        self.vms[vm_id] = vm
        return vm_id

    async def vm_destroy(self, args: VmDestroy) -> None:
        """DRM_IOCTL_XE_VM_DESTROY.  -EINVAL for fields that must be zero, -ENOENT unknown number."""
        if args.pad or any(args.reserved):
            raise EINVAL
        vm = self.lookup(args.vm_id)
        del self.vms[args.vm_id]
        await vm.close()

    async def vm_bind(self, args: VmBind) -> None:
        """DRM_IOCTL_XE_VM_BIND.  -EINVAL, -ENOENT unknown number; see :func:`svm_actors.xe.vm_bind.vm_bind`."""
        if args.extensions or args.pad or args.pad2 or any(args.reserved):
            raise EINVAL
        vm = self.lookup(args.vm_id)
        call = partial(vm_bind, vm, args.ops, queue=args.queue, syncs=args.syncs)
        await restarting(self.device.engine, call)

    def lookup(self, vm_id: int) -> XeBindVm:
        """xe_vm_lookup.  -ENOENT."""
        if vm_id not in self.vms:
            raise ENOENT
        return self.vms[vm_id]

    async def close(self) -> None:
        """xe_file_close: what the client has left behind."""
        for vm_id in [*self.vms]:
            await self.vm_destroy(VmDestroy(vm_id))
