"""Deadlock reports: every blocked task's pending op, and the wait-for cycle when there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import Deadlock
from svm_actors.engine.op import render
from svm_actors.engine.task import Task, Thread

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine


def blockers(engine: Engine, task: Task) -> list[Task]:
    """Tasks that must act before ``task`` can: the serving task, or those of the lock's holders."""
    target = task.waits_for
    if isinstance(target, Task):
        return [target]
    holders: list[Thread] = target.holders() if hasattr(target, "holders") else []
    return [other for other in engine.tasks.values() if other is not task and other.thread in holders]


def find_cycle(engine: Engine) -> list[Task]:
    """The first wait-for cycle in creation order, or an empty list."""
    for start in engine.tasks.values():
        path: list[Task] = []
        seen: dict[int, int] = {}
        stack = [(start, 0)]
        while stack:
            task, depth = stack.pop()
            del path[depth:]
            for number in [n for n, at in seen.items() if at >= depth]:
                del seen[number]
            if task.number in seen:
                return path[seen[task.number] :]
            seen[task.number] = depth
            path.append(task)
            for other in blockers(engine, task):
                if other.number in seen:
                    return path[seen[other.number] :]
                stack.append((other, depth + 1))
    return []


def deadlock(engine: Engine) -> Deadlock:
    """Describe why nothing can run."""
    blocked = [task for task in engine.tasks.values() if not (task.daemon and task.op[0] == "receive")]
    lines = [f"deadlock at virtual time {engine.now} ns: no task is enabled and no timer is pending"]
    for task in blocked:
        held = ", ".join(f"{lock.name} ({mode})" for lock, mode in task.thread.held) or "nothing"
        lines.append(f"  {task.id} is blocked in {render(task.op)}; its thread holds {held}")
    cycle = find_cycle(engine)
    if cycle:
        names = [task.id for task in cycle]
        lines.append("  wait-for cycle: " + " -> ".join([*names, names[0]]))
    return Deadlock("\n".join(lines))
