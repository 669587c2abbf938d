"""The end of a shrunk failing run as a sequence chart, in Mermaid's notation, which most viewers of Markdown draw.

One column per actor, one note per stretch of steps that one of them makes, one arrow per message to another column.
A dotted arrow with a cross is a preemption: its sender could have gone on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from svm_actors.explore.shrink import Shrunk
from svm_actors.report.story import Names, Told, counted, first_told, told
from svm_actors.report.timeline import ascii_text, shorten

STRETCHES: Final = 16
"""Stretches shown at most: the last ones."""
SAID: Final = 5
"""Steps told of one stretch: the first ones, and the last."""
WIDE: Final = 60
"""Columns of one step in a note."""
_ASKS: Final = "asks "


def chart_text(shrunk: Shrunk) -> str:
    """The chart, without a newline at the end."""
    names = Names(shrunk.run.subject, shrunk.operations)
    steps = told(shrunk, names)[first_told(shrunk) - 1 :]
    preempted = {switch.step for switch in shrunk.switches if switch.kind == "preemption"}
    stretches = list(_stretches(steps, preempted))[-STRETCHES:]
    columns = {actor: f"a{number}" for number, actor in enumerate(dict.fromkeys(one[0].actor for one in stretches))}
    lines = ["sequenceDiagram", *(f"    participant {alias} as {_plain(actor)}" for actor, alias in columns.items())]
    before = ""
    for stretch in stretches:
        column = columns[stretch[0].actor]
        if before and before != column and stretch[0].step in preempted:
            lines.append(f"    {before}--x{column}: could go on")
        lines.append(f"    Note over {column}: {_note(stretch)}")
        lines += [f"    {column}->>{other}: {_plain(text)}" for other, text in _messages(stretch, columns)]
        before = column
    lines.append(f"    Note over {before}: FAILS {_plain(shrunk.failure.rule)}")
    return "\n".join(lines)


def _stretches(steps: Sequence[Told], preempted: set[int]) -> Iterator[list[Told]]:
    stretch: list[Told] = []
    for step in steps:
        if stretch and (step.step in preempted or step.actor != stretch[-1].actor):
            yield stretch
            stretch = []
        stretch.append(step)
    if stretch:
        yield stretch


def _note(stretch: Sequence[Told]) -> str:
    texts = [_plain(text) for text in counted([step.text for step in stretch])]
    if len(texts) > SAID + 1:
        texts = [*texts[:SAID], f"... {len(texts) - SAID - 1} more", texts[-1]]
    return f"{stretch[0].step}<br/>" + "<br/>".join(texts)


def _messages(stretch: Sequence[Told], columns: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What it sends to an actor that has a column."""
    for step in stretch:
        if step.text.startswith(_ASKS):
            box, _, verb = step.text.removeprefix(_ASKS).partition(" ")
            other = columns.get(box.rpartition(".")[0])
            if other and verb:
                yield other, verb


def _plain(text: str) -> str:
    """Without what the notation reads as its own."""
    for sign, instead in ((";", ","), ("#", "no. "), ("[", ""), ("]", ""), (":", " ")):
        text = text.replace(sign, instead)
    return shorten(ascii_text(text), WIDE)
