"""``svm-actors shrink``, ``svm-actors explain`` and ``svm-actors replay --best-effort``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from cli_bench import HELD, LOST_UPDATE, Answer, call, call_process, script

from svm_actors.explore.run import Run, run
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import decode

BUG = "SVM-B41"


def failing(name: str, bugs: tuple[str, ...] = ()) -> Run:
    subject = subject_named(name)
    runs = (run(subject, seed=seed, strategy="random", bugs=bugs, backend="direct") for seed in range(60))
    return next(one for one in runs if not one.ok)


@cache
def story_token() -> str:
    return failing("dontneed@0", (BUG,)).token


@pytest.fixture
def story() -> str:
    """A token of a built-in workload with a planted bug."""
    return story_token()


@pytest.fixture
def toy(tmp_path: Path) -> str:
    """A token of a script."""
    return failing(script(tmp_path, LOST_UPDATE)).token


def fits_a_mail(answer: Answer) -> bool:
    """Plain text in 100 columns, but for the line that is there to be pasted."""
    assert answer.out.isascii()
    *lines, replay = answer.out.splitlines()
    assert replay.startswith("  svm-actors replay ")
    return all(len(line) <= 100 and line == line.rstrip() for line in lines)


def test_a_shrunk_token_is_kept_and_replays(story: str) -> None:
    answer = call("shrink", story)
    assert answer.code == 1
    assert fits_a_mail(answer)
    assert "what is left of the program: 2 operations" in answer.out
    assert "planted  SVM-B41: the notifier callback does not wait for the TLB flush" in answer.out
    file = answer.out.splitlines()[-1].split()[-1]
    assert decode(Path(file).read_text()).target == "dontneed@0?keep=0,8"
    again = call("replay", file)
    assert again.code == 1
    assert again.out.endswith("every step is the same (trace digest equal)\n")


def test_where_the_token_goes(toy: str, tmp_path: Path) -> None:
    call("shrink", toy, "-o", "deep/small.token")
    kept = (tmp_path / "deep" / "small.token").read_text()
    assert decode(kept).strategy == "shrunk"
    assert not (tmp_path / "failures").exists()
    call("shrink", "-", "--failures", "here", stdin=toy)
    (file,) = (tmp_path / "here").iterdir()
    assert file.name.endswith(".shrunk.token")
    assert file.read_text() == kept


def test_only_the_schedule_of_a_script_shrinks(toy: str) -> None:
    answer = call("shrink", toy)
    assert answer.code == 1
    assert "1 schedule choices (1 preemptions)" in answer.out
    assert "what is left of the program" not in answer.out


def test_shrink_as_json(toy: str) -> None:
    found = call("shrink", toy, "--json").json
    assert (found["schema"], found["command"], found["exit"], found["complete"]) == (1, "shrink", 1, True)
    assert found["shrunk"]["deviations"] == found["preemptions"] == 1
    assert found["original"]["deviations"] >= 1
    assert found["unnecessary_switches"] == 0
    assert found["context_switches"] == len(found["switches"])
    assert Path(found["file"]).read_text() == found["token"]
    assert decode(found["token"]).labels


def test_a_bound_is_said(story: str) -> None:
    answer = call("shrink", story, "--runs", "15", "--json")
    assert answer.code == 1
    assert "time or runs were spent before" in " ".join(answer.err.split())
    assert not answer.json["complete"]


def test_a_story_says_who_did_what_and_what_would_have_passed(story: str) -> None:
    answer = call("explain", story)
    assert answer.code == 1
    assert fits_a_mail(answer)
    text = answer.out
    parts = ["PROPERTY FAILED: invalidation [INV-01]", "broken   INV-01: once the start of an invalidation"]
    parts += ["planted  SVM-B41", "what is left of the program", "who did what: steps", "FAILS", "without any one of"]
    parts += ["the nearest schedule that passes holds", "first different step", "  fails:", "  passes:", "replay:"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "gpu0 TLB still translates page 0 after" in text, "pages are those of the program"
    assert "asks gpu0.tlb_inval.ring InvalidateTlb" in " ".join(text.split())
    assert "flushes TLB gpu0.tlb" in text.split("  passes:")[1]


def test_a_story_of_a_script_names_its_preemption(toy: str) -> None:
    answer = call("explain", toy)
    assert answer.code == 1
    assert fits_a_mail(answer)
    assert "main/thread.1 could go on, but main/thread.0 does" in answer.out or (
        "main/thread.0 could go on, but main/thread.1 does" in answer.out
    )
    assert "an update was lost" in answer.out


def test_explain_as_json(story: str) -> None:
    found = call("explain", story, "--json").json
    assert (found["command"], found["exit"]) == ("explain", 1)
    assert found["passing"]["change"] == "added"
    assert found["passing"]["passing"] == "gpu0.tlb_inval"
    assert found["titles"]["INV-01"].startswith("once the start")
    assert found["story"][-1]["step"] == found["steps"]


def test_the_same_in_another_process(toy: str, tmp_path: Path) -> None:
    (tmp_path / "a.token").write_text(toy)
    here = call("explain", "a.token")
    there = call_process("explain", "a.token", hash_seed="77", cwd=tmp_path)
    assert (there.code, there.out) == (here.code, here.out)
    assert there.err == "", "no progress line where there is no terminal"


@pytest.mark.parametrize("command", ["shrink", "explain"])
def test_what_cannot_be_shrunk_is_one_line(command: str, tmp_path: Path, toy: str) -> None:
    path = script(tmp_path, HELD, "held.py")
    held = run(subject_named(path), backend="direct").token
    for words, message in (
        ((held,), "held.py held: there is no failure to shrink"),
        (("none.token",), "none.token: expected a token, a file that holds one, or -, got no such file"),
        (("svm-actors-token v2 AAAA",), "token: checksum mismatch"),
        ((toy, "--target", path), "the token was made with scenario toy.py"),
        ((toy, "--target", "unmap@0?keep=9,1"), "expected numbers of operations in ascending order"),
        ((toy, "--target", "toy.py?keep=1"), "target 'toy.py' is not made of operations"),
    ):
        answer = call(command, *words)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith(f"error: {message}")
        assert answer.err.count("\n") == 1
    assert not (tmp_path / "failures").exists(), "nothing half written"


# -- best effort ------------------------------------------------------------------------------------


def test_best_effort_where_everything_fits(toy: str) -> None:
    answer = call("replay", toy, "--best-effort")
    assert answer.code == 1
    assert answer.out.splitlines()[-1].startswith("REPLAYED: the run failed; all ")


def test_best_effort_after_an_edit(tmp_path: Path) -> None:
    token = failing(script(tmp_path, LOST_UPDATE)).token
    small = call("shrink", token, "--json").json["token"]
    script(tmp_path, LOST_UPDATE.replace("range(reads_before)", "range(reads_before + 1)"))
    assert call("replay", small).code == 2
    answer = call("replay", small, "--best-effort")
    assert answer.code == 1, "one preemption at a named op still loses the update"
    *_, different, drifted, verdict = answer.out.splitlines()
    assert different.startswith("DIFFERENT: the token was made with scenario toy.py")
    assert drifted.startswith("DRIFTED: drift at choice ")
    assert verdict.startswith("REPLAYED IN PART: the run failed; ")
    found = call("replay", small, "--best-effort", "--json").json
    assert (found["reproduced"], found["trace_equal"], len(found["differences"])) == (False, False, 1)
    assert found["drift"]["choice"] > 0
    assert found["matched"] > 0
