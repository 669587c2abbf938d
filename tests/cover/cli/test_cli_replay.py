"""``svm-actors replay``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_bench import HELD, LOST_UPDATE, Answer, call, call_process, script

import svm_actors
from svm_actors.explore.run import Run, run
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import Token, decode, encode


def failing(path: str) -> Run:
    subject = subject_named(path)
    return next(one for seed in range(60) if not (one := run(subject, seed=seed, strategy="random")).ok)


@pytest.fixture
def token(tmp_path: Path) -> str:
    return failing(script(tmp_path, LOST_UPDATE)).token


def is_the_same_failure(answer: Answer) -> bool:
    assert "an update was lost" in answer.out
    assert answer.out.endswith("REPLAYED: the run failed as recorded; every step is the same (trace digest equal)\n")
    return answer.code == 1


def test_from_a_file_from_text_and_from_standard_input(token: str, tmp_path: Path) -> None:
    (tmp_path / "a.token").write_text(token)
    assert is_the_same_failure(call("replay", "a.token"))
    assert is_the_same_failure(call("replay", token))
    assert is_the_same_failure(call("replay", " ".join(token.split())))
    assert is_the_same_failure(call("replay", "-", stdin=token))


def test_as_mail_leaves_it(token: str) -> None:
    quoted = "".join(f"> {line}\r\n" for line in token.splitlines())
    assert is_the_same_failure(call("replay", "-", stdin=quoted))


def test_on_both_back_ends_and_in_another_process(token: str, tmp_path: Path) -> None:
    (tmp_path / "a.token").write_text(token)
    assert is_the_same_failure(call("replay", "a.token", "--backend", "direct"))
    assert is_the_same_failure(call_process("replay", "a.token", hash_seed="99", cwd=tmp_path))


def test_a_run_that_held(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    answer = call("replay", run(subject_named(path), strategy="random", seed=4).token)
    assert answer.code == 0
    assert answer.out == "REPLAYED: the run held as recorded; every step is the same (trace digest equal)\n"


def test_a_trace_of_the_replay(token: str, tmp_path: Path) -> None:
    call("replay", token, "--trace", "trace")
    one = failing("toy.py")
    assert len((tmp_path / "trace").read_text().splitlines()) == one.steps


def changed(token: str, **changes: Any) -> str:
    known = decode(token)
    return encode(Token(**{**{name: getattr(known, name) for name in known.__struct_fields__}, **changes}))


def test_another_version_is_refused_and_both_are_named(token: str) -> None:
    answer = call("replay", changed(token, package="9.9.9"))
    assert answer.code == 2
    assert "9.9.9" in answer.err
    assert svm_actors.__version__ in answer.err
    assert answer.err.count("\n") == 1


def test_a_changed_scenario_is_refused_and_both_digests_are_named(token: str, tmp_path: Path) -> None:
    path = script(tmp_path, LOST_UPDATE + "# changed\n")
    answer = call("replay", token)
    assert answer.code == 2
    assert decode(token).scenario in answer.err
    assert subject_named(path).digest in answer.err


def test_a_scenario_that_moved_can_be_named(token: str, tmp_path: Path) -> None:
    (tmp_path / "toy.py").rename(tmp_path / "moved.py")
    missing = call("replay", token)
    assert missing.code == 2
    assert "toy.py: expected a scenario script, got no such file" in missing.err
    assert is_the_same_failure(call("replay", token, "--target", "moved.py"))


def test_choices_that_do_not_fit_are_no_replay(token: str) -> None:
    known = decode(token)
    answer = call("replay", changed(token, choices=known.choices[:3], arities=known.arities[:3]))
    assert answer.code == 2
    assert "NOT REPLAYED: the recorded choices do not fit" in answer.out


def test_another_trace_is_no_replay(token: str) -> None:
    answer = call("replay", changed(token, trace="00" * 16), "--json")
    assert answer.code == 2
    assert (answer.json["reproduced"], answer.json["trace_equal"]) == (False, False)
    assert "its trace is not the recorded one" in answer.err


def test_a_token_without_a_trace_digest(token: str) -> None:
    answer = call("replay", changed(token, trace=""), "--json")
    assert answer.code == 1
    assert (answer.json["reproduced"], answer.json["trace_equal"]) == (True, None)


def test_json(token: str) -> None:
    found = call("replay", token, "--json").json
    assert (found["schema"], found["command"], found["exit"]) == (1, "replay", 1)
    assert found["reproduced"]
    assert found["trace_equal"]
    assert found["failure"]["oracle"] == "scenario"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("svm-actors-token v1 zzz", "token: expected base64 after the header"),
        ("svm-actors-token v7 zzzz", "token: expected token format v1 or v2, found v7"),
        ("none.token", "none.token: expected a token, a file that holds one, or -, got no such file"),
    ],
)
def test_malformed_tokens_are_one_line(text: str, message: str) -> None:
    answer = call("replay", text)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {message}")
    assert answer.err.count("\n") == 1


def test_a_cut_token_is_refused_wherever_it_is_cut(token: str, tmp_path: Path) -> None:
    for length in range(0, len(token) - 1, 37):
        (tmp_path / "cut.token").write_text(token[:length])
        answer = call("replay", "cut.token")
        assert answer.code == 2
        assert answer.err.startswith("error: cut.token: ")


def test_a_file_of_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    assert call("replay", "binary").code == 2
    assert call("replay", "-", stdin=bytes(range(256))).code == 2


def test_targets_and_bugs_that_are_not_there(token: str) -> None:
    assert "unknown target 'gone'" in call("replay", changed(token, target="gone@3")).err
    assert "unknown bug 'SVM-B99'" in call("replay", changed(token, bugs=("SVM-B99",))).err
    assert "expected a strategy" in call("replay", changed(token, strategy="random x=1")).err
