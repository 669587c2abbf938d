"""State machines that coverage watches while a run goes on: page-table entries, TLBs, GPU ranges, VMAs.

An *edge* is a change of state.  Everything here is a listener of the model's event stream; none of it
announces an op, draws a choice or changes anything the model can see.

* ``pte``: entries of the CPU page tables, in the states of core_mm section 3 with the writable bit
  (``present``, ``present+w``) and the closed one (``-``);
* ``tlb``: what a GPU TLB holds for a page: where it leads (``system``, ``vram``, ``p2p``), writable or not;
* ``range``: GPU ranges: the flags of gpusvm section 1.3, whether pages are valid, whether they are mapped;
  looked at when an invalidation of their pages has returned and when one of their pages was filled;
* ``vma``: two consecutive changes of overlapping parts of one address space;
* ``vma_race``: two such changes under way at once.

Simplified: ranges are sampled and not traced, so two changes between two samples are seen as one edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from svm_actors.drm.gpusvm_range import GpusvmRange
from svm_actors.gpu.events import TlbFilled, TlbFlushed
from svm_actors.gpu.page_table import GpuPte
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.mm.events import EntryChanged, RangeChanged, RangeChanging
from svm_actors.mm.mmu_notifier import InvalidateReturned
from svm_actors.mm.page_table import Pte

if TYPE_CHECKING:
    from svm_actors.world import World

NONE: Final = "none"
"""No entry, no translation, no range, nothing before."""
REMEMBERED: Final = 8
"""Changes of one address space that the next one is compared with."""

Edge = tuple[str, str]


def pte_state(pte: Pte | None) -> str:
    """State of a CPU leaf entry."""
    if pte is None:
        return NONE
    return f"{pte.kind.value}{'+w' if pte.writable else ''}{'-' if pte.protnone else ''}"


def gpu_pte_state(pte: GpuPte) -> str:
    """State of a translation."""
    return f"{pte.dma.proto.value}{'+w' if pte.writable else ''}"


def range_state(range_: Any) -> str:
    """State of a GPU range: its life, its pages, its mapping."""
    flags, pages = range_.flags, range_.pages.flags
    life = "partly unmapped" if flags.partial_unmap else "unmapped" if flags.unmapped else "live"
    held = "devmem" if pages.has_devmem_pages else "dma" if pages.has_dma_mapping else "no pages"
    return f"{life}, {held}, {'mapped' if range_.has_valid_mapping else 'not mapped'}"


class Edges:
    """Listens to one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.vma = VmaEdges()
        self._entries: list[tuple[Pte | None, Pte | None]] = []
        self._tlb: set[Edge] = set()
        self._held: dict[tuple[str, int], dict[int, str]] = {}
        self._ranges: set[Edge] = set()
        self._states: dict[GpusvmRange, str] = {}

        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            RangeChanging: self.vma.changing,
            RangeChanged: self.vma.changed,
            InvalidateReturned: self._invalidated,
            TlbFilled: self._filled,
            TlbFlushed: self._flushed,
            EntryChanged: self._entry,
        }

        self.hears = tuple(self._handlers)

    def __call__(self, event: Any) -> None:
        """Take in a model event."""
        self._handlers[type(event)](event)

    def features(self) -> set[str]:
        """Every edge as a feature; call it when the run is over."""
        self._end()
        found = {f"pte:{pte_state(old)}>{pte_state(new)}" for old, new in self._entries}
        for kind, edges in (("tlb", self._tlb), ("range", self._ranges), ("vma", self.vma.edges)):
            found |= {f"{kind}:{old}>{new}" for old, new in edges}
        return found | {f"vma_race:{one}|{other}" for one, other in self.vma.races}

    def _entry(self, event: EntryChanged) -> None:
        self._entries.append((event.old, event.new))

    # -- TLBs ------------------------------------------------------------------------

    def _filled(self, event: TlbFilled) -> None:
        held = self._held.setdefault((event.gpu, event.asid), {})
        now = gpu_pte_state(event.pte)
        self._tlb.add((held.get(event.vpn, NONE), now))
        held[event.vpn] = now
        self._look(event.vpn, event.vpn + 1)

    def _flushed(self, event: TlbFlushed) -> None:
        held = self._held.get((event.gpu, event.asid), {})
        for vpn in [vpn for vpn in held if event.start <= vpn < event.end]:
            self._tlb.add((held.pop(vpn), NONE))

    # -- ranges ----------------------------------------------------------------------

    def _invalidated(self, event: InvalidateReturned) -> None:
        self._look(event.range.start, event.range.end)

    def _look(self, start: int, end: int) -> None:
        """Note what has changed of the ranges that hold any of these pages."""
        states = self._states
        for range_ in self._living(start, end):
            before, now = states.get(range_, NONE), range_state(range_)
            if before != now:
                self._ranges.add((before, now))
                states[range_] = now

    def _living(self, start: int, end: int) -> Iterator[GpusvmRange]:
        # What is collected is a set, so the order of the trees does not matter: plain dict access is cheaper.
        for vm in self.world.vms:
            for notifier in dict.values(vm.vm.svm.gpusvm.root):
                if notifier.start < end and start < notifier.end:
                    for each in dict.values(notifier.ranges):
                        if each.start < end and start < each.end:
                            yield each

    def _end(self) -> None:
        """What has left its tree meanwhile went from the state it was last seen in."""
        living = dict.fromkeys(self._living(0, TASK_PAGES))
        self._ranges.update((state, NONE) for each, state in self._states.items() if each not in living)


class VmaEdges:
    """Consecutive and concurrent changes of overlapping parts of an address space."""

    def __init__(self) -> None:
        self.edges: set[Edge] = set()
        self.races: set[Edge] = set()
        self._past: dict[str, list[RangeChanged]] = {}
        self._going: list[RangeChanging] = []

    def changing(self, event: RangeChanging) -> None:
        """A change begins."""
        if self._going:
            self.races.update((other.what, event.what) for other in self._going if _overlap(event, other))
        self._going.append(event)

    def changed(self, event: RangeChanged) -> None:
        """It is over."""
        for other in self._going:
            if other.mm is event.mm and (other.start, other.what) == (event.start, event.what):
                self._going.remove(other)
                break
        past = self._past.setdefault(event.mm.name, [])
        before = next((old.what for old in reversed(past) if _overlap(old, event)), NONE)
        self.edges.add((before, event.what))
        past.append(event)
        del past[:-REMEMBERED]


def _overlap(one: RangeChanging | RangeChanged, other: RangeChanging | RangeChanged) -> bool:
    return one.mm is other.mm and one.start < other.end and other.start < one.end
