"""The strict replay token: one run, as text that survives a mail (exploration digest, section 1.4).

Layout: a header line ``svm-actors-token v1``, then base64 in lines of 76.  The bytes are a message
pack array of the fields of :class:`Token`, with choices and arities packed by
:mod:`svm_actors.explore.packing`, followed by a checksum.  Version 2 has one field more, the labels of the
choices (:mod:`svm_actors.explore.labels`); a token without labels is written as version 1.

A token is data from a stranger: it is parsed, never evaluated; sizes are bounded before anything is
unpacked; text that would move a terminal's cursor is refused.  The decoder is strict: whatever
differs from what the encoder writes, except white space and quote marks that mail adds, is an error
with one line that says what was expected.  What a best-effort *replay* makes of a token that was read is
another matter (:mod:`svm_actors.explore.best_effort`).
"""

from __future__ import annotations

import base64
import binascii
import re
from hashlib import blake2b
from typing import Any, Final

import msgspec

from svm_actors.explore.labels import Label, pack_labels, unpack_labels
from svm_actors.explore.packing import PackingError, pack, unpack

FORMAT: Final = 1
"""Version of the layout without labels."""
LABELLED: Final = 2
"""Version of the layout with labels; a reader knows these two."""
HEADER: Final = "svm-actors-token"
WIDTH: Final = 76
"""Columns of base64 per line."""
MAX_TEXT: Final = 4096
"""Characters in one text field."""
MAX_BUGS: Final = 256

_PLAIN: Final = ("package", "target", "scenario", "config", "strategy", "seed", "bugs", "trace")
"""Fields that go into the bytes as they are."""
_CHECKSUM_SIZE = 8
_HEX = re.compile(r"(?:[0-9a-f]{2}){8,64}")
_TOKEN = re.compile(rf"\s*{HEADER}[ \t]+v([0-9]+)\s+(.*)", re.DOTALL)
_QUOTE = re.compile(r"^[ \t>]+", re.MULTILINE)


class TokenError(ValueError):
    """A malformed token; the message is one line and says what was expected."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that determines one run, and what it must come to."""

    package: str
    """Version of svm-actors that made it; another version may have another model."""
    target: str
    """What ran: a script path, a built-in workload name, ``strace:FILE`` ..."""
    scenario: str
    """Hex blake2b digest of the scenario's bytes."""
    config: str
    """Hex blake2b digest of the world's configuration."""
    strategy: str
    """Name of the strategy that made the choices."""
    seed: str
    """Its seed, as text."""
    bugs: tuple[str, ...] = ()
    """Ids of the deviations that were active, in the order given."""
    choices: tuple[int, ...] = ()
    """The choices of the run, of schedule and of data."""
    arities: tuple[int, ...] = ()
    """How many alternatives each of them had, at least 2."""
    trace: str = ""
    """Hex digest of the trace the choices must lead to; empty when the run was not recorded."""
    labels: tuple[Label, ...] = ()
    """What each choice was between; none, or one per choice."""


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    package: str
    target: str
    scenario: str
    config: str
    strategy: str
    seed: str
    bugs: tuple[str, ...]
    count: int
    packed: bytes
    trace: str


class _LabelledWire(_Wire, frozen=True, array_like=True, forbid_unknown_fields=True):
    labels: bytes


def encode(token: Token) -> str:
    """The token as wrapped text, ending in a newline; TokenError when a field has no valid form."""
    _check(token)
    fields: dict[str, Any] = {name: getattr(token, name) for name in _PLAIN}
    fields |= {"count": len(token.choices), "packed": _pack(token)}
    wire = _LabelledWire(**fields, labels=_pack_labels(token)) if token.labels else _Wire(**fields)
    body = msgspec.msgpack.encode(wire)
    text = base64.b64encode(body + _checksum(body)).decode()
    head = f"{HEADER} v{LABELLED if token.labels else FORMAT}"
    lines = [head, *(text[at : at + WIDTH] for at in range(0, len(text), WIDTH))]
    return "\n".join(lines) + "\n"


