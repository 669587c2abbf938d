"""A recorded memory call as an action, with the symbolic arguments made uniform.

strace prints flags by name, or as numbers under ``-X raw``; both become the same names.
"""

from __future__ import annotations

from typing import Final

from .strace import Call
from .strace_actions import Action, Brk, Madvise, Mmap, Mprotect, Mremap, Munmap
from .strace_values import Flags, Keyword, Opaque, Value, flags_inside

PROT: Final = {1: "PROT_READ", 2: "PROT_WRITE", 4: "PROT_EXEC"}
LETTERS: Final = {"PROT_READ": "r", "PROT_WRITE": "w", "PROT_EXEC": "x"}
MAP: Final = {
    1: "MAP_SHARED",
    2: "MAP_PRIVATE",
    0x10: "MAP_FIXED",
    0x20: "MAP_ANONYMOUS",
    0x100: "MAP_GROWSDOWN",
    0x4000: "MAP_NORESERVE",
    0x8000: "MAP_POPULATE",
    0x20000: "MAP_STACK",
    0x40000: "MAP_HUGETLB",
    0x100000: "MAP_FIXED_NOREPLACE",
}
MREMAP: Final = {1: "MREMAP_MAYMOVE", 2: "MREMAP_FIXED", 4: "MREMAP_DONTUNMAP"}
CLONE: Final = {0x100: "CLONE_VM", 0x4000: "CLONE_VFORK", 0x10000: "CLONE_THREAD"}
MADV: Final = {
    0: "MADV_NORMAL",
    1: "MADV_RANDOM",
    2: "MADV_SEQUENTIAL",
    3: "MADV_WILLNEED",
    4: "MADV_DONTNEED",
    8: "MADV_FREE",
    9: "MADV_REMOVE",
    10: "MADV_DONTFORK",
    11: "MADV_DOFORK",
    14: "MADV_HUGEPAGE",
    15: "MADV_NOHUGEPAGE",
    20: "MADV_COLD",
    21: "MADV_PAGEOUT",
    22: "MADV_POPULATE_READ",
    23: "MADV_POPULATE_WRITE",
}


def memory_action(call: Call) -> Action | None:
    """The action of a memory call; None for calls of other kinds.  The arguments were checked when parsed."""
    result = call.result if call.succeeded else None
    match call.name, call.args:
        case "mmap", (int() as wish, int() as length, prot, flags, *_):
            return _mmap(wish if result is None else result, length, prot, flag_names(flags, MAP))
        case "munmap", (int() as address, int() as length, *_):
            return Munmap(address, length)
        case "mremap", (int() as address, int() as old, int() as new, flags, *more):
            target = more[0] if more and isinstance(more[0], int) else None
            return Mremap(address, old, new, flag_names(flags, MREMAP), target if result is None else result)
        case "mprotect", (int() as address, int() as length, prot, *_):
            return Mprotect(address, length, prot_letters(prot))
        case "madvise", (int() as address, int() as length, advice, *_):
            return Madvise(address, length, MADV.get(advice, str(advice)) if isinstance(advice, int) else _one(advice))
        case "brk", (int() as end, *_):
            return Brk(end or None)
    return None


def _mmap(address: int, length: int, prot: Value, flags: tuple[str, ...]) -> Mmap:
    return Mmap(
        address,
        length,
        prot_letters(prot),
        flags,
        shared="MAP_SHARED" in flags or "MAP_SHARED_VALIDATE" in flags,
        fixed="MAP_FIXED" in flags or "MAP_FIXED_NOREPLACE" in flags,
        file="MAP_ANONYMOUS" not in flags,
    )


def _one(value: Value) -> str:
    return "|".join(value.names) if isinstance(value, Flags) else str(value)


def flag_names(value: Value, bits: dict[int, str]) -> tuple[str, ...]:
    """The flags by name; bits without a name stay one hexadecimal number."""
    if isinstance(value, Flags):
        return value.names
    if not isinstance(value, int):
        return ()
    names = [name for bit, name in bits.items() if value & bit]
    unnamed = value & ~sum(bits)
    return (*names, hex(unnamed)) if unnamed else tuple(names)


def prot_letters(value: Value) -> str:
    """A protection as letters out of ``rwx``, or ``none``."""
    names = flag_names(value, PROT)
    return "".join(letter for name, letter in LETTERS.items() if name in names) or "none"


def shares_memory(call: Call) -> bool:
    """Whether a clone, clone3, fork or vfork makes a task in the same address space."""
    return call.name == "vfork" or "CLONE_VM" in _clone_flags(call)


def _clone_flags(call: Call) -> tuple[str, ...]:
    for value in call.args:
        if isinstance(value, Keyword) and value.name == "flags":
            return flag_names(value.value, CLONE)
        if isinstance(value, Opaque) and call.name == "clone3":
            return flag_names(flags_inside(value.text), CLONE)
    return ()
