"""Random programs over VM_BIND (:mod:`svm_actors.workload.bind_programs`), drawn from a random source.

What is drawn is biased to where races are: windows of few pages, so that mappings are cut and replaced; objects of few
pages that several clients and VMs map; jobs as frequent as binds.  What ends a story (a hang, a GT reset, a closed
VM) is rare.  All values written are distinct, so a value that is read tells which write it is.
"""

from __future__ import annotations

from typing import Final

import attrs

from . import bind_programs as bp
from .concurrent_programs import ProcessProgram, RandomProgram, Reclaim, ThreadAction
from .random_kernel_programs import Draw, weighted
from .random_programs import ProgramShape, random_program

_BASE: Final = ProgramShape(pages=3, processes=2, threads=1, actions=4, vms=1, gpus=1, streams=1)


@attrs.frozen
class BindShape:
    """Upper bounds for what is drawn."""

    base: ProgramShape = _BASE
    """Processes and their CPU threads."""
    modes: tuple[bp.BindMode, ...] = ("dma_fence", "dma_fence", "lr")
    """What the VMs that user space fills may be."""
    mirrors: bool = False
    """VMs that mirror the processes are part of it."""
    calm: int = 3
    """Calm pages of a process."""
    vms: int = 2
    clients: int = 3
    bos: int = 4
    bo_pages: int = 3
    operations: int = 9
    """Operations of a client."""
    driver: int = 3
    """May be none."""


_OPERATIONS: Final = (
    ("bind", 36), ("submit", 40), ("wait", 8), ("cpu_read", 4), ("cpu_write", 4), ("user_write", 4), ("mirror", 8),
    ("unmirror", 2), ("drop", 2), ("hang", 1), ("stray", 1), ("destroy_queue", 1),
)  # fmt: skip
_CHANGES: Final = (("map", 48), ("user", 20), ("null", 6), ("unmap", 20), ("unmap_all", 3), ("prefetch", 6))
_ACCESSES: Final = (("load", 40), ("store", 40), ("add", 12), ("foreign", 8))
_DRIVER: Final = (("evict", 24), ("reset", 2), ("close", 1))
_PLACEMENTS: Final[tuple[bp.Placement, ...]] = ("vram", "vram", "vram", "vram_or_system", "system")


def random_bind_program(draw: Draw, shape: BindShape = BindShape()) -> bp.BindProgram:
    """A program within the bounds of ``shape``; equal draws give equal programs."""
    return _Generator(draw, shape).program()


