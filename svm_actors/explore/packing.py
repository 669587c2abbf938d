"""Choices and arities as bytes: for tokens and stores.

All arities, then all choices, each as a variable-length number (seven bits per byte, low bits
first, the high bit set on all but the last byte), deflated.  Both columns repeat a lot, so they
shrink well apart.  There is one encoding of a list of choices; the reader accepts no other number
form, and never unpacks more than the stated count can need.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

MAX_CHOICES: Final = 1 << 22
"""Choices in one run."""
MAX_ARITY: Final = 1 << 62
"""Alternatives of one choice; data draws can have many."""

_LONGEST = 9
"""Bytes of the longest number below MAX_ARITY."""


class PackingError(ValueError):
    """Not a list of choices; the message says in one line what was expected."""


def pack(choices: Sequence[int], arities: Sequence[int]) -> bytes:
    """Deflated bytes; PackingError unless each choice lies in the range its arity gives."""
    _check(choices, arities)
    return zlib.compress(_varints(chain(arities, choices)), 9)


def unpack(packed: bytes, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``(choices, arities)`` of ``count`` choices."""
    if not 0 <= count <= MAX_CHOICES:
        raise PackingError(f"expected 0 to {MAX_CHOICES} choices, found a count of {count}")
    numbers = _numbers(inflate(packed, 2 * count * _LONGEST, "choices", "list of choices of the stated length"))
    if len(numbers) != 2 * count:
        raise PackingError(f"expected {count} arities and {count} choices, found {len(numbers)} numbers")
    arities, choices = tuple(numbers[:count]), tuple(numbers[count:])
    _check(choices, arities)
    return choices, arities


def _check(choices: Sequence[int], arities: Sequence[int]) -> None:
    if len(choices) != len(arities):
        raise PackingError(f"expected one arity for each choice, found {len(choices)} choices, {len(arities)} arities")
    if len(choices) > MAX_CHOICES:
        raise PackingError(f"expected at most {MAX_CHOICES} choices, found {len(choices)}")
    for index, (choice, arity) in enumerate(zip(choices, arities, strict=True)):
        if not 2 <= arity < MAX_ARITY:
            raise PackingError(f"expected an arity of at least 2 and below 2**62 at choice {index}, found {arity}")
        if not 0 <= choice < arity:
            raise PackingError(f"expected a choice below its arity {arity} at choice {index}, found {choice}")


def _varints(numbers: Iterable[int]) -> bytes:
    out = bytearray()
    for number in numbers:
        rest = number
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def inflate(packed: bytes, limit: int, what: str, whole: str) -> bytes:
    """Inflate to at most ``limit`` bytes; all input must be used.  PackingError, which says what was expected."""
    stream = zlib.decompressobj()
    try:
        # One more than allowed tells "too long" from "just fits" (and a limit of 0 would mean none).
        data = stream.decompress(packed, limit + 1)
    except zlib.error:
        raise PackingError(f"expected deflated {what}, found other bytes") from None
    if len(data) > limit or not stream.eof or stream.unused_data:
        raise PackingError(f"expected exactly one deflated {whole}")
    return data


def _numbers(data: bytes) -> list[int]:
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift >= 7 * _LONGEST:
                raise PackingError("expected numbers of at most 62 bits")
            continue
        if byte == 0 and shift:
            raise PackingError("expected every number in its shortest form")
        numbers.append(number)
        number = shift = 0
    if shift:
        raise PackingError("expected the last number to be complete")
    return numbers
