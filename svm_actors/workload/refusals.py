"""Which errors an operation of a random program may end with.

Programs are drawn without looking whether their operations make sense, so many are refused.  Each is refused with the
codes that its man page or its driver documents, and with no others.  What an injected fault may cause comes on top
(docs/design/faults.md), in runs in which it has struck: -ENOMEM from a load is right when a page could not be had, and
a bug of the model when nothing has failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from svm_actors.engine.errors import KernelError, PropertyFailed

if TYPE_CHECKING:
    from svm_actors.world import World

Codes = tuple[str, ...]

CPU: Final[Mapping[str, Codes]] = {
    "read": ("SIGSEGV",),
    "write": ("SIGSEGV",),
    "mmap": (),
    "munmap": (),
    "mremap": ("EFAULT", "EINVAL"),
    "mprotect": ("ENOMEM",),
    "madvise": ("EINVAL", "ENOMEM"),
    "reclaim": (),
    "fork": ("ENOMEM",),
}
"""Of a thread, when nothing is injected.  fork: a device has a page for itself and somebody has it locked (MM-R28)."""
GPU: Final[Mapping[str, Codes]] = {"create_vm": (), "gpu": ("ENOENT",), "mirror": (), "driver": ()}
"""Of a mirroring VM: -ENOENT is a program for a closed one; ``mirror`` is one that nobody closes.  A fault that is
refused is a result, not an error."""
MIRROR: Final[Mapping[str, Codes]] = {
    "open": (),
    "dev_read": ("EFAULT",),
    "dev_write": ("EFAULT", "EPERM"),
    "to_dev": ("EFAULT", "EINVAL", "EPERM"),
    "to_sys": ("EINVAL",),
    "exclusive": ("EFAULT", "EOPNOTSUPP"),
    "snapshot": (),
}
"""Of a command of the mirror driver; to_dev and exclusive read back what they did by an ordinary fault."""

_NEEDS_MEMORY: Final = dict.fromkeys(("read", "write", "dev_read", "dev_write", "to_dev", "exclusive"), ("ENOMEM",))
_BRINGS_HOME: Final = {
    "read": ("SIGBUS",),
    "write": ("SIGBUS",),
}
"""A page of a GPU that cannot be brought home: VM_FAULT_SIGBUS."""
_CALLS: Final = dict.fromkeys(CPU, ("ESRCH", "SIGKILL"))
_GONE: Final = {
    **_CALLS,
    "fork": ("ESRCH", "EINTR"),
    **dict.fromkeys(("dev_read", "dev_write"), ("ESRCH", "EFAULT")),
    **dict.fromkeys(("to_dev", "to_sys", "exclusive", "snapshot"), ("ESRCH", "EINVAL", "EFAULT")),
    "open": ("ESRCH", "EINVAL"),
}
"""The process has been killed: its calls are not made, an access is not gone on with, its address space ends."""


def _with(*tables: Mapping[str, Codes]) -> dict[str, Codes]:
    """All of them, code by code."""
    found: dict[str, Codes] = {}
    for table in tables:
        for what, codes in table.items():
            found[what] = found.get(what, ()) + codes
    return found


INJECTED: Final[Mapping[str, Mapping[str, Codes]]] = {
    "page": _with(_NEEDS_MEMORY, _BRINGS_HOME, {"to_sys": ("ENOMEM",)}),
    "memory": _with(
        _NEEDS_MEMORY,
        _BRINGS_HOME,
        dict.fromkeys(("mmap", "munmap", "mremap", "mprotect", "fork", "create_vm", "open"), ("ENOMEM",)),
        {"mirror": ("ENOENT",)},  # the garbage collector could not take a range apart, which kills the VM
    ),
    "pgtable": _with(_NEEDS_MEMORY, {"fork": ("ENOMEM",), "mremap": ("ENOMEM",)}),
    "copy": _BRINGS_HOME,
    "dma": _BRINGS_HOME,
    "exit": _GONE,
    "reaper": _with(_GONE, {"read": ("SIGBUS",), "write": ("SIGBUS",)}),
}
"""What each kind of fault may cause, once it has struck.  vram and fence: the range stays where it is."""


class Refusals:
    """The refused operations of one program."""

    def __init__(self, world: World, *usual: Mapping[str, Codes]) -> None:
        self.engine = world.engine
        self.usual = _with(*usual)

    def accept(self, error: KernelError, *parts: str) -> None:
        """Raise unless an operation that consists of these parts may end so."""
        if any(error.code in self.usual[part] for part in parts):
            return
        struck = self.engine.faults.struck
        if any(error.code in INJECTED.get(kind, {}).get(part, ()) for kind in struck for part in parts):
            return
        reason = f"after injected faults ({', '.join(struck)})" if struck else "although nothing was injected"
        raise PropertyFailed("refusals", "errno", f"{' and '.join(parts)} fails with {error.code} {reason}")
