"""Reports of runs that cannot go on: deadlock, with the wait-for cycle, and a spent step budget."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from svm_actors.engine.errors import Deadlock, StepBudgetSpent
from svm_actors.engine.op import render
from svm_actors.engine.task import Task, Thread

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine

LOOKBACK: Final = 400
"""Steps examined to name the op that a spent budget went into; rounds of up to half as many are told."""
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\d+")


def blockers(engine: Engine, task: Task, *, outermost: bool = False) -> list[Task]:
    """Tasks that must act before ``task`` can, in creation order.

    What a task waits for is another task, or an object that names them: ``blocked_by(task)`` gives
    tasks or threads (a reply its serving task), ``holders()`` gives threads.  A thread stands for its
    live tasks; with ``outermost`` for the oldest only, from which calls lead to the one at work.
    """
    found: dict[int, Task] = {}
    for blocker in _named_by(task):
        if isinstance(blocker, Task):
            tasks = [] if blocker.done else [blocker]
        else:
            tasks = [other for other in engine.tasks.values() if other.thread is blocker and other is not task]
            tasks = tasks[:1] if outermost else tasks
        found.update((other.number, other) for other in tasks)
    return [found[number] for number in sorted(found)]


def _named_by(task: Task) -> list[Task | Thread]:
    target: Any = task.waits_for
    if target is None:
        return []
    if isinstance(target, Task | Thread):
        return [target]
    if hasattr(target, "blocked_by"):
        return list(target.blocked_by(task))
    return list(target.holders()) if hasattr(target, "holders") else []


def find_cycle(engine: Engine) -> list[Task]:
    """A wait-for cycle, or an empty list.

    First the cycle that tells the story (through callers and the requests they wait for); then, if
    there is none, any cycle through any task of the threads that hold a lock.
    """
    for outermost in (True, False):

        def successors(task: Task, outermost: bool = outermost) -> list[Task]:
            return blockers(engine, task, outermost=outermost)

        for start in list(engine.tasks.values()):
            cycle = _shortest_cycle(start, successors)
            if cycle:
                return cycle
    return []


def _shortest_cycle(start: Task, successors: Callable[[Task], list[Task]]) -> list[Task]:
    """The shortest cycle through ``start``, breadth first."""
    came: dict[int, Task] = {}
    todo = deque([start])
    while todo:
        here = todo.popleft()
        for there in successors(here):
            if there is start:
                path = [here]
                while path[-1] is not start:
                    path.append(came[path[-1].number])
                return path[::-1]
            if there.number not in came:
                came[there.number] = here
                todo.append(there)
    return []


def deadlock(engine: Engine) -> Deadlock:
    """Describe why nothing can run."""
    lines = [f"deadlock at virtual time {engine.now} ns: no task is enabled and no timer is pending"]
    idle = [task for task in engine.tasks.values() if task.daemon and task.op[0] == "receive"]
    blocked = [task for task in engine.tasks.values() if not task.enabled and task not in idle]
    lines += [_blocked_line(task) for task in sorted(blocked, key=lambda task: task.daemon)]
    cycle = find_cycle(engine)
    if cycle:
        names = [task.id for task in cycle]
        lines.append("  wait-for cycle: " + " -> ".join([*names, names[0]]))
    return Deadlock("\n".join(lines))


def _blocked_line(task: Task) -> str:
    held = ", ".join(f"{lock.name} ({mode})" for lock, mode in task.thread.held.items()) or "nothing"
    who = f"{task.id} (daemon)" if task.daemon else task.id
    missed = "; its condition holds, but nobody woke it" if _holds(task) else ""
    return f"  {who} is blocked in {render(task.op)}; its thread holds {held}{missed}"


def _holds(task: Task) -> bool:
    """True when the guard of a blocked task holds: a wake-up was lost."""
    try:
        return task.guard is not None and bool(task.guard())
    except Exception:  # a guard evaluated outside its task may fail; the report must not
        return False


def budget_spent(engine: Engine) -> StepBudgetSpent:
    """Name the op that the last steps went into.

    Where the run goes round and round, one whole round is looked at: a window of so many steps has some of its ops
    once more than others, and which depends on where the budget ends.  Ops are the same that differ in numbers only,
    since each round may have calls and pages of its own; of those done as often the first in the alphabet is named.
    """
    last = engine.trace()[-LOOKBACK:]
    ops = [_NUMBER.sub("N", line.partition(": ")[2]) for line in last]
    often = Counter(ops[-round_length(ops) :])
    named = min(often, key=lambda op: (-often[op], op))
    line = next(line for line, op in zip(reversed(last), reversed(ops), strict=True) if op == named)
    return StepBudgetSpent(
        f"step budget of {engine.step_budget} spent at virtual time {engine.now} ns; "
        f"most frequent of the last {len(last)} steps: {line} ({ops.count(named)} times)"
    )


def round_length(ops: Sequence[str]) -> int:
    """After how many ops they come again, all along and at least twice; the count of all when they do not."""
    for length in range(1, len(ops) // 2 + 1):
        if ops[length:] == ops[:-length]:
            return length
    return len(ops)
