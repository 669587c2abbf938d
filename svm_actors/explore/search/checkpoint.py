"""A search as plain data: what a file must keep so that the search goes on where it was.

The stack says everything: the choices on it are the next run, and what its nodes still have to try is the
rest of the search.  Events are not kept; the next run orders them again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from svm_actors.explore.search.footprint import Footprint, Names
from svm_actors.explore.search.node import DataNode, StepNode
from svm_actors.explore.search.search import Found, Search

Print = tuple[str, str | None, int | str | None, list[str], list[str], list[str]]


class _Step(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag="s"):
    tasks: tuple[int, ...]
    costs: tuple[int, ...]
    spent: int
    sleep: dict[int, Print]
    backtrack: list[int]
    chosen: int
    footprint: Print | None
    tried: list[int]
    allowed: tuple[int, ...]
    forced: bool


class _Data(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag="d"):
    count: int
    value: int


class _Saved(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    stack: list[_Step | _Data]
    found: dict[str, int]
    costs: dict[int, int]
    complete: bool


_COUNTS = ("runs", "blocked", "pruned", "too_long", "failing")


def save(search: Search) -> bytes:
    """The search between two runs."""
    stack: list[_Step | _Data] = [
        _Data(node.count, node.value) if isinstance(node, DataNode) else _step(node) for node in search.stack
    ]
    found = {name: getattr(search.found, name) for name in _COUNTS}
    return msgspec.msgpack.encode(_Saved(stack, found, dict(search.found.costs), search.found.complete))


def load(search: Search, data: bytes) -> None:
    """Make a fresh search what was saved.  ValueError for other bytes."""
    saved = msgspec.msgpack.decode(data, type=_Saved)
    if set(saved.found) != set(_COUNTS):
        raise ValueError("other counts than a search has")
    search.found = Found(costs=Counter(saved.costs), complete=saved.complete)
    for name, count in saved.found.items():
        setattr(search.found, name, count)
    search.stack = [
        DataNode(each.count, each.value) if isinstance(each, _Data) else _node(each, search.names)
        for each in saved.stack
    ]


def _step(node: StepNode) -> _Step:
    return _Step(
        node.tasks,
        node.costs,
        node.spent,
        {number: _print(each) for number, each in node.sleep.items()},
        node.backtrack,
        node.chosen,
        None if node.footprint is None else _print(node.footprint),
        node.tried,
        node.allowed,
        node.forced,
    )


def _node(step: _Step, names: Names) -> StepNode:
    return StepNode(
        step.tasks,
        step.costs,
        step.spent,
        {number: _footprint(each, names) for number, each in step.sleep.items()},
        step.backtrack,
        chosen=step.chosen,
        footprint=None if step.footprint is None else _footprint(step.footprint, names),
        tried=step.tried,
        allowed=step.allowed,
        forced=step.forced,
        starts=not step.forced,
    )


def _print(footprint: Footprint) -> Print:
    kind, resource, key = footprint.op
    touched = sorted(each.name for each in footprint.touched)
    name = None if resource is None else resource.name
    return kind, name, key, touched, sorted(footprint.reads), sorted(footprint.writes)


def _footprint(saved: Print, names: Names) -> Footprint:
    kind, name, key, touched, reads, writes = saved
    op: Any = (kind, None if name is None else names.called(name), key)
    return Footprint(op, frozenset(map(names.called, touched)), frozenset(reads), frozenset(writes))


__all__ = ["load", "save"]
