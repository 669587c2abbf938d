"""The strict replay token: what goes in comes out; whatever is malformed is refused in one line."""

from __future__ import annotations

import base64
import string
import zlib
from hashlib import blake2b
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from svm_actors.explore.determinism import digest
from svm_actors.explore.labels import MAX_BYTES, Label, unpack_labels
from svm_actors.explore.packing import MAX_CHOICES, PackingError, pack, unpack
from svm_actors.explore.token import Token, TokenError, decode, encode

printable = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=20)
digests = st.binary(min_size=8, max_size=64).map(bytes.hex)


@st.composite
def recorded_choices(draw: st.DrawFn) -> dict[str, tuple[int, ...]]:
    arities = draw(st.lists(st.one_of(st.integers(2, 6), st.integers(2, (1 << 62) - 1)), max_size=60))
    return {
        "arities": tuple(arities),
        "choices": tuple(draw(st.integers(0, arity - 1)) for arity in arities),
    }


names = st.sampled_from(["main", "main/cpu.0", "main/cpu.1/3:Munmap.0", "core_mm", "gpu0.tlb_inval"])


@st.composite
def recorded_labels(draw: st.DrawFn, arities: tuple[int, ...]) -> tuple[Label, ...]:
    """One label per choice, of a schedule choice where so many names can be had."""
    found = []
    for arity in arities:
        schedule = arity <= 4 and draw(st.booleans())
        options = draw(st.lists(names, min_size=arity, max_size=arity, unique=True)) if schedule else []
        found.append(Label(draw(names), draw(printable), tuple(options)))
    return tuple(found)


@st.composite
def labelled_tokens(draw: st.DrawFn) -> Token:
    plain = draw(tokens())
    return msgspec.structs.replace(plain, labels=draw(recorded_labels(plain.arities)))


@st.composite
def tokens(draw: st.DrawFn) -> Token:
    return Token(
        package=draw(printable),
        target=draw(printable),
        scenario=draw(digests),
        config=draw(digests),
        strategy=draw(printable),
        seed=draw(printable),
        bugs=tuple(draw(st.lists(printable, max_size=4))),
        trace=draw(st.one_of(st.just(""), digests)),
        **draw(recorded_choices()),
    )


def token(**changes: Any) -> Token:
    """An ordinary token, with changes."""
    fields: dict[str, Any] = {
        "package": "0.1.0",
        "target": "scenarios/fault_vs_munmap.py",
        "scenario": digest(b"scenario"),
        "config": digest(b"config"),
        "strategy": "random",
        "seed": "17",
        "bugs": ("SVM-B03", "MM-B01"),
        "choices": tuple(index * index % 5 for index in range(300)),
        "arities": tuple(5 + index % 3 for index in range(300)),
        "trace": digest(b"trace"),
    }
    return Token(**{**fields, **changes})


def refused(text: str) -> str:
    with pytest.raises(TokenError) as caught:
        decode(text)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in message
    assert "expected" in message
    assert len(message) < 400
    return message


# -- roundtrip -------------------------------------------------------------------------


@given(tokens())
def test_roundtrip(original: Token) -> None:
    assert decode(encode(original)) == original


@given(tokens())
def test_text_is_wrapped_and_a_function_of_the_token(original: Token) -> None:
    text = encode(original)
    head, *lines = text.splitlines()
    assert head == "svm-actors-token v1"
    assert text.endswith("\n")
    assert all(len(line) == 76 for line in lines[:-1])
    assert 0 < len(lines[-1]) <= 76
    assert set("".join(lines)) <= set(string.ascii_letters + string.digits + "+/=")
    assert encode(decode(text)) == text


def test_long_runs_stay_small() -> None:
    """Choices of a long run compress; a million of them must not take a second to read back."""
    choices = tuple(index % 3 for index in range(100_000))
    text = encode(token(choices=choices, arities=(3,) * len(choices)))
    assert len(text) < 2_000
    assert decode(text).choices == choices


@pytest.mark.parametrize("prefix", ["> ", ">> ", "> > ", ">", "    ", "\t", " > "])
def test_pasted_from_a_mail(prefix: str) -> None:
    original = token()
    quoted = "".join(f"{prefix}{line}\r\n" for line in ["", *encode(original).splitlines(), ""])
    assert decode(quoted) == original


