"""What each path does to each entry state: the matrix of core_mm section 12, cell by cell, whole entries.

An entry is written ``KIND flags page``: flags are w(ritable) d(irty) y(oung) (e)x(clusive) (proto)n(one),
``=`` is the page it named before, ``!`` another one, ``0`` the zero page.
"""

import pytest
from mm_rig import FIRST, Rig
from race_rig import device, together

from svm_actors.mm import messages as m
from svm_actors.mm import rmap
from svm_actors.mm.exclusive import get_user_page_write
from svm_actors.mm.migrate_types import MigrateVma, Select
from svm_actors.mm.page_table import Entry


def show(rig, folio, mm=None, page=0):
    pte = rig.pte(page, mm)
    if pte is None:
        return "NONE"
    flags = "".join(letter for letter, on in zip("wdyxn", pte[2:], strict=True) if on)
    which = "=" if pte.folio is folio else "0" if pte.kind is Entry.PRESENT and pte.folio.is_zero else "!"
    return f"{pte.kind.name} {flags or '-'} {which}"


class Cell:
    """One page in one state, and what is needed to let it go on."""

    def __init__(self, rig, state):
        self.rig = rig
        self.state = state
        self.toy = device(rig)
        self.src = []

    async def enter(self):
        rig = self.rig
        await rig.write(0, 7)
        await rig.core.lru.drain()
        if self.state in ("DEVPRIV", "MIGRATION"):
            assert await self.toy.to_device(0, 1) == 1
        if self.state == "SWAP":
            assert await rig.swap_out(0, 1) == 1
        if self.state == "DEVEXCL":
            async with rig.mm.mmap_lock.reading():
                folio = await rig.core.call(m.MakeDeviceExclusive(rig.mm, FIRST, None))
            folio.lock.release()
            folio.put("exclusive")
        self.folio = rig.pte(0).folio
        if self.state == "MIGRATION":
            self.src = await rig.core.call(m.MigrateDevicePfns(self.toy.pgmap, sorted(self.toy.pgmap.live)))

    async def leave(self):
        """The migration that was under way ends: everything goes home."""
        dst = [None] * len(self.src)
        await self.toy._copy_home(self.src, dst)
        await self.rig.core.call(m.MigrateDevicePages(self.src, dst))
        await self.rig.core.call(m.MigrateDeviceFinalize(self.src, dst))

    async def do(self, op):
        """Run an operation; one that sleeps on the migrating page gets on when it is home."""
        rig = self.rig
        if op not in SLEEPS or self.state != "MIGRATION":
            await together(rig, (OPS[op], rig, self))
            return
        async with rig.engine.nursery() as nursery:
            task = nursery.start_soon(OPS[op], rig, self)
            await rig.engine.sleep(1)
            assert not task.done
            assert rig.engine.counters["mm.migration_wait"] == 1
            await self.leave()
            self.src = []


async def cpu_read(rig, cell):
    assert await rig.read(0) == 7


async def cpu_write(rig, cell):
    await rig.write(0, 8)


async def zap(rig, cell):
    await rig.madvise(0, 1, "dontneed")


async def free(rig, cell):
    await rig.madvise(0, 1, "free")


async def reclaim(rig, cell):
    await rig.swap_out(0, 1)


async def pageout(rig, cell):
    await rig.madvise(0, 1, "pageout")


async def cold(rig, cell):
    await rig.madvise(0, 1, "cold")


async def protect(rig, cell):
    await rig.mprotect(0, 1, "r")


async def protect_and_back(rig, cell):
    await rig.mprotect(0, 1, "r")
    await rig.mprotect(0, 1, "rw")


async def protect_none(rig, cell):
    await rig.mprotect(0, 1, "none")


async def fork(rig, cell):
    cell.child = await rig.fork()


async def move(rig, cell):
    await rig.mremap(0, 1, 20)


async def gup(rig, cell):
    async with rig.mm.mmap_lock.reading():
        folio = await get_user_page_write(rig.core, rig.mm, FIRST, "gup")
    folio.put("gup")


