"""Page contents: immutable, shared until written, and free of cost while untouched.

A page is one fill byte plus a patch of single bytes.  A fresh page is ``ZERO``; copying a page is
copying a reference; a whole-page fill drops the patch.  Programs that touch a few bytes per page
therefore cost a few bytes per page, whatever the size of the mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from svm_actors.mm.constants import PAGE_SIZE

_NO_PATCH: Mapping[int, int] = MappingProxyType({})


class Content:
    """What 4096 bytes hold.  Compare with ``==``; never change one in place."""

    __slots__ = ("fill", "patch")

    def __init__(self, fill: int, patch: Mapping[int, int] = _NO_PATCH) -> None:
        self.fill = fill
        self.patch = patch

    def byte(self, offset: int) -> int:
        """The byte at ``offset``."""
        return self.patch.get(offset, self.fill)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``."""
        if not self.patch:
            return bytes((self.fill,)) * length
        if length <= len(self.patch):
            get, fill = self.patch.get, self.fill
            return bytes(get(index, fill) for index in range(offset, offset + length))
        data = bytearray((self.fill,)) * length
        for index, value in self.patch.items():
            if offset <= index < offset + length:
                data[index - offset] = value
        return bytes(data)

    def write(self, offset: int, data: bytes) -> Content:
        """A new content with ``data`` at ``offset``."""
        if len(data) == PAGE_SIZE and data.count(data[0]) == PAGE_SIZE:
            return FILLED[data[0]]
        patch = dict(self.patch)
        patch.update(enumerate(data, offset))
        return Content(self.fill, patch)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Content):
            return NotImplemented
        if self is other:
            return True
        offsets = {*self.patch, *other.patch}
        same_fill = self.fill == other.fill or len(offsets) == PAGE_SIZE
        return same_fill and all(self.byte(offset) == other.byte(offset) for offset in offsets)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        patch = "".join(f" {offset}:{value}" for offset, value in sorted(self.patch.items())[:4])
        return f"<Content {self.fill}{patch}{' ...' if len(self.patch) > 4 else ''}>"


FILLED = tuple(Content(value) for value in range(256))
ZERO = FILLED[0]
