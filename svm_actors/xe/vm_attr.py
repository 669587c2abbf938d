"""Attributes of mirrored memory: what madvise sets and a query answers (gpusvm section 8).

They lie on GPU VMAs, so they hold for addresses and not for pages: they outlive an munmap, and whatever is mapped
there next has them.
"""

from __future__ import annotations

import enum

import attrs

from svm_actors.xe import pat


class Atomic(enum.IntEnum):
    """DRM_XE_ATOMIC_*: who may do atomics on the memory."""

    UNDEFINED = 0
    """Nobody said: CPU and GPU, the latter in device memory."""
    DEVICE = 1
    """One GPU; where it can do them on system memory, pages stay."""
    GLOBAL = 2
    """Everybody."""
    CPU = 3
    """Not the GPU: -EACCES."""


class MigrationPolicy(enum.IntEnum):
    """DRM_XE_MIGRATE_*; kept and not acted on, as in 7.3.4."""

    ALL_PAGES = 0
    """Whatever is not there yet moves."""
    ONLY_SYSTEM_PAGES = 1
    """Pages of other devices stay."""


class DevmemFd(enum.IntEnum):
    """Values of the preferred location that are no file."""

    DEFAULT_DEVICE = 0
    """Memory of the device that faults."""
    DEFAULT_SYSTEM = -1
    """System memory."""


LOCATIONS = {DevmemFd.DEFAULT_DEVICE: "vram", DevmemFd.DEFAULT_SYSTEM: "system"}
"""How a mirror vma calls them."""


@attrs.frozen
class VmaAttr:
    """xe_vma_mem_attr, but for the preferred location."""

    migration_policy: MigrationPolicy = MigrationPolicy.ALL_PAGES
    """Goes with the preferred location."""
    atomic_access: Atomic = Atomic.UNDEFINED
    """Who may do atomics."""
    pat_index: int = pat.DEFAULT
    """Caching."""


DEFAULT_ATTR = VmaAttr()
"""Of memory that was never advised on."""


@attrs.frozen
class MemRangeAttr:
    """drm_xe_mem_range_attr: one vma, as a query answers it."""

    start: int
    """First byte."""
    end: int
    """One past the last byte."""
    preferred_location: str
    """``vram`` or ``system``."""
    migration_policy: MigrationPolicy
    """Goes with it."""
    atomic: Atomic
    """Who may do atomics."""
    pat_index: int
    """Caching."""