async def collect(rig, cell):
    """migrate_vma_setup of everything this owner may have, looked at before it is restored."""
    async with rig.mm.mmap_lock.reading():
        vma = rig.mm.find_vma(FIRST)
        args = MigrateVma(rig.mm, vma, FIRST, FIRST + 1, cell.toy, Select.SYSTEM | Select.DEVICE_PRIVATE)
        await rig.core.call(m.MigrateVmaSetup(args))
        cell.seen = show(rig, cell.folio), (args.src[0].migrate, args.src[0].valid, args.src[0].write)
        await rig.core.call(m.MigrateVmaPages(args))
        await rig.core.call(m.MigrateVmaFinalize(args))


async def rmap_migrate(rig, cell):
    folio = cell.folio
    folio.get("collect")
    await folio.lock.acquire()
    await rmap.try_to_migrate(rig.core, folio)
    cell.seen = show(rig, folio)
    await rmap.remove_migration_ptes(rig.core, folio, folio)
    folio.lock.release()
    folio.put("collect")


OPS = {
    "read": cpu_read, "write": cpu_write, "zap": zap, "free": free, "cold": cold, "pageout": pageout,
    "reclaim": reclaim, "mprotect r": protect, "mprotect rw": protect_and_back, "mprotect none": protect_none,
    "fork": fork, "mremap": move, "GUP": gup, "migrate_vma": collect, "rmap": rmap_migrate,
}  # fmt: skip

SLEEPS = {"read", "write", "GUP"}

MATRIX = {
    ("read", "PRESENT"): "PRESENT wdy =",
    ("read", "SWAP"): "PRESENT wy !",
    ("read", "MIGRATION"): "PRESENT wy !",
    ("read", "DEVPRIV"): "PRESENT wy !",
    ("read", "DEVEXCL"): "PRESENT wdy =",
    ("write", "PRESENT"): "PRESENT wdy =",
    ("write", "SWAP"): "PRESENT wdy !",
    ("write", "MIGRATION"): "PRESENT wdy !",
    ("write", "DEVPRIV"): "PRESENT wdy !",
    ("write", "DEVEXCL"): "PRESENT wdy =",
    ("zap", "PRESENT"): "NONE",
    ("zap", "SWAP"): "NONE",
    ("zap", "MIGRATION"): "NONE",
    ("zap", "DEVPRIV"): "NONE",
    ("zap", "DEVEXCL"): "NONE",
    ("free", "PRESENT"): "PRESENT w =",
    ("free", "SWAP"): "NONE",
    ("free", "MIGRATION"): "MIGRATION wx =",
    ("free", "DEVPRIV"): "DEVICE_PRIVATE w =",
    ("free", "DEVEXCL"): "DEVICE_EXCLUSIVE - =",
    ("cold", "PRESENT"): "PRESENT wdy =",
    ("cold", "SWAP"): "SWAP x =",
    ("cold", "MIGRATION"): "MIGRATION wx =",
    ("cold", "DEVPRIV"): "DEVICE_PRIVATE w =",
    ("cold", "DEVEXCL"): "DEVICE_EXCLUSIVE - =",
    ("pageout", "PRESENT"): "SWAP x !",
    ("pageout", "SWAP"): "SWAP x =",
    ("pageout", "MIGRATION"): "MIGRATION wx =",
    ("pageout", "DEVPRIV"): "DEVICE_PRIVATE w =",
    ("pageout", "DEVEXCL"): "DEVICE_EXCLUSIVE - =",
    ("reclaim", "PRESENT"): "SWAP x !",
    ("reclaim", "SWAP"): "SWAP x =",
    ("reclaim", "MIGRATION"): "MIGRATION wx =",
    ("reclaim", "DEVPRIV"): "DEVICE_PRIVATE w =",
    ("mprotect r", "PRESENT"): "PRESENT dy =",
    ("mprotect r", "SWAP"): "SWAP x =",
    ("mprotect r", "MIGRATION"): "MIGRATION x =",
    ("mprotect r", "DEVPRIV"): "DEVICE_PRIVATE - =",
    ("mprotect r", "DEVEXCL"): "DEVICE_EXCLUSIVE - =",
    ("mprotect rw", "PRESENT"): "PRESENT wdy =",
    ("mprotect rw", "SWAP"): "SWAP x =",
    ("mprotect rw", "MIGRATION"): "MIGRATION x =",
    ("mprotect rw", "DEVPRIV"): "DEVICE_PRIVATE - =",
    ("mprotect rw", "DEVEXCL"): "DEVICE_EXCLUSIVE - =",
    ("mprotect none", "PRESENT"): "PRESENT dyn =",
    ("mprotect none", "SWAP"): "SWAP x =",
    ("mprotect none", "MIGRATION"): "MIGRATION x =",
    ("mprotect none", "DEVPRIV"): "DEVICE_PRIVATE - =",
    ("mprotect none", "DEVEXCL"): "DEVICE_EXCLUSIVE - =",
    ("GUP", "PRESENT"): "PRESENT wdy =",
    ("GUP", "SWAP"): "PRESENT wdy !",
    ("GUP", "MIGRATION"): "PRESENT w !",
    ("GUP", "DEVPRIV"): "PRESENT w !",
    ("GUP", "DEVEXCL"): "PRESENT wd =",
}


