"""Every row of the race table (core_mm section 15) has a directed race, or a reason why it cannot happen here."""

import test_races_notifier
import test_races_pages
import test_races_rmap
import test_races_two_pass

ROWS = [f"MM-R{number:02}" for number in range(1, 43)]

HUGE = "huge pages and large folios are not modelled"

NOT_HERE = {
    "MM-R18": "reclaim writes out whatever it drops, clean or not, so a lost dirty bit cannot show",
    "MM-R20": HUGE + ": nothing collapses small pages",
    "MM-R29": "no event is aligned down: whole leaf tables are never moved",
    "MM-R34": HUGE,
    "MM-R35": HUGE,
    "MM-R36": HUGE,
    "MM-R37": HUGE,
    "MM-R39": HUGE,
    "MM-R40": HUGE + ": a device page is never handed out at another order",
    "MM-R42": HUGE,
}


RACES = test_races_notifier.ROWS | test_races_two_pass.ROWS | test_races_pages.ROWS | test_races_rmap.ROWS


def covered():
    return {name.split()[0] for name in RACES}


def test_no_row_is_forgotten():
    assert sorted(covered() | NOT_HERE.keys()) == ROWS


def test_no_row_is_excused_that_has_a_race():
    assert covered() & NOT_HERE.keys() == set()


def test_every_row_with_a_race_has_a_guard_that_was_taken_away():
    assert [name for name, row in RACES.items() if not row.mutants] == []
