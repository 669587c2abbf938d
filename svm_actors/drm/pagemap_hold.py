"""Who provides the code a region runs: drm_pagemap_dev_hold (pagemap section 1.1, RULE-52).

A device page may outlive the binding of its driver, and its last put, a CPU fault on it and the end of its region all
run the driver's code.  So a region holds the module until it is destroyed; what gives that up is a work item of the
system, for the code that asks for it is the module's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EBUSY, PropertyFailed

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine


class Provider:
    """The module of a driver."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.refs = 0
        """Regions that hold it."""
        self.unloaded = False

    def get(self) -> None:
        """try_module_get; it is being run."""
        self.running()
        self.refs += 1

    def put(self) -> None:
        """module_put."""
        self.refs -= 1

    def running(self) -> None:
        """Its code is entered: it must be there (RULE-52)."""
        if self.unloaded:
            raise PropertyFailed("lifetime", "RULE-52", f"code of {self.name} is run after it was unloaded")

    def unload(self) -> None:
        """SVM-R36: rmmod.  -EBUSY while a region holds it, for its last page may be anybody's."""
        if self.refs:
            self.engine.count("SVM-R36")
            raise EBUSY
        self.unloaded = True