@pytest.mark.parametrize(("op", "state"), MATRIX, ids="-".join)
def test_cell(op, state):
    async def body(rig):
        cell = Cell(rig, state)
        await cell.enter()
        await cell.do(op)
        assert show(rig, cell.folio) == MATRIX[op, state]
        await cell.leave()

    Rig().run(body)


FORK = {
    "PRESENT": ("PRESENT dy =", "PRESENT d ="),
    "SWAP": ("SWAP - =", "SWAP - ="),
    "MIGRATION": ("MIGRATION - =", "MIGRATION - ="),
    "DEVPRIV": ("DEVICE_PRIVATE - =", "DEVICE_PRIVATE - ="),
    "DEVEXCL": ("PRESENT d =", "PRESENT d ="),
}


@pytest.mark.parametrize("state", FORK)
def test_fork(state):
    """Both sides end read-only, one page, two mappings, and exclusive to nobody."""

    async def body(rig):
        cell = Cell(rig, state)
        await cell.enter()
        await cell.do("fork")
        assert (show(rig, cell.folio), show(rig, cell.folio, cell.child)) == FORK[state]
        if state == "SWAP":
            assert cell.folio.count == 2
        else:
            mappings = 0 if state == "MIGRATION" else 2
            assert (cell.folio.mapcount, cell.folio.anon_exclusive) == (mappings, False)
        await cell.leave()
        assert (await rig.read(0), await rig.read(0, cell.child)) == (7, 7)
        await rig.write(0, 9, cell.child)
        assert (await rig.read(0), await rig.read(0, cell.child)) == (7, 9)
        await cell.child.mmput()

    Rig().run(body)


def test_fork_fails_when_an_exclusive_page_is_locked():
    async def body(rig):
        await rig.write(0, 1)
        await rig.write(1, 2)
        locked, done = [], []

        async def holder():
            async with rig.mm.mmap_lock.reading():
                folio = await rig.core.call(m.MakeDeviceExclusive(rig.mm, FIRST + 1, None))
            locked.append(folio)
            while not done:
                await rig.engine.sleep(1)
            folio.lock.release()
            folio.put("exclusive")

        async def forker():
            while not locked:
                await rig.engine.sleep(1)
            with pytest.raises(m.KernelError) as error:
                await rig.fork()
            done.append(error.value.code)

        await together(rig, holder, forker)
        assert done == ["ENOMEM"]
        assert list(rig.core.mms) == ["p0"]
        assert (await rig.read(0), await rig.read(1)) == (1, 2)
        await rig.write(0, 3)
        assert rig.pte(0).folio.refs.get("map") == 1

    Rig().run(body)


