"""A shrunk failure as a story that can be pasted into a mail: plain ASCII, at most 100 columns.

What failed and what the rule demands; what is left of the program; who did what, in stretches of one actor, from
shortly before the first choice that matters to the failure; which choices those are; and where the nearest
schedule that passes goes another way.

An actor here is whoever did the work on whose behalf: the requests a thread makes are served by tasks of its own,
and are told as its doing.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from svm_actors.explore.shrink import ContextSwitch, Explanation, KeptDraw, Passing, Shrunk
from svm_actors.explore.shrink.recording import Merit
from svm_actors.explore.subject import Subject
from svm_actors.report.as_json import run_json
from svm_actors.report.summary import races
from svm_actors.report.timeline import KINDS, WIDTH, ascii_text, shorten
from svm_actors.report.titles import title
from svm_actors.workload.program import Operation, ProgramScenario

BEFORE: Final = 6
"""Steps told before the first choice that matters."""
TOLD: Final = 90
"""Steps of the story at most; of a longer one the end."""
SHOWN: Final = 6
"""Steps shown of each of two schedules where they part."""
ACTOR: Final = 24
"""Columns of an actor."""
PAGE_SHIFT: Final = 12
VERBS: Final = {
    "start": "starts",
    "local": "computes",
    "sleep": "sleeps",
    "join": "waits for",
    "send": "asks",
    "receive": "listens at",
    "reply": "has the answer of",
    "lock": "locks",
    "trylock": "tries to lock",
    "read_lock": "locks to read",
    "unlock": "unlocks",
    "wait": "waits for",
    "wake": "wakes",
    "read": "reads",
    "write": "changes",
    "get": "takes a reference on",
    "put": "drops a reference on",
    "pte_read": "looks at entry",
    "pte_write": "changes entry",
    "flag_read": "looks at flags of",
    "flag_write": "sets flags of",
    "alloc": "allocates",
    "free": "frees",
    "copy_begin": "begins to copy",
    "copy_end": "has copied",
    "seq_read": "reads sequence",
    "seq_write": "moves sequence",
    "load": "loads",
    "store": "stores",
    "atomic": "changes at once",
    "tlb_fill": "fills TLB",
    "tlb_flush": "flushes TLB",
    "fence_wait": "waits for fence",
    "fence_signal": "signals fence",
}
"""Kinds of ops as a person says them."""
_OPERATION: Final = re.compile(r"(\d+):")
_PAGE: Final = re.compile(r"(?:\bpage )?\b(?:0x)?([0-9a-f]{5,13})\b")


@attrs.frozen
class Told:
    """One step, told."""

    step: int
    """Its number, counted from 1."""
    actor: str
    """Who, in people's words."""
    call: str
    """The request it is part of, innermost last; empty for the actor itself."""
    text: str
    """What."""


class Names:
    """Tasks and pages in people's words."""

    def __init__(self, subject: Subject, operations: Sequence[tuple[int, Operation]]) -> None:
        scenario = subject.scenario
        arena = scenario.arena if isinstance(scenario, ProgramScenario) else 0
        self._first_page = arena >> PAGE_SHIFT
        self._operations = dict(operations)

    def actor(self, task: str, operation: int = -1) -> tuple[str, str]:
        """Who acts in this task, and in which request; ``operation`` is what the task itself is at."""
        parts = task.split("/")
        if operation in self._operations:
            return f"[{operation}] {self._operations[operation].who}", ""
        for at in range(len(parts) - 1, -1, -1):
            found = _OPERATION.match(parts[at])
            if found and int(found[1]) in self._operations:
                number = int(found[1])
                calls = [_OPERATION.sub("", part) for part in parts[at:]]
                return f"[{number}] {self._operations[number].who}", " > ".join(map(_plain, calls))
        if parts[0] == "main" and len(parts) > 1:
            return "/".join(parts[:2]), " > ".join(map(_plain, parts[2:]))
        return parts[0], " > ".join(map(_plain, parts[1:]))

    def task(self, task: str) -> str:
        """The same in one phrase."""
        actor, call = self.actor(task)
        return f"{actor}, in {call}" if call else actor

    def words(self, op: str) -> str:
        """An op as a person says it, with pages of the program by number."""
        kind, _, rest = op.partition(" ")
        return self.pages(f"{VERBS.get(kind, kind)} {rest}".strip())

    def pages(self, text: str) -> str:
        """Pages of the program by number."""
        if not self._first_page:
            return text
        return _PAGE.sub(self._page, text)

    def _page(self, found: re.Match[str]) -> str:
        number = int(found[1], 16) - self._first_page
        return f"page {number}" if 0 <= number < 1 << 16 else found[0]


