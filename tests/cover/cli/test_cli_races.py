"""``races --coverage``: what a recorded campaign hit."""

from __future__ import annotations

from pathlib import Path

from cli_bench import call


def test_what_a_campaign_hit(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    words = ("fuzz", "unmap", "--executions", "30", "--seed", "1", "--jobs", "1", "--store", store)
    assert call(*words).code == 0
    answer = call("races", "--coverage", store, "--json")
    found = answer.json
    runs = {race["id"]: race["runs"] for race in found["races"]}
    assert answer.code == 0
    assert 0 < runs["SVM-R01"] <= 30
    assert sorted(found["missed"]) == sorted(race for race, count in runs.items() if count == 0)
    assert found["hit"] + len(found["missed"]) == found["windows"] == sum(count is not None for count in runs.values())
    text = call("races", "--coverage", store).out
    assert f"{found['hit']} of {found['windows']} race windows hit" in text
    assert all(f"never hit: {race}" in text for race in found["missed"])


def test_what_is_no_store_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no store")
    assert call("races", "--coverage", tmp_path / "text").code == 2
    assert call("races", "--coverage", tmp_path / "nothing").code == 2
