"""Targets: what can be fuzzed, run or replayed, by name.

========================  =========================================================================
``default``               the built-in mix
``witnesses``             every witness: small scenarios about one guard each
a built-in name           that workload alone (:mod:`svm_actors.workload.builtin`)
``SCRIPT.py``             a scenario script
``strace:FILE``           a recorded log of memory system calls, in windows, with GPUs that mirror
``kernel:FILE``           recorded sequential programs, two at a time on the mirror driver
``litmus:FILE[#N]``       recorded concurrent programs, all of them or number N
========================  =========================================================================

A target is a family of subjects numbered by a run's position in the campaign.  ``NAME@INDEX`` is one
of them, which is what a token names; a script is the same subject for every index and needs none.
``NAME@INDEX?keep=3,5,9`` is that subject with only these of its operations: what shrinking leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from svm_actors.explore import recorded
from svm_actors.explore.determinism import digest
from svm_actors.explore.script import read_script
from svm_actors.explore.subject import Scenario, Subject, split_name, subject_of
from svm_actors.workload import builtin

DEFAULT: Final = "default"
WITNESSES: Final = "witnesses"
_INDEXED: Final = re.compile(r"(.+)@(\d{1,12})")
_NUMBERED: Final = re.compile(r"(.+)#(\d{1,12})")


class UnknownTarget(ValueError):
    """A target that is neither built in, nor a script, nor a known kind of recording."""


@attrs.frozen
class Target:
    """A named family of subjects."""

    name: str
    """What the command line calls it."""
    make: Callable[[int], Subject] = attrs.field(repr=False)
    """The subject with this index."""
    weight: int = 1
    """Runs it gets in one round of the mix."""
    indexed: bool = True
    """Whether subjects differ by index."""

    def subject(self, index: int) -> Subject:
        """The subject with this index, named so that a token finds it again."""
        return attrs.evolve(self.make(index), name=f"{self.name}@{index}" if self.indexed else self.name)


def resolve(name: str) -> list[Target]:
    """The targets a name stands for: several for ``default``.  Raises UnknownTarget or BadInput."""
    found = {entry.name: entry for entry in builtin.builtin_targets()}
    if name == DEFAULT:
        return [_builtin(entry) for entry in found.values() if entry.weight]
    if name == WITNESSES:
        return [_builtin(entry) for entry in found.values() if not entry.weight]
    if name in found:
        return [_builtin(found[name])]
    kind, _, file = name.partition(":")
    if file and kind in _RECORDINGS:
        return [Target(name, _RECORDINGS[kind](file))]
    if name.endswith(".py"):
        return [subject_target(read_script(name).subject())]
    known = ", ".join([DEFAULT, WITNESSES, *found, "SCRIPT.py", "strace:FILE", "kernel:FILE", "litmus:FILE[#N]"])
    raise UnknownTarget(f"unknown target {name!r}; expected one of: {known}")


def subject_named(name: str) -> Subject:
    """The subject a token's target stands for.  Raises UnknownTarget or BadInput."""
    whole, kept = _split(name)
    if kept is not None:
        subject = subject_named(whole)
        if not subject.is_program:
            raise UnknownTarget(f"target {whole!r} is not made of operations: nothing of it can be left out")
        return subject.keeping(kept)
    found = _INDEXED.fullmatch(name)
    base, index = (found[1], int(found[2])) if found else (name, 0)
    targets = resolve(base)
    if len(targets) != 1 or targets[0].indexed != bool(found):
        raise UnknownTarget(f"target {name!r} does not name one run; expected SCRIPT.py or TARGET@INDEX")
    return targets[0].subject(index)


def _split(name: str) -> tuple[str, frozenset[int] | None]:
    """A name without its suffix, and the operations that are kept."""
    try:
        return split_name(name)
    except ValueError as error:
        raise UnknownTarget(str(error)) from None


def subject_target(scenario: Scenario | Subject) -> Target:
    """One subject, or a coroutine function, as a target."""
    subject = subject_of(scenario)
    return Target(subject.name, lambda _index: subject, indexed=False)


def _builtin(entry: builtin.Target) -> Target:
    return Target(entry.name, partial(_builtin_subject, entry), max(1, entry.weight))


def _builtin_subject(entry: builtin.Target, index: int) -> Subject:
    """What is in the package has no content of its own to digest: the version covers it."""
    return Subject(entry.make_scenario(index), entry.name, digest(entry.name.encode()), entry.config)


def _litmus(text: str) -> recorded.Make:
    """``FILE#N``; a file of exactly that name goes first."""
    found = _NUMBERED.fullmatch(text)
    if found is None or Path(text).exists():
        return recorded.litmus_subjects(text)
    return recorded.litmus_subjects(found[1], int(found[2]))


_RECORDINGS: Final[dict[str, Callable[[str], recorded.Make]]] = {
    "strace": recorded.strace_subjects,
    "kernel": recorded.kernel_subjects,
    "litmus": _litmus,
}