@given(st.integers(1, 200), st.sampled_from(["\n", "\r\n", " ", "\n> ", "\n\n", " \n\t"]))
def test_wrapped_anew(width: int, newline: str) -> None:
    original = token()
    head, *lines = encode(original).splitlines()
    payload = "".join(lines)
    pieces = [payload[at : at + width] for at in range(0, len(payload), width)]
    assert decode(newline.join([head, *pieces]) + newline) == original


def test_on_one_line() -> None:
    assert decode(" ".join(encode(token()).split())) == token()


# -- labels ----------------------------------------------------------------------------


@given(labelled_tokens())
def test_labels_come_back(original: Token) -> None:
    text = encode(original)
    assert text.splitlines()[0] == f"svm-actors-token v{2 if original.labels else 1}"
    assert decode(text) == original
    assert encode(decode(text)) == text


def test_labels_stay_small() -> None:
    """A thousand choices between the same eight tasks: a few bytes each at most."""
    options = tuple(f"main/cpu.{number}/CpuFault.0" for number in range(8))
    labels = tuple(Label(options[index % 8], "lock p0.mmap_lock", options[: 2 + index % 7]) for index in range(1000))
    arities = tuple(len(label.options) for label in labels)
    plain = token(choices=tuple(index % 2 for index in range(1000)), arities=arities)
    assert len(encode(msgspec.structs.replace(plain, labels=labels))) < len(encode(plain)) + 1_000


LABEL = Label("main", "start", ("a", "b"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((LABEL,), "expected a label for each of 2 choices, found 1"),
        ((LABEL, Label("main", "start", ("a", "b"))), "expected 3 candidates in the label of choice 1, found 2"),
        ((LABEL, Label("main", "start", ("a", "b", "a"))), "expected different names among the candidates"),
        ((LABEL, Label("", "start", ("a", "b", "c"))), "expected 1 to 4096 printable characters in a label"),
        ((LABEL, Label("main", "a\x1b", ("a", "b", "c"))), "expected 1 to 4096 printable characters in a label"),
        ((LABEL, Label("main", "x" * 5000, ("a", "b", "c"))), "expected 1 to 4096 printable characters in a label"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: tuple[Label, ...], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        encode(token(choices=(0, 0), arities=(2, 3), labels=labels))


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (None, "expected deflated labels, found other bytes"),
        (b"", "expected a table of labels"),
        (msgspec.msgpack.encode([["main"], [0, 0, 2]]), "expected a kind below 2"),
        (msgspec.msgpack.encode([["main"], [1, 0, 0]]), "expected a name below 1"),
        (msgspec.msgpack.encode([["main"], [0, 0]]), "expected a kind below 2 in a label, found -1"),
        (msgspec.msgpack.encode([["main"], [0, 0, 1, 0, 1, 1, 0]]), "expected a place below 1"),
        (msgspec.msgpack.encode([["main"], [0, 0, 0, 0]]), "expected labels of 1 choices, found more"),
        (msgspec.msgpack.encode([["main", "more"], [0, 0, 0]]), "expected labels as they are written"),
    ],
)
def test_labels_that_nobody_wrote_are_refused(wire: bytes | None, message: str) -> None:
    packed = b"\0\0" if wire is None else zlib.compress(wire, 9)
    with pytest.raises(PackingError, match=message):
        unpack_labels(packed, 1)


def test_labels_are_not_inflated_without_bound() -> None:
    with pytest.raises(PackingError, match="expected exactly one deflated table"):
        unpack_labels(zlib.compress(bytes(MAX_BYTES + 2), 9), 1)


# -- damage ----------------------------------------------------------------------------


@given(data=st.data(), original=tokens())
def test_one_character_changed_is_refused_or_means_nothing(data: st.DataObject, original: Token) -> None:
    text = encode(original)
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.one_of(st.sampled_from(string.printable), st.characters()))
    try:
        found = decode(text[:at] + character + text[at + 1 :])
    except TokenError:
        return
    assert found == original


def test_every_change_of_one_payload_character_to_another_is_refused() -> None:
    """Exhaustive over the places of one token: base64 has no slack that goes unnoticed."""
    text = encode(token(choices=(), arities=(), bugs=()))
    start = text.index("\n") + 1
    for at in range(start, len(text)):
        if text[at] == "\n":
            continue
        for character in "A/=9z":
            if character != text[at]:
                refused(text[:at] + character + text[at + 1 :])


