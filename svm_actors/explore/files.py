"""Files of the user's: read whole, written whole, and one BadInput for all that can go wrong."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from svm_actors.workload.formats import BadInput


def read_bytes(file: str | os.PathLike[str], expected: str) -> bytes:
    """The content.  Raises BadInput that says what was ``expected`` there."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise BadInput(os.fspath(file), 0, expected, _reason(error)) from None


def write_text(file: str | os.PathLike[str], text: str) -> Path:
    """Write all of it or nothing: no reader ever sees half a file.  Raises BadInput."""
    target = Path(file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise BadInput(os.fspath(file), 0, "a file that can be written", _reason(error)) from None
    return target


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _umask() -> int:
    """The process's mask; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
