"""The strict replay token: one run, as text that survives a mail (exploration digest, section 1.4).

Layout: a header line ``svm-actors-token v1``, then base64 in lines of 76.  The bytes are a message
pack array of the fields of :class:`Token`, with choices and arities packed by
:mod:`svm_actors.explore.packing`, followed by a checksum.

A token is data from a stranger: it is parsed, never evaluated; sizes are bounded before anything is
unpacked; text that would move a terminal's cursor is refused.  The decoder is strict: whatever
differs from what the encoder writes, except white space and quote marks that mail adds, is an error
with one line that says what was expected.  There is no best-effort reading here.
"""

from __future__ import annotations

import base64
import binascii
import re
from hashlib import blake2b
from typing import Final

import msgspec

from svm_actors.explore.packing import PackingError, pack, unpack

FORMAT: Final = 1
"""Version of the layout; a reader knows exactly one."""
HEADER: Final = "svm-actors-token"
WIDTH: Final = 76
"""Columns of base64 per line."""
MAX_TEXT: Final = 4096
"""Characters in one text field."""
MAX_BUGS: Final = 256

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


def encode(token: Token) -> str:
    """The token as wrapped text, ending in a newline; TokenError when a field has no valid form."""
    _check(token)
    wire = _Wire(
        package=token.package,
        target=token.target,
        scenario=token.scenario,
        config=token.config,
        strategy=token.strategy,
        seed=token.seed,
        bugs=token.bugs,
        count=len(token.choices),
        packed=_pack(token),
        trace=token.trace,
    )
    body = msgspec.msgpack.encode(wire)
    text = base64.b64encode(body + _checksum(body)).decode()
    lines = [f"{HEADER} v{FORMAT}", *(text[at : at + WIDTH] for at in range(0, len(text), WIDTH))]
    return "\n".join(lines) + "\n"


def decode(text: str) -> Token:
    """The token in this text, which holds nothing else; TokenError says what is wrong with it."""
    body = _body(_payload(text))
    try:
        wire = msgspec.msgpack.decode(body, type=_Wire)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TokenError(f"expected the fields of a version {FORMAT} token: {_one_line(error)}") from None
    try:
        choices, arities = unpack(wire.packed, wire.count)
    except PackingError as error:
        raise TokenError(str(error)) from None
    token = Token(
        package=wire.package,
        target=wire.target,
        scenario=wire.scenario,
        config=wire.config,
        strategy=wire.strategy,
        seed=wire.seed,
        bugs=wire.bugs,
        choices=choices,
        arities=arities,
        trace=wire.trace,
    )
    _check(token)
    return token


def _payload(text: str) -> str:
    """The base64 characters, without the header, white space and quote marks."""
    found = _TOKEN.fullmatch(_QUOTE.sub("", text))
    if found is None:
        raise TokenError(f"expected '{HEADER} v{FORMAT}' and then base64 text")
    if found[1] != str(FORMAT):
        raise TokenError(f"expected token format v{FORMAT}, found v{found[1][:20]}")
    return "".join(found[2].split())


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


def _check_text(name: str, value: str) -> None:
    if not value or len(value) > MAX_TEXT or not value.isprintable():
        raise TokenError(f"expected 1 to {MAX_TEXT} printable characters in {name!r}, found {value[:80]!r}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