def test_cut_anywhere_is_refused() -> None:
    text = encode(token()).rstrip()
    for end in range(len(text)):
        refused(text[:end])


@given(st.text(max_size=60))
@example("svm-actors-token v1\n")
@example("svm-actors-token v1\n====")
@example("svm-actors-token v1 AAAA")
def test_any_other_text_is_refused(text: str) -> None:
    refused(text)


@given(st.binary(max_size=60))
def test_any_other_bytes_are_refused_whatever_the_checksum_says(body: bytes) -> None:
    refused(sealed(body))


@pytest.mark.parametrize("tail", ["Best regards", "AAAA", "=", "#", "svm-actors-token v1", "—"])
def test_text_after_the_token_is_refused(tail: str) -> None:
    refused(encode(token()) + tail + "\n")


@pytest.mark.parametrize("head", ["Here it is:\n", "x ", "svm-actors-token v1\n"])
def test_text_before_the_token_is_refused(head: str) -> None:
    refused(head + encode(token()))


@pytest.mark.parametrize("version", ["0", "3", "01", "99999999999999999999999999999999999"])
def test_unknown_version(version: str) -> None:
    text = encode(token()).replace("token v1", f"token v{version}", 1)
    assert refused(text).startswith("expected token format v1 or v2, found v")


@pytest.mark.parametrize(
    "head", ["SVM-ACTORS-TOKEN v1", "svm-actors-token", "svm-actors-token 1", "svm-actors-tokenv1"]
)
def test_bad_header(head: str) -> None:
    text = encode(token()).replace("svm-actors-token v1", head, 1)
    assert refused(text) == "expected 'svm-actors-token v1' and then base64 text"


def test_messages_tell_damage_apart() -> None:
    text = encode(token()).rstrip()
    assert "the text was cut or altered" in refused(text[:-1] + "!")
    head, payload = text.split("\n", 1)
    assert "checksum mismatch" in refused(f"{head}\n{payload[4:]}")


def test_base64_with_slack_bits_is_refused() -> None:
    """Two texts must not mean one token."""
    for padding in range(3):
        text = encode(token(seed="1" * (10 + padding), choices=(), arities=())).rstrip()
        if text.endswith("="):
            at = len(text.rstrip("=")) - 1
            alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
            other = alphabet[alphabet.index(text[at]) + 1]
            assert "canonical" in refused(text[:at] + other + text[at + 1 :])


# -- well sealed, but wrong inside --------------------------------------------------------


def sealed(body: bytes) -> str:
    checksum = blake2b(body, digest_size=8, person=b"svm-actors-token").digest()
    return "svm-actors-token v1\n" + base64.b64encode(body + checksum).decode() + "\n"


def forged(**changes: Any) -> str:
    """A token with a right checksum over any fields whatever."""
    fields: dict[str, Any] = {
        "package": "0.1.0",
        "target": "t",
        "scenario": "00" * 16,
        "config": "00" * 16,
        "strategy": "random",
        "seed": "1",
        "bugs": [],
        "count": 1,
        "packed": zlib.compress(bytes([2, 1])),
        "trace": "",
    }
    return sealed(msgspec.msgpack.encode(list({**fields, **changes}.values())))


def test_forgery_of_the_tests_is_a_token_when_nothing_is_changed() -> None:
    found = decode(forged())
    assert (found.arities, found.choices) == ((2,), (1,))


@pytest.mark.parametrize(
    "changes",
    [
        {"package": 1},
        {"target": None},
        {"seed": 5},
        {"bugs": "SVM-B03"},
        {"bugs": [1]},
        {"bugs": {"a": 1}},
        {"count": "1"},
        {"count": True},
        {"count": 1.0},
        {"packed": "text"},
        {"trace": 0},
        {"extra": 1},
    ],
)
def test_wrong_field_types(changes: dict[str, Any]) -> None:
    assert refused(forged(**changes)).startswith("expected the fields of a version 1 token: ")