MOVED = {
    "PRESENT": "PRESENT wdy =", "SWAP": "SWAP x =", "MIGRATION": "MIGRATION wx =",
    "DEVPRIV": "DEVICE_PRIVATE w =", "DEVEXCL": "DEVICE_EXCLUSIVE - =",
}  # fmt: skip


@pytest.mark.parametrize("state", MOVED)
def test_mremap_moves_the_entry_verbatim(state):
    async def body(rig):
        cell = Cell(rig, state)
        await cell.enter()
        before, counts = rig.pte(0), dict(getattr(cell.folio, "refs", {}))
        await cell.do("mremap")
        assert (show(rig, cell.folio), show(rig, cell.folio, page=20)) == ("NONE", MOVED[state])
        assert rig.pte(20) == before
        assert dict(getattr(cell.folio, "refs", {})) == counts
        await cell.leave()
        assert await rig.read(20) == 7

    Rig().run(body)


COLLECTED = {
    "PRESENT": ("MIGRATION wdyx =", (True, True, True), "PRESENT wdy ="),
    "SWAP": ("SWAP x =", (False, False, False), "SWAP x ="),
    "MIGRATION": ("MIGRATION wx =", (False, False, False), "MIGRATION wx ="),
    "DEVPRIV": ("MIGRATION wx =", (True, True, True), "DEVICE_PRIVATE w ="),
    "DEVEXCL": ("DEVICE_EXCLUSIVE - =", (False, False, False), "DEVICE_EXCLUSIVE - ="),
}


@pytest.mark.parametrize("state", COLLECTED)
def test_migrate_vma_collects_and_without_destination_restores(state):
    async def body(rig):
        cell = Cell(rig, state)
        await cell.enter()
        await cell.do("migrate_vma")
        assert (*cell.seen, show(rig, cell.folio)) == COLLECTED[state]
        await cell.leave()
        assert await rig.read(0) == 7

    Rig().run(body)


THROUGH_RMAP = {
    "PRESENT": ("MIGRATION wdyx =", "PRESENT wdy ="),
    "DEVPRIV": ("MIGRATION wx =", "DEVICE_PRIVATE w ="),
    "DEVEXCL": ("MIGRATION x =", "PRESENT - ="),
}


@pytest.mark.parametrize("state", THROUGH_RMAP)
def test_rmap_migration_keeps_what_the_entry_may(state):
    """READ_EXCLUSIVE for a device-exclusive entry: it comes back read-only, and the page still exclusive."""

    async def body(rig):
        cell = Cell(rig, state)
        await cell.enter()
        await cell.do("rmap")
        assert (cell.seen, show(rig, cell.folio)) == THROUGH_RMAP[state]
        assert cell.folio.anon_exclusive
        assert await rig.read(0) == 7

    Rig().run(body)


def test_reclaim_unmaps_an_exclusive_entry_like_a_present_one():
    async def body(rig):
        cell = Cell(rig, "DEVEXCL")
        await cell.enter()
        slot = rig.core.swap.alloc()
        cell.folio.get("reclaim")
        await cell.folio.lock.acquire()
        rig.core.swap.add_to_cache(cell.folio, slot)
        await rmap.try_to_unmap(rig.core, cell.folio, slot)
        assert show(rig, slot) == "SWAP x ="
        cell.folio.lock.release()
        cell.folio.put("reclaim")
        assert await rig.read(0) == 7

    Rig().run(body)


def test_every_cell_of_the_matrix_is_here():
    """What has a table of its own is not repeated; reclaim of an exclusive page is the test above."""
    states = ["PRESENT", "SWAP", "MIGRATION", "DEVPRIV", "DEVEXCL"]
    tables = {"fork": FORK, "mremap": MOVED, "migrate_vma": COLLECTED, "rmap": THROUGH_RMAP}
    cells = {*MATRIX, *((op, state) for op, table in tables.items() for state in table)}
    missing = {(op, state) for op in OPS for state in states} - cells
    assert missing == {("reclaim", "DEVEXCL"), ("rmap", "SWAP"), ("rmap", "MIGRATION")}