def story_text(explanation: Explanation, replay: str = "") -> str:
    """The whole story, without a newline at the end."""
    shrunk = explanation.shrunk
    names = Names(shrunk.run.subject, shrunk.operations)
    story = [
        *_timeline(shrunk, names),
        "",
        *_choices(shrunk, names),
        "",
        *_passing(explanation.passing, shrunk, names),
    ]
    return _page(shrunk, names, story, replay)


def shrunk_text(shrunk: Shrunk, replay: str = "") -> str:
    """What shrinking came to, without the story."""
    names = Names(shrunk.run.subject, shrunk.operations)
    return _page(shrunk, names, _choices(shrunk, names), replay)


def _page(shrunk: Shrunk, names: Names, body: Sequence[str], replay: str) -> str:
    """What failed and how small it is, then the body, then how to make it again."""
    lines = [*_head(shrunk, names), "", *_rules(shrunk), "", *_sizes(shrunk), *_program(shrunk), "", *body]
    if replay:
        lines += ["", "replay:", f"  {ascii_text(replay)}"]
    return "\n".join(lines)


# -- what failed --------------------------------------------------------------------------


def _head(shrunk: Shrunk, names: Names) -> list[str]:
    failure = shrunk.failure
    return [
        *hang(f"{KINDS[failure.kind]}: {failure.oracle} [{failure.rule}]", 4),
        *(line for text in failure.message.splitlines() for line in hang(f"  {names.pages(text)}", 6)),
    ]


def _rules(shrunk: Shrunk) -> list[str]:
    """The rule that is broken, the windows hit and the bugs planted, each with its title."""
    lines = _titled("broken", shrunk.failure.rule)
    for race in races(Counter(shrunk.run.counters)):
        lines += _titled("window", race)
    for bug in shrunk.run.bugs:
        lines += _titled("planted", bug)
    return lines


def _titled(what: str, name: str) -> list[str]:
    text = title(name)
    return hang(f"{what:<9}{name}{': ' if text else ''}{text}", 9)


def _sizes(shrunk: Shrunk) -> list[str]:
    state = "" if shrunk.complete else "; time or runs were spent before it was as small as it gets"
    return [
        *hang(f"target   {shrunk.run.subject.name}", 9),
        *hang(f"shrunk   from {_merit(shrunk, shrunk.original)}", 9),
        *hang(f"         to {_merit(shrunk, shrunk.merit)}, in {shrunk.runs} runs{state}", 9),
        f"switches {len(shrunk.switches)} in all, {len(shrunk.unnecessary)} of them not necessary",
    ]


def _merit(shrunk: Shrunk, merit: Merit) -> str:
    """Its numbers, without those that the scenario cannot have."""
    operations = f"{merit.operations} operations, " if shrunk.run.subject.is_program else ""
    draws = f"{merit.faults} draws, " if shrunk.original.faults else ""
    choices = f"{merit.deviations} schedule choices ({merit.preemptions} preemptions)"
    return f"{operations}{draws}{choices}, {merit.steps} steps"


def _program(shrunk: Shrunk) -> list[str]:
    if not shrunk.operations:
        return []
    lines = ["", f"what is left of the program: {len(shrunk.operations)} operations"]
    for number, operation in shrunk.operations:
        text = f"{f'[{number}]':>6} {shorten(ascii_text(operation.who), ACTOR):<{ACTOR}}  {operation.text}"
        lines += hang(text, ACTOR + 9)
    return lines


# -- who did what -----------------------------------------------------------------------------