def test_missing_fields_and_other_shapes() -> None:
    for body in ([], ["0.1.0"], {}, 7, "text", None):
        refused(sealed(msgspec.msgpack.encode(body)))
    refused(sealed(msgspec.msgpack.encode(["a"]) + b"\x00"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenario": "xyz"}, "expected a hex digest in 'scenario', found 'xyz'"),
        ({"scenario": ""}, "expected a hex digest in 'scenario', found ''"),
        ({"config": "AB" * 16}, "expected a hex digest in 'config'"),
        ({"trace": "abc" * 8 + "d"}, "expected a hex digest in 'trace'"),
        ({"target": ""}, "expected 1 to 4096 printable characters in 'target', found ''"),
        ({"target": "x" * 5000}, "expected 1 to 4096 printable characters in 'target'"),
        ({"target": "\x1b[2J"}, r"expected 1 to 4096 printable characters in 'target', found '\x1b[2J'"),
        ({"strategy": "a\nb"}, "expected 1 to 4096 printable characters in 'strategy'"),
        ({"bugs": ["ok", ""]}, "expected 1 to 4096 printable characters in 'bugs', found ''"),
        ({"bugs": ["x"] * 300}, "expected at most 256 bug ids, found 300"),
    ],
)
def test_fields_out_of_range(changes: dict[str, Any], message: str) -> None:
    assert refused(forged(**changes)).startswith(message)


def packed(*numbers: int) -> bytes:
    return zlib.compress(bytes(numbers))


@pytest.mark.parametrize(
    ("count", "data", "message"),
    [
        (1, packed(1, 0), "expected an arity of at least 2 and below 2**62 at choice 0, found 1"),
        (2, packed(3, 0, 2, 0), "expected an arity of at least 2 and below 2**62 at choice 1, found 0"),
        (1, packed(2, 2), "expected a choice below its arity 2 at choice 0, found 2"),
        (2, packed(2, 9, 1, 9), "expected a choice below its arity 9 at choice 1, found 9"),
        (-1, packed(), "expected 0 to 4194304 choices, found a count of -1"),
        (1 << 60, packed(2, 1), "expected 0 to 4194304 choices, found a count of"),
        (2, packed(2, 1), "expected 2 arities and 2 choices, found 2 numbers"),
        (0, packed(2, 1), "expected exactly one deflated list of choices of the stated length"),
        (1, packed(2, 1) + b"x", "expected exactly one deflated list of choices"),
        (1, packed(2, 1)[:-1], "expected exactly one deflated list of choices"),
        (1, b"", "expected exactly one deflated list of choices"),
        (1, b"garbage", "expected deflated choices, found other bytes"),
        (1, packed(0x82, 0x00, 1), "expected every number in its shortest form"),
        (1, packed(2, 0x81), "expected the last number to be complete"),
        (1, packed(*[0x80] * 12), "expected numbers of at most 62 bits"),
    ],
)
def test_choices_that_are_none(count: int, data: bytes, message: str) -> None:
    assert refused(forged(count=count, packed=data)).startswith(message)


def test_deflate_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    assert len(bomb) < 100_000
    assert "of the stated length" in refused(forged(count=3, packed=bomb))


# -- the encoder is as strict ------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"choices": (2,), "arities": (2,)},
        {"choices": (0,), "arities": (1,)},
        {"choices": (0,), "arities": ()},
        {"choices": (0,), "arities": (1 << 62,)},
        {"scenario": "no digest"},
        {"target": "two\nlines"},
        {"seed": ""},
    ],
)
def test_what_could_not_be_read_back_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenError):
        encode(token(**changes))


# -- packing -----------------------------------------------------------------------------


@given(recorded_choices())
def test_packing_roundtrip(run: dict[str, tuple[int, ...]]) -> None:
    data = pack(run["choices"], run["arities"])
    assert unpack(data, len(run["choices"])) == (run["choices"], run["arities"])


@given(st.binary(max_size=40), st.integers(-2, 20))
def test_unpacking_anything_gives_choices_or_a_packing_error(data: bytes, count: int) -> None:
    for candidate in (data, zlib.compress(data)):
        try:
            choices, arities = unpack(candidate, count)
        except PackingError:
            continue
        assert len(choices) == len(arities) == count
        assert all(0 <= choice < arity for choice, arity in zip(choices, arities, strict=True))


def test_too_many_choices_are_refused_before_they_are_read() -> None:
    with pytest.raises(PackingError, match="found a count of"):
        unpack(b"", MAX_CHOICES + 1)
