"""Errors of random programs: the documented ones always, those of injected faults once they have struck."""

from __future__ import annotations

import pytest

from svm_actors.engine.errors import EINVAL, ENOMEM, ESRCH, KERNEL_ERRORS, PropertyFailed
from svm_actors.engine.faults import KINDS
from svm_actors.explore.run import run
from svm_actors.mm.messages import SIGBUS, SIGKILL, SIGSEGV
from svm_actors.workload.refusals import CPU, GPU, INJECTED, MIRROR, Refusals
from svm_actors.world import World

SIGNALS = {SIGBUS.__name__, SIGKILL.__name__, SIGSEGV.__name__}


async def judged(world: World) -> None:
    """A few refusals, before and after a fault."""
    refusals = Refusals(world, CPU, GPU)
    refusals.accept(EINVAL(), "mremap")
    refusals.accept(ENOMEM(), "read", "fork")
    for error, part in ((ENOMEM(), "read"), (EINVAL(), "munmap"), (ESRCH(), "write")):
        with pytest.raises(PropertyFailed, match="nothing was injected"):
            refusals.accept(error, part)
    world.engine.faults.struck.append("page")
    refusals.accept(ENOMEM(), "read")
    refusals.accept(SIGBUS(), "write")
    with pytest.raises(PropertyFailed, match="after injected faults \\(page\\)"):
        refusals.accept(ENOMEM(), "munmap")
    world.engine.faults.struck.append("exit")
    refusals.accept(ESRCH(), "munmap")


def test_an_error_needs_a_reason() -> None:
    assert run(judged).failure is None


def test_the_tables_name_kinds_operations_and_errors_that_exist() -> None:
    operations = CPU.keys() | GPU.keys() | MIRROR.keys()
    assert set(INJECTED) <= set(KINDS)
    tables = [CPU, GPU, MIRROR, *INJECTED.values()]
    for table in tables:
        assert table.keys() <= operations
        assert {code for codes in table.values() for code in codes} <= KERNEL_ERRORS.keys() | SIGNALS