def decode(text: str) -> Token:
    """The token in this text, which holds nothing else; TokenError says what is wrong with it."""
    version, payload = _payload(text)
    body = _body(payload)
    try:
        wire = msgspec.msgpack.decode(body, type=_LabelledWire if version == LABELLED else _Wire)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TokenError(f"expected the fields of a version {version} token: {_one_line(error)}") from None
    try:
        choices, arities = unpack(wire.packed, wire.count)
        labels = unpack_labels(wire.labels, wire.count) if isinstance(wire, _LabelledWire) else ()
    except PackingError as error:
        raise TokenError(str(error)) from None
    if version == LABELLED and not labels:
        raise TokenError(f"expected labels in a version {LABELLED} token, found none")
    fields: dict[str, Any] = {name: getattr(wire, name) for name in _PLAIN}
    token = Token(**fields, choices=choices, arities=arities, labels=labels)
    _check(token)
    return token


def _payload(text: str) -> tuple[int, str]:
    """The version, and the base64 characters without the header, white space and quote marks."""
    found = _TOKEN.fullmatch(_QUOTE.sub("", text))
    if found is None:
        raise TokenError(f"expected '{HEADER} v{FORMAT}' and then base64 text")
    if found[1] not in (str(FORMAT), str(LABELLED)):
        raise TokenError(f"expected token format v{FORMAT} or v{LABELLED}, found v{found[1][:20]}")
    return int(found[1]), "".join(found[2].split())


def _body(payload: str) -> bytes:
    """The bytes under the checksum."""
    try:
        blob = base64.b64decode(payload.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise TokenError("expected base64 after the header: the text was cut or altered") from None
    if base64.b64encode(blob).decode() != payload:
        raise TokenError("expected canonical base64 after the header: the text was altered")
    body, checksum = blob[:-_CHECKSUM_SIZE], blob[-_CHECKSUM_SIZE:]
    if not body or _checksum(body) != checksum:
        raise TokenError("checksum mismatch: expected the text exactly as it was printed, from header to last line")
    return body


def _checksum(body: bytes) -> bytes:
    return blake2b(body, digest_size=_CHECKSUM_SIZE, person=HEADER.encode()).digest()


def _pack(token: Token) -> bytes:
    try:
        return pack(token.choices, token.arities)
    except PackingError as error:
        raise TokenError(str(error)) from None


def _pack_labels(token: Token) -> bytes:
    try:
        return pack_labels(token.labels)
    except PackingError as error:
        raise TokenError(str(error)) from None


def _check(token: Token) -> None:
    """What both directions demand of the fields."""
    for name in ("package", "target", "strategy", "seed"):
        _check_text(name, getattr(token, name))
    for name in ("scenario", "config", "trace"):
        value = getattr(token, name)
        if not _HEX.fullmatch(value) and not (name == "trace" and value == ""):
            raise TokenError(f"expected a hex digest in {name!r}, found {value[:80]!r}")
    if len(token.bugs) > MAX_BUGS:
        raise TokenError(f"expected at most {MAX_BUGS} bug ids, found {len(token.bugs)}")
    for bug in token.bugs:
        _check_text("bugs", bug)
    _check_labels(token)


def _check_labels(token: Token) -> None:
    """One label for each choice, with as many candidates as alternatives; or none at all."""
    if token.labels and len(token.labels) != len(token.choices):
        raise TokenError(f"expected a label for each of {len(token.choices)} choices, found {len(token.labels)}")
    for index, (label, arity) in enumerate(zip(token.labels, token.arities, strict=False)):
        if label.options and len(label.options) != arity:
            raise TokenError(f"expected {arity} candidates in the label of choice {index}, found {len(label.options)}")


def _check_text(name: str, value: str) -> None:
    if not value or len(value) > MAX_TEXT or not value.isprintable():
        raise TokenError(f"expected 1 to {MAX_TEXT} printable characters in {name!r}, found {value[:80]!r}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