def told(shrunk: Shrunk, names: Names) -> list[Told]:
    """Every step of the run in people's words."""
    found = []
    operations = {step: event[1] for event, step in shrunk.recording.order.items()}
    for number, line in enumerate(shrunk.run.trace or (), 1):
        task, _, op = line.partition(": ")
        found.append(Told(number, *names.actor(task, operations.get(number, -1)), names.words(op)))
    return found


def first_told(shrunk: Shrunk) -> int:
    """Number of the step the story begins with."""
    steps = len(shrunk.run.trace or ())
    matters = [switch.step for switch in shrunk.switches if switch.kind != "forced"]
    begin = min(matters) - BEFORE if matters else steps - TOLD // 2
    return max(1, begin, steps - TOLD + 1)


def _timeline(shrunk: Shrunk, names: Names) -> list[str]:
    """Stretches of one actor's steps; a star where another than the oldest task goes on after one that cannot."""
    first = first_told(shrunk)
    chosen = {switch.step: switch for switch in shrunk.switches if switch.kind != "forced"}
    lines = [f"who did what: steps {first} to {len(shrunk.run.trace or ())}"]
    if first > 1:
        matter = sum(step < first for step in chosen)
        lines.append(f"  (before them {first - 1} steps, with {matter or 'none'} of the choices that matter)")
    stretch: list[Told] = []
    for step in told(shrunk, names)[first - 1 :]:
        new = stretch and (step.step in chosen or (step.actor, step.call) != (stretch[-1].actor, stretch[-1].call))
        if new:
            lines += _stretch(stretch, chosen)
            stretch = []
        if step.step in chosen and chosen[step.step].kind == "preemption":
            lines += _preempted(chosen[step.step], names)
        stretch.append(step)
    lines += _stretch(stretch, chosen)
    return [*lines, f"{'':>8}  {'FAILS':<{ACTOR}}  {shorten(ascii_text(shrunk.failure.rule), 60)}"]


def _stretch(steps: Sequence[Told], chosen: Mapping[int, ContextSwitch]) -> list[str]:
    if not steps:
        return []
    text = "; ".join(counted([step.text for step in steps]))
    call = f"{steps[0].call}: " if steps[0].call else ""
    mark = "*" if steps[0].step in chosen else " "
    head = f"{mark}{steps[0].step:>7}  {shorten(ascii_text(steps[0].actor), ACTOR):<{ACTOR}}  "
    return hang(f"{head}{call}{text}", ACTOR + 14)


def counted(texts: Sequence[str]) -> list[str]:
    """Repeats joined: ``computes (4 times)``."""
    found: list[tuple[str, int]] = []
    for text in texts:
        if found and found[-1][0] == text:
            found[-1] = (text, found[-1][1] + 1)
        else:
            found.append((text, 1))
    return [text if count == 1 else f"{text} ({count} times)" for text, count in found]


def _preempted(switch: ContextSwitch, names: Names) -> list[str]:
    return hang(f"{'>>':>8}  {names.task(switch.before)} could go on, but {names.task(switch.after)} does", 10)


def _choices(shrunk: Shrunk, names: Names) -> list[str]:
    """What makes this run unlike the canonical one."""
    preemptions = [switch for switch in shrunk.switches if switch.kind == "preemption"]
    others = [switch for switch in shrunk.switches if switch.kind == "choice"]
    if not preemptions and not others and not shrunk.draws:
        return ["no choice matters: the canonical schedule fails (each task runs until it blocks, the oldest first)"]
    lines = ["without any one of these choices it does not fail so:"]
    lines += [line for draw in shrunk.draws for line in _draw(draw)]
    for switch in preemptions:
        text = f"  step {switch.step}: {names.task(switch.after)} runs, though {names.task(switch.before)} could go on"
        lines += hang(text + _unsure(switch.necessary), 4)
    if others:
        steps = ", ".join(f"{switch.step}{_unsure(switch.necessary)}" for switch in others)
        lines += hang(f"  where a task could not go on, another than the oldest one runs: at steps {steps}", 4)
    return lines


