"""The device page fault: pieces, retries, bounds, errors (section 3)."""

import pytest
from mirror_rig import FIRST, READ, Rig, fill, p, schedules, show

from svm_actors.engine.errors import EBUSY
from svm_actors.mirror.mirror import RANGE_TIMEOUT_NS
from svm_actors.mirror.page_table import Tag
from svm_actors.mm.messages import HmmRangeFault, HmmRangeFaultUnlocked


def log_walks(rig, kind=HmmRangeFault):
    """Record (start, end) of each walk from now on, relative to p0."""
    walks = []
    verb, handler = rig.core.handlers[kind]

    async def logging(message):
        walks.append((message.range.start - FIRST, message.range.end - FIRST))
        return await handler(message)

    rig.core.handlers[kind] = (verb, logging)
    return walks


@pytest.mark.parametrize("unlocked", [False, True])
def test_walks_are_pieces_of_32_pages_from_the_first_missing_page(unlocked):
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 80)
        await mirror.read(p(3), 2)
        walks = log_walks(rig, HmmRangeFaultUnlocked if unlocked else HmmRangeFault)
        read = mirror.read_unlocked if unlocked else mirror.read
        assert await show(read(p(3), 70)) == "0/70/1"
        assert walks == [(5, 37), (37, 69), (69, 73)]

    Rig().run(body)


def test_tags_follow_the_cpu_entry_and_not_the_request():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 3)
        await rig.write(0, 1)
        await rig.read(1)
        await rig.write(2, 1)
        await rig.protect(2, 1, READ)
        await mirror.read(p(0), 3)
        assert [mirror.pt.load(FIRST + page).tag for page in range(3)] == [
            Tag.WRITABLE,
            Tag.READ_ONLY,
            Tag.READ_ONLY,
        ]

    Rig().run(body)


def test_a_write_to_an_own_page_that_fork_made_read_only_has_no_way_out():
    """core_mm 8.3: hmm reports the entry as it is, so the fault cannot succeed (MM-R17)."""

    async def body(rig):
        mirror = await rig.mirror(own_pages="backing")
        await rig.map(0, 1)
        await rig.write(0, 1)
        await mirror.migrate_to_dev(p(0), 1)
        child = await rig.fork()
        await child.mmput()
        assert await show(mirror.read(p(0), 1)) == "0/1/1"
        assert await show(mirror.write(p(0), fill(2))) == "-EFAULT"
        assert rig.engine.counters["MM-R17"] == 1
        await mirror.migrate_to_sys(p(0), 1)
        assert await show(mirror.write(p(0), fill(2))) == "0/1/1"

    Rig().run(body)


def test_a_piece_gives_up_after_a_second_and_looks_at_the_clock_between_rounds_only():
    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 1)
        rounds = []

        async def always_busy(message):
            rounds.append(rig.engine.now)
            await rig.engine.sleep(RANGE_TIMEOUT_NS * 6 // 10)
            raise EBUSY

        rig.core.handlers[HmmRangeFault] = ("busy", always_busy)
        assert await show(mirror.read(p(0), 1)) == "-EBUSY"
        assert len(rounds) == 2
        assert await show(mirror.snapshot(p(0), 1)) == "-EBUSY"
        assert len(rounds) == 4
        assert rig.mm.users == 1
        assert not mirror.mutex.holders()

    Rig().run(body)


def test_the_deadline_belongs_to_the_piece():
    """Sixty pieces of 0.9 s each are no reason to give up."""

    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 64)
        _, handler = rig.core.handlers[HmmRangeFault]

        async def slow(message):
            await rig.engine.sleep(RANGE_TIMEOUT_NS * 9 // 10)
            return await handler(message)

        rig.core.handlers[HmmRangeFault] = ("slow", slow)
        assert await show(mirror.read(p(0), 64)) == "0/64/1"

    Rig().run(body)


def test_a_walk_that_went_stale_is_thrown_away():
    """MM-R03: in no schedule does the device keep a page that a racing system call took away."""
    stale = 0
    for chooser in schedules(150, "stale"):

        async def body(rig):
            mirror = await rig.mirror()
            await rig.map(0, 4)
            await rig.touch(0, 1, 2, 3, 4)
            async with rig.engine.nursery() as nursery:
                nursery.start_soon(show, mirror.read(p(0), 4))
                nursery.start_soon(rig.dontneed, 0, 4)
            for page in range(4):
                entry = mirror.pt.load(FIRST + page)
                mapped = rig.mm.page_table.get(FIRST + page)
                assert entry is None or (mapped is not None and entry.folio is mapped.folio)

        rig = Rig(chooser).run(body)
        stale += rig.engine.counters["MM-R03"] + rig.engine.counters["mirror.hmm_busy"]
    assert stale


def test_a_dead_address_space_is_an_error_in_both_flavours():
    """Before 7.3 this was counted as a successful fault, for ever (HM-D13)."""

    async def body(rig):
        mirror = await rig.mirror()
        await rig.map(0, 1)
        await rig.mm.mmput()
        assert [await show(mirror.read(p(0), 1)), await show(mirror.read_unlocked(p(0), 1))] == ["-EFAULT"] * 2
        assert await show(mirror.write(p(0), fill(1))) == "-EFAULT"
        assert rig.engine.counters["MM-R23"] == 3

    Rig().run(body)
