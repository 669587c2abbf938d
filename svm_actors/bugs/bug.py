"""What a planted bug is, and how one is put into a world."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from svm_actors.world import GpuDevice, World

Hook = Callable[["GpuDevice"], None]


@attrs.frozen
class Bug:
    """One deviation."""

    id: str
    """Digest id."""
    title: str
    """What is wrong, in a few words."""
    removes: str
    """The guard that is gone: ``class.method``."""
    races: tuple[str, ...]
    """Ids of the races whose window it opens."""
    oracles: tuple[str, ...]
    """Any of these, as ``oracle`` or ``oracle/rule``, is how it is noticed."""
    plant: Hook = attrs.field(repr=False)
    """Change one GPU's driver, as soon as it is built."""

    def install(self, world: World) -> None:
        """Plant it in every GPU of a world, those already built and those to come."""
        for device in world.gpus:
            self.plant(device)
        world.hooks.append(self.plant)


def replace_guard(part: str | type, guard: str, deviation: Callable[..., Any]) -> Hook:
    """A hook that swaps one method of one of the classes a driver is built from.

    ``part`` is a field of :class:`XeParts`, or one of the classes that are looked up with :meth:`XeParts.of`.
    What is there is subclassed, so several bugs can be planted at once.
    """

    def plant(device: GpuDevice) -> None:
        parts = device.driver.parts
        original = getattr(parts, part) if isinstance(part, str) else parts.of(part)
        if not hasattr(original, guard):
            raise TypeError(f"{original.__name__} has no guard {guard}")
        deviant = type(original.__name__, (original,), {guard: deviation})
        if isinstance(part, str):
            setattr(parts, part, deviant)
        else:
            parts.replaced[part] = deviant

    return plant