def _draw(draw: KeptDraw) -> list[str]:
    text = f"  before step {draw.step + 1}: the draw {draw.label!r} is {draw.value}, not 0"
    return hang(text + _unsure(draw.necessary), 4)


def _unsure(necessary: bool | None) -> str:
    return {True: "", False: " (not necessary)", None: " (not tried)"}[necessary]


# -- the nearest schedule that passes ------------------------------------------------------------


def _passing(passing: Passing | None, shrunk: Shrunk, names: Names) -> list[str]:
    if passing is None:
        return ["no schedule that differs in one choice passes"]
    end = "holds" if passing.failure is None else f"fails otherwise: {passing.failure.headline}"
    if " = " in passing.failing:
        choice = f"with {passing.passing} instead of {passing.failing}"
    else:
        choice = f"{names.task(passing.passing)} runs instead of {names.task(passing.failing)}"
    lines = hang(f"the nearest schedule that passes {end}: after step {passing.step} {choice}", 2)
    if passing.difference is not None:
        at = passing.difference.index
        lines += [f"  first different step: {at + 1}"]
        lines += _sides("fails", shrunk.run.trace or (), at, names)
        lines += _sides("passes", passing.trace, at, names)
    return lines


def _sides(what: str, trace: Sequence[str], at: int, names: Names) -> list[str]:
    lines = [f"  {what}:"]
    for number, line in enumerate(trace[at : at + SHOWN], at + 1):
        task, _, op = line.partition(": ")
        text = f"{number:>8}  {shorten(ascii_text(names.task(task)), 44):<44}  {names.words(op)}"
        lines.append(shorten(ascii_text(text), WIDTH))
    if len(trace) <= at + SHOWN:
        lines.append(f"{'':>8}  (the end of the run)")
    return lines


def hang(text: str, column: int) -> list[str]:
    """The text in lines of at most WIDTH columns, all but the first indented so far."""
    return textwrap.wrap(ascii_text(text), WIDTH, subsequent_indent=" " * column) or [""]


def _plain(part: str) -> str:
    """``MigrateToRam.0`` without its number."""
    stem, _, number = part.rpartition(".")
    return stem if number.isdecimal() and stem else part


# -- as JSON -----------------------------------------------------------------------------------


def shrunk_json(shrunk: Shrunk) -> dict[str, Any]:
    """What shrinking came to."""
    return {
        **run_json(shrunk.run),
        "token": shrunk.token,
        "runs": shrunk.runs,
        "complete": shrunk.complete,
        "original": _merit_json(shrunk.original),
        "shrunk": _merit_json(shrunk.merit),
        "operations": [
            {"number": number, "who": operation.who, "does": operation.text} for number, operation in shrunk.operations
        ],
        "context_switches": len(shrunk.switches),
        "preemptions": shrunk.preemptions,
        "unnecessary_switches": len(shrunk.unnecessary),
        "switches": [attrs.asdict(switch) for switch in shrunk.switches],
        "draws": [attrs.asdict(draw) for draw in shrunk.draws],
        "titles": {name: title(name) for name in _named(shrunk) if title(name)},
    }


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """A whole explanation."""
    shrunk, passing = explanation.shrunk, explanation.passing
    names = Names(shrunk.run.subject, shrunk.operations)
    return {
        **shrunk_json(shrunk),
        "story": [attrs.asdict(step) for step in told(shrunk, names)[first_told(shrunk) - 1 :]],
        "passing": None if passing is None else _passing_json(passing),
    }


def _merit_json(merit: Merit) -> dict[str, int]:
    return {name: value for name, value in merit._asdict().items() if name != "tape"}


def _named(shrunk: Shrunk) -> list[str]:
    return [shrunk.failure.rule, *races(Counter(shrunk.run.counters)), *shrunk.run.bugs]


def _passing_json(passing: Passing) -> dict[str, Any]:
    return {
        "change": passing.change,
        "step": passing.step,
        "task": passing.task,
        "failing": passing.failing,
        "passing": passing.passing,
        "failure": None if passing.failure is None else passing.failure.headline,
        "first_different_step": None if passing.difference is None else passing.difference.index + 1,
    }
