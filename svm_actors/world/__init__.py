"""One machine, wired: the world a scenario gets, and the verbs of its parts.

``world`` builds and tears down; ``process`` has the system calls, ``gpu_device`` makes GPU address
spaces: ``gpu_vm`` mirrors a process, ``bind_vm`` is filled by user space, ``fault_vm`` is both.
"""

from __future__ import annotations

from svm_actors.world.bind_vm import BindVm, UserSyncobj
from svm_actors.world.config import Config
from svm_actors.world.fault_vm import FaultVm
from svm_actors.world.gpu_device import VRAM_BASE_PFN, GpuDevice
from svm_actors.world.gpu_vm import GpuVm
from svm_actors.world.process import Process
from svm_actors.world.world import MIRROR_DRIVERS, World

__all__ = [
    "MIRROR_DRIVERS",
    "VRAM_BASE_PFN",
    "BindVm",
    "Config",
    "FaultVm",
    "GpuDevice",
    "GpuVm",
    "Process",
    "UserSyncobj",
    "World",
]
