"""What a machine is made of."""

from __future__ import annotations

import attrs

from svm_actors.engine.faults import KINDS


def _known_faults(config: Config, field: attrs.Attribute[tuple[str, ...]], kinds: tuple[str, ...]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"no fault is called {unknown[0]!r}; known: {', '.join(KINDS)}")


@attrs.frozen
class Config:
    """The machine.  Every field has a default that makes a small world."""

    gpus: int = 1
    """Number of GPUs."""
    vram_pages: int = 4096
    """Device memory per GPU, in 4 KiB pages."""
    ram_pages: int | None = None
    """RAM in pages; None is no limit."""
    mirrors: int = 2
    """Number of mirror devices that can be opened."""
    fault_queue_size: int = 16
    """Entries of a GPU's fault queue."""
    atomics_on_system: bool = False
    """True when GPU atomics work on system memory."""
    mirror_driver: str = attrs.field(default="mended", validator=attrs.validators.in_(("mended", "two-pass", "7.3.4")))
    """``mended``: a correct small driver.  ``two-pass``: the same with callbacks in two passes.
    ``7.3.4``: the stock test driver with its traps (HM-D01 ...),
    which loses writes and uses freed pages as soon as its commands race."""
    faults: tuple[str, ...] = attrs.field(default=(), validator=_known_faults)
    """Kinds of faults to inject (:data:`svm_actors.engine.faults.KINDS`); none by default."""
    most_faults: int = attrs.field(default=2, validator=attrs.validators.ge(0))
    """Injected faults of one run, at most."""
    fault_odds: int = attrs.field(default=20, validator=attrs.validators.ge(2))
    """One point in so many strikes where draws are uniform."""
