"""Listeners: each hears what it asked for, in the order they subscribed, also those that come late."""

from __future__ import annotations

from typing import Any

from svm_actors.engine.listeners import Listeners


class Picky:
    """Hears numbers only."""

    hears = (int,)

    def __init__(self, heard: list[Any]) -> None:
        self.heard = heard

    def __call__(self, event: Any) -> None:
        self.heard.append(("picky", event))


def tell(listeners: Listeners, *events: Any) -> None:
    for event in events:
        for listener in listeners.of(type(event)):
            listener(event)


def test_each_hears_what_it_asked_for() -> None:
    heard: list[Any] = []
    listeners = Listeners()
    assert not listeners
    listeners += [lambda event: heard.append(("all", event)), Picky(heard)]
    tell(listeners, 1, "text")
    listeners.append(lambda event: heard.append(("late", event)))
    tell(listeners, 2, True)
    assert heard == [
        *[("all", 1), ("picky", 1), ("all", "text")],
        *[("all", 2), ("picky", 2), ("late", 2)],
        *[("all", True), ("late", True)],
    ]
