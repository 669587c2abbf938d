"""Numbers about a strace log and the program made of it."""

from __future__ import annotations

from collections import Counter

import attrs

from .strace import Call, Ended, Log, Other, Signal


@attrs.frozen
class LogCounts:
    """What is in the log."""

    calls: dict[str, int]
    """Calls by name, finished or not, in the order of their first return."""
    failed: dict[str, int]
    """Calls that returned an error, by name."""
    unfinished: int
    """Calls that never return in the log."""
    others: int
    """Calls that are not part of a memory program."""
    signals: dict[str, int]
    exited: int
    killed: int
    duration_ns: int
    """From the first to the last entry."""


@attrs.frozen
class Statistics:
    """What is in the program."""

    processes: int
    """Address spaces."""
    threads: int
    steps: int
    inferred_steps: int
    """Steps without a line in the log."""
    unexplained_steps: int
    """Steps whose recorded result a replay need not give."""
    peak_bytes: int
    """Most bytes mapped at once, over all address spaces, premaps included."""
    log: LogCounts


def count_log(log: Log) -> LogCounts:
    """Count the records of a log."""
    calls = [record for record in log.records if isinstance(record, Call)]
    ends = [record for record in log.records if isinstance(record, Ended)]
    times = [record.time_ns for record in log.records]
    return LogCounts(
        calls=dict(Counter(call.name for call in calls)),
        failed=dict(Counter(call.name for call in calls if call.errno is not None)),
        unfinished=sum(call.finished_line is None for call in calls),
        others=sum(isinstance(call, Other) for call in calls),
        signals=dict(Counter(record.name for record in log.records if isinstance(record, Signal))),
        exited=sum(end.signal is None for end in ends),
        killed=sum(end.signal is not None for end in ends),
        duration_ns=max(times) - min(times),
    )
