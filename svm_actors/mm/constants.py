"""Numbers and flags of the core MM; 4 KiB pages, 2 MiB leaf tables."""

from __future__ import annotations

from enum import IntFlag
from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PTRS_PER_PTE: Final = 512
PMD_ORDER: Final = 9
PMD_SIZE: Final = PAGE_SIZE << PMD_ORDER
TASK_SIZE: Final = 1 << 47
TASK_PAGES: Final = TASK_SIZE >> PAGE_SHIFT
MMAP_BASE: Final = 0x7F00_0000_0000
"""Where address-less mappings are placed: below this, going down, as on x86-64."""
ULONG_MAX: Final = (1 << 64) - 1


class Prot(IntFlag):
    """mmap protection bits."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4


RW: Final = Prot.READ | Prot.WRITE


class Vm(IntFlag):
    """vm_flags the model knows.  MAYWRITE and friends are left out: every mapping may be upgraded."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4
    SHARED = 8
    IO = 16
    PFNMAP = 32
    DONTCOPY = 64
    WIPEONFORK = 128
    DONTEXPAND = 256
    LOCKED = 512
    GROWSDOWN = 1024
    HUGETLB = 2048
    ACCOUNT = 4096


ACCESS_FLAGS: Final = Vm.READ | Vm.WRITE | Vm.EXEC
SPECIAL_FLAGS: Final = Vm.IO | Vm.PFNMAP | Vm.DONTEXPAND
