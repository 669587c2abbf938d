"""VM_ACCOUNT decides merges: memory that was ever writable and touched is charged for good (core_mm section 1)."""

import pytest
from mm_rig import Rig


@pytest.mark.parametrize("touched", [False, True])
def test_a_read_only_mapping_does_not_merge_with_one_that_was_written(touched):
    """The charge is given back only while no page can exist, so the flags of touched memory differ."""

    async def body(rig):
        await rig.mmap(0, 4)
        if touched:
            await rig.write(0, 1)
        await rig.mprotect(0, 4, "r")
        await rig.mmap(4, 4, "r")
        assert rig.vmas() == ([(0, 4), (4, 4)] if touched else [(0, 8)])

    Rig().run(body, arena=None)


def test_shared_memory_is_never_charged_by_its_mapping():
    async def body(rig):
        await rig.mmap(0, 8, "rw", shared=True)
        await rig.write(0, 1)
        await rig.mprotect(0, 4, "r")
        assert rig.vmas() == [(0, 4), (4, 4)]
        await rig.mprotect(0, 4, "rw")
        assert rig.vmas() == [(0, 8)]

    Rig().run(body, arena=None)
