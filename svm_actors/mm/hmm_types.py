"""Arguments and results of hmm_range_fault (core_mm section 8)."""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

import attrs

from svm_actors.mm.folio import Folio
from svm_actors.mm.mmu_notifier import IntervalNotifier


class Hmm(IntFlag):
    """Bits of a hmm entry.  REQ_FAULT is VALID and REQ_WRITE is WRITE: outputs alias inputs."""

    NONE = 0
    VALID = 1
    WRITE = 2
    ERROR = 4
    REQ_FAULT = 1
    REQ_WRITE = 2


class HmmPfn(NamedTuple):
    """One entry: flags, and the folio when VALID.  No reference is held on it."""

    flags: Hmm
    folio: Folio | None = None
    order: int = 0
    """Mapping order: 0 for a PTE, PMD_ORDER for a huge mapping."""

    @property
    def valid(self) -> bool:
        """The page is there."""
        return bool(self.flags & Hmm.VALID)

    @property
    def write(self) -> bool:
        """The CPU entry is writable."""
        return bool(self.flags & Hmm.WRITE)

    @property
    def error(self) -> bool:
        """Nothing can be there."""
        return bool(self.flags & Hmm.ERROR)


HMM_NONE = HmmPfn(Hmm.NONE)
HMM_ERROR = HmmPfn(Hmm.ERROR)


@attrs.frozen
class WalkFailed:
    """Emitted when an unlocked walk answers an error."""

    name: str
    """The subscription it was for."""
    code: str
    """The error."""
    for_write: bool
    """Whether the caller asked for write permission on any page, as the request stood at the call."""


@attrs.frozen
class WalkDone:
    """Emitted when an unlocked walk answers with pages."""

    range: HmmRange
    """The walk."""


@attrs.frozen
class WalkPublished:
    """Emitted when a device has mapped what a walk found, with the lock held that its callback takes."""

    range: HmmRange
    """The walk."""


@attrs.define
class HmmRange:
    """struct hmm_range, in pages."""

    notifier: IntervalNotifier
    """The subscription whose sequence validates the walk."""
    notifier_seq: int
    """Value of read_begin before the walk; refreshed by the unlocked variant."""
    start: int
    """First page."""
    end: int
    """One past the last page."""
    pfns: list[HmmPfn]
    """One entry per page; in and out.  Start with HMM_NONE."""
    default_flags: Hmm
    """Request for every page: REQ_FAULT, REQ_WRITE or NONE (a pure snapshot)."""
    pfn_flags_mask: Hmm = Hmm.NONE
    """Which request bits are taken from ``pfns``."""
    dev_private_owner: object = None
    """Device-private pages of this owner are reported in place; others are brought to RAM."""
    walked_seq: int | None = None
    """Out: the sequence under which the last walk ran from the first page to the last; for oracles."""

    @property
    def asks_for_write(self) -> bool:
        """Any page is requested for write; to be looked at before the walk, whose answers alias the requests."""
        asked = self.default_flags
        for pfn in self.pfns if self.pfn_flags_mask else ():
            asked |= pfn.flags & self.pfn_flags_mask
        return bool(asked & Hmm.REQ_WRITE)
