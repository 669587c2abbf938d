"""Small promises of the driver (fences_and_scheduler 12, gpusvm 9, vm_bind 17).

* INV-FEN-06: a locking round that is over, with an error or without, has left no reservation of its context locked and
  holds on to none.
* INV-VMB-11: a queue that was banned or killed is not switched on again.
* INV-VMB-15: where madvise cuts mappings, every entry that is there afterwards was there before, and leads to the
  same place.  Some may be gone: a notifier takes what it must at any time.
* RULE-32: the hardware flushes what it was asked to flush, or more.
"""

from __future__ import annotations

from typing import Any

from svm_actors.drm.exec import ExecEnded
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.events import TlbFlushed
from svm_actors.gpu.page_table import GpuPte
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.queue_events import MadviseCuts, QueueEnded, QueueSwitchedOn
from svm_actors.xe.vm_mode import XeBindVm


class Driver:
    """Listens to the driver and its hardware."""

    name = "driver"
    hears = (ExecEnded, MadviseCuts, QueueEnded, QueueSwitchedOn, TlbFlushed)

    def __init__(self, world: Any) -> None:
        self.engine: Engine = world.engine
        self.ended: dict[ExecQueue, None] = {}
        """Queues of which nothing new may run."""
        self.before: dict[XeBindVm, dict[int, GpuPte]] = {}
        """Entries of VMs whose mappings are being cut."""

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is TlbFlushed:
            self._flushed(event)
        elif kind is QueueEnded:
            self.ended[event.queue] = None
        elif kind is QueueSwitchedOn:
            self._switched_on(event.queue)
        elif kind is ExecEnded:
            self._nothing_locked(event)
        else:
            self._cut(event)

    def _fail(self, rule: str, text: str) -> None:
        raise PropertyFailed(self.name, rule, text)

    def _flushed(self, event: TlbFlushed) -> None:
        """RULE-32."""
        if event.asked is not None and not event.start <= event.asked[0] <= event.asked[1] <= event.end:
            low, high = event.asked
            done = f"[{event.start:x},{event.end:x})"
            self._fail("RULE-32", f"{event.gpu} flushes {done}, asked for [{low:x},{high:x})")

    def _switched_on(self, queue: ExecQueue) -> None:
        """INV-VMB-11."""
        if queue in self.ended:
            self._fail("INV-VMB-11", f"{queue.name} is switched on after it was banned or killed")

    def _nothing_locked(self, event: ExecEnded) -> None:
        """INV-FEN-06."""
        transaction, task = event.exec, self.engine.current
        if transaction.objects or transaction.prelocked is not None or transaction.contended is not None:
            self._fail("INV-FEN-06", f"{transaction.name} is over and holds on to an object")
        for lock in [] if task is None or transaction.ticket is None else task.thread.held:
            if getattr(lock, "context", None) is transaction.ticket:
                self._fail("INV-FEN-06", f"{transaction.name} is over, and {lock.name} is still locked")

    def _cut(self, event: MadviseCuts) -> None:
        """INV-VMB-15."""
        entries = dict(event.vm.page_table.items())
        if not event.done:
            self.before[event.vm] = entries
            return
        before = self.before.pop(event.vm)
        for vpn, pte in entries.items():
            if before.get(vpn) != pte:
                self._fail("INV-VMB-15", f"madvise cuts mappings of {event.vm.name}, and page {vpn:#x} changes")
