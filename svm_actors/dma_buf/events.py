"""What fences tell oracles.  Emitted in the same atomic step as what it tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.dma_buf.resv import DmaResv, Usage
    from svm_actors.engine.engine import Engine


@attrs.frozen
class FenceAdded:
    """A reservation has one more fence, whatever slot it went to."""

    resv: DmaResv
    """Where."""
    fence: Fence
    """Which."""
    usage: Usage
    """What for."""


@attrs.frozen
class FencesReplaced:
    """One fence of a reservation stands for all that a context had there: they need not be waited for any more."""

    resv: DmaResv
    """Where."""
    context: int
    """Whose fences."""


@attrs.frozen
class FencePublished:
    """Others can find the fence from here on, and may wait for it: it is promised (section 5)."""

    fence: Fence
    """Which; maybe a container."""
    place: str
    """Where: the name of a reservation or a syncobj."""


def publish(engine: Engine, fence: Fence, place: str) -> None:
    """Tell of it, unless it is signaled already: then there is nothing left to promise."""
    if engine.listeners and not fence.signaled:
        engine.emit(FencePublished(fence, place))
