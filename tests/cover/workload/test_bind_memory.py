"""What a client of VM_BIND may read: exactly one value in its own word, a set of them in somebody else's."""

from __future__ import annotations

import pytest

from svm_actors.engine.errors import PropertyFailed
from svm_actors.workload.bind_memory import BindMemory, check_word

PAGE = ("bo0", 1)


def written(memory: BindMemory, value: int, begun: int, done: int, *, certain: bool = True) -> None:
    write = memory.write(PAGE, 0, value, begun)
    memory.end(write, done, certain=certain)


def test_untouched_words_are_zero() -> None:
    assert BindMemory().own(PAGE, 0) == [0]
    assert BindMemory().foreign(PAGE, 0, 1, 2) == [0]


def test_the_owner_reads_its_last_write() -> None:
    memory = BindMemory()
    written(memory, 7, 1, 2)
    written(memory, 8, 3, 4)
    assert memory.own(PAGE, 0) == [8]
    assert memory.own(PAGE, 1) == [0]


def test_a_failed_write_may_be_there_or_not_until_the_next_one() -> None:
    memory = BindMemory()
    written(memory, 7, 1, 2)
    written(memory, 8, 3, 4, certain=False)
    assert memory.own(PAGE, 0) == [7, 8]
    written(memory, 9, 5, 6)
    assert memory.own(PAGE, 0) == [9]


def test_a_write_under_way_does_not_count_for_its_owner_yet() -> None:
    memory = BindMemory()
    written(memory, 7, 1, 2)
    memory.write(PAGE, 0, 8, 3)
    assert memory.own(PAGE, 0) == [7]


@pytest.mark.parametrize(
    ("begun", "done", "legal"),
    [
        pytest.param(11, 12, [7], id="between the writes"),
        pytest.param(11, 25, [7, 8], id="while the second one is under way"),
        pytest.param(5, 25, [0, 7, 8], id="while both are"),
        pytest.param(31, 40, [8], id="after both"),
        pytest.param(5, 8, [0], id="over before the first one is begun"),
    ],
)
def test_somebody_else_is_judged_by_time(begun: int, done: int, legal: list[int]) -> None:
    memory = BindMemory()
    written(memory, 7, 9, 10)
    written(memory, 8, 20, 30)
    assert memory.foreign(PAGE, 0, begun, done) == legal


def test_what_failed_overwrites_nothing_definitely() -> None:
    memory = BindMemory()
    written(memory, 7, 1, 2)
    written(memory, 8, 3, 4, certain=False)
    assert memory.foreign(PAGE, 0, 10, 11) == [7, 8]


def test_a_refused_write_is_forgotten() -> None:
    memory = BindMemory()
    memory.cancel(memory.write(PAGE, 0, 7, 1))
    assert memory.own(PAGE, 0) == [0]
    assert memory.foreign(PAGE, 0, 5, 6) == [0]
    assert list(memory.words()) == [(PAGE, 0)]


def test_a_wrong_word_is_reported_with_what_is_legal() -> None:
    check_word([1, 2], 2, "somebody", PAGE, 0)
    with pytest.raises(PropertyFailed, match=r"somebody reads 3 in the word of client 0 .* legal: 1, 2"):
        check_word([2, 1], 3, "somebody", PAGE, 0)


def test_two_additions_that_find_the_same_number_have_lost_one() -> None:
    memory = BindMemory()
    memory.added(PAGE, 0, "first")
    memory.added(PAGE, 1, "second")
    with pytest.raises(PropertyFailed, match="third and second both find 1"):
        memory.added(PAGE, 1, "third")


@pytest.mark.parametrize(("value", "held"), [(1, False), (2, True), (3, True), (4, False)])
def test_the_counter_has_one_for_each_that_went_through(value: int, held: bool) -> None:
    memory = BindMemory()
    memory.added(PAGE, 0, "first")
    memory.added(PAGE, 1, "second")
    memory.may_have_added(PAGE)
    if held:
        memory.check_counter(PAGE, value)
        return
    with pytest.raises(PropertyFailed, match=f"is {value}, after 2 to 3"):
        memory.check_counter(PAGE, value)