class _Generator:
    """One program in the making."""

    def __init__(self, draw: Draw, shape: BindShape) -> None:
        self.draw = draw
        self.shape = shape
        self.values = 0
        self.base = self._base()
        self.vms: tuple[bp.BindVmProgram, ...] = ()
        self.bos: tuple[bp.BoProgram, ...] = ()
        self.clients = 0

    def program(self) -> bp.BindProgram:
        shape = self.shape
        self.vms = tuple(self._vm() for _ in range(self._up_to(shape.vms)))
        self.clients = self._up_to(shape.clients)
        homes = [number if number < len(self.vms) else self.draw(len(self.vms)) for number in range(self.clients)]
        self.bos = tuple(self._bo(homes) for _ in range(self._up_to(shape.bos)))
        clients = tuple(bp.Client(home, self._operations(number)) for number, home in enumerate(homes))
        driver = tuple(self._driver() for _ in range(self.draw(shape.driver + 1)))
        return bp.BindProgram(self.base, shape.calm, self.vms, self.bos, clients, driver)

    # -- what there is -------------------------------------------------------------------

    def _base(self) -> RandomProgram:
        """The processes; without mirrors, none of the other things."""
        base = random_program(self.draw, self.shape.base)
        processes = tuple(
            ProcessProgram(entry.setup, tuple(map(self._with_pressure, entry.threads))) for entry in base.processes
        )
        if self.shape.mirrors:
            return RandomProgram(base.pages, processes, base.vms, base.streams, base.driver)
        return RandomProgram(base.pages, processes, (), (), ())

    def _with_pressure(self, thread: tuple[ThreadAction, ...]) -> tuple[ThreadAction, ...]:
        """The thread's actions, and reclaim of calm pages after some of them."""
        mixed: list[ThreadAction] = []
        for action in thread:
            mixed.append(action)
            if self._one_in(2):
                page = self.draw(self.shape.calm)
                mixed.append(Reclaim(self.shape.base.pages + page, self.shape.calm - page))
        return tuple(mixed)

    def _up_to(self, limit: int) -> int:
        return 1 + self.draw(limit)

    def _one_in(self, count: int) -> bool:
        return not self.draw(count)

    def _value(self) -> int:
        self.values += 1
        return self.values

    def _vm(self) -> bp.BindVmProgram:
        mode = self.shape.modes[self.draw(len(self.shape.modes))]
        return bp.BindVmProgram(self.draw(len(self.base.processes)), mode, self._up_to(2), self._up_to(2))

    def _bo(self, homes: list[int]) -> bp.BoProgram:
        pages, placement = self._up_to(self.shape.bo_pages), _PLACEMENTS[self.draw(len(_PLACEMENTS))]
        external = not self._one_in(3)
        client = self.draw(self.clients) if self._one_in(3) else None
        vm = self.draw(len(self.vms)) if client is None else homes[client]
        return bp.BoProgram(vm, pages, placement, external, client)

    # -- clients -------------------------------------------------------------------------

    def _operations(self, client: int) -> tuple[bp.Operation, ...]:
        """The first one maps something, as nothing else has any effect before."""
        rest = tuple(self._operation() for _ in range(self._up_to(self.shape.operations)))
        return (self._first(), *rest)

    def _first(self) -> bp.Bind:
        change = bp.Map(self.draw(4), self._up_to(self.shape.bo_pages), self.draw(len(self.bos)))
        return bp.Bind((change,), self.draw(2), eager=True)

    def _operation(self) -> bp.Operation:
        match weighted(self.draw, _OPERATIONS):
            case "bind":
                return self._bind()
            case "submit":
                return self._submit()
            case "cpu_read":
                return bp.CpuRead(self.draw(len(self.bos)), self.draw(self.shape.bo_pages))
            case "cpu_write":
                return bp.CpuWrite(self.draw(len(self.bos)), self.draw(self.shape.bo_pages), self._value())
            case "user_write":
                return bp.UserWrite(self.draw(self.shape.calm), self._value())
            case "mirror":
                value = 0 if self._one_in(2) else self._value()
                return bp.Mirror(self.draw(self.shape.calm), value, self._one_in(2))
            case "unmirror":
                page = self.draw(self.base.pages)
                kind = bp.Remirror if self._one_in(2) else bp.Unmirror
                return kind(page, self._up_to(self.base.pages - page))
            case "drop":
                return bp.Drop(self.draw(len(self.bos)))
            case "hang":
                return bp.Hang(self.draw(2), self._one_in(2))
            case "stray":
                return bp.Stray(self.draw(2))
            case "destroy_queue":
                return bp.DestroyQueue(self.draw(2))
        return bp.Wait()

    def _bind(self) -> bp.Bind:
        count = 1 if self.draw(4) else self._up_to(3)
        changes = tuple(self._change() for _ in range(count))
        return bp.Bind(changes, self.draw(2), self._one_in(3), self._one_in(4), self._one_in(2))

    def _range(self) -> tuple[int, int]:
        at = self._at()
        return at, self._up_to(min(4, bp.WINDOW - at))

    def _at(self) -> int:
        """A page of the window; mostly of its first half, so that mappings and accesses meet."""
        return self.draw(bp.WINDOW if self._one_in(3) else bp.WINDOW // 2)

    def _change(self) -> bp.Change:
        at, n = self._range()
        match weighted(self.draw, _CHANGES):
            case "map":
                offset = self.draw(self.shape.bo_pages) if self._one_in(3) else 0
                return bp.Map(at, n, self.draw(len(self.bos)), offset, self._one_in(8))
            case "user":
                return self._map_user(at, n)
            case "null":
                return bp.MapNull(at, n)
            case "unmap_all":
                return bp.UnmapAll(self.draw(len(self.bos)))
            case "prefetch":
                return bp.Prefetch(at, n)
        return bp.Unmap(at, n)

    def _map_user(self, at: int, n: int) -> bp.MapUser:
        """Mostly calm memory, whose bytes are known; now and then what the CPU unmaps under it, or nothing at all."""
        if self._one_in(10):
            return bp.MapUser(at, n, self.base.pages + self.shape.calm)
        first, size = (0, self.base.pages) if self._one_in(4) else (self.base.pages, self.shape.calm)
        page = self.draw(size)
        return bp.MapUser(at, min(n, size - page), first + page)

    def _submit(self) -> bp.Submit:
        accesses = tuple(self._access() for _ in range(self._up_to(4)))
        spin = self.draw(len(accesses)) if self._one_in(3) else None
        return bp.Submit(accesses, self.draw(2), spin)

    def _access(self) -> bp.Access:
        at = self._at()
        match weighted(self.draw, _ACCESSES):
            case "store":
                return bp.Access(at, "store", self._value())
            case "add":
                return bp.Access(at, "add")
            case "foreign":
                return bp.Access(at, "load", of=self.draw(self.clients))
        return bp.Access(at, "load")

    # -- driver --------------------------------------------------------------------------

    def _driver(self) -> bp.DriverTask:
        match weighted(self.draw, _DRIVER):
            case "reset":
                return bp.ResetGt()
            case "close":
                return bp.CloseBindVm(self.draw(len(self.vms)))
        return bp.EvictPages(self._up_to(self.shape.bo_pages * 2))
