"""Events of the way into device memory, for oracles.  Emitted in the same atomic step as what they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from svm_actors.drm.pagemap_zdd import Devmem


@attrs.frozen
class DevmemPlaced:
    """The copies into an allocation are through; from now on CPU entries may name its pages."""

    devmem: Devmem
    """The allocation."""
    timeslice_ns: int
    """How long, in virtual ns, no CPU fault may pull them back (RULE-47)."""


@attrs.frozen
class DevmemFilled:
    """A migration to device memory reports success: every page of the window is in the allocation (RULE-58)."""

    devmem: Devmem
    """The allocation."""
