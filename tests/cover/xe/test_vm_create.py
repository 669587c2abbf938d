"""VM_CREATE, VM_DESTROY and VM_BIND as user space makes them: flags, fields that must be zero, numbers."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from exec_bench import ADDR, PAGE, VPN, run

from svm_actors.engine.errors import EINVAL, ENOENT
from svm_actors.world import World
from svm_actors.xe.scratch import has_scratch
from svm_actors.xe.vm_bind import BindKind, BindOp
from svm_actors.xe.vm_create import KNOWN_FLAGS, VmBind, VmCreate, VmDestroy, VmFlag, check_create, flags_of

SCRATCH, LR, FAULT = VmFlag.SCRATCH_PAGE, VmFlag.LR_MODE, VmFlag.FAULT_MODE


def refused(args: VmCreate) -> bool:
    try:
        check_create(args)
    except EINVAL:
        return True
    return False


def test_which_flags_make_a_mode() -> None:
    good = [flags for flags in range(16) if not refused(VmCreate(flags))]
    assert good == [0, SCRATCH, LR, SCRATCH | LR, LR | FAULT]


def test_no_bit_outside_the_known_flags_is_taken() -> None:
    assert all(refused(VmCreate(1 << bit)) for bit in range(64) if not KNOWN_FLAGS >> bit & 1)


@pytest.mark.parametrize("args", [VmCreate(extensions=4096), VmCreate(reserved=(1, 0)), VmCreate(reserved=(0, 1))])
def test_fields_of_create_that_must_be_zero(args: VmCreate) -> None:
    assert refused(args)


def test_modes_by_name() -> None:
    assert [flags_of(mode) for mode in ("dma_fence", "lr", "fault")] == [0, LR, LR | FAULT]
    assert flags_of("lr", scratch=True) == SCRATCH | LR
    with pytest.raises(EINVAL):
        flags_of("fast")


async def errno(call: Awaitable[Any]) -> str:
    try:
        await call
    except (EINVAL, ENOENT) as error:
        return error.code
    return "ok"


def test_the_flags_say_what_is_made() -> None:
    async def scenario(world: World) -> None:
        client = world.gpu().open(world.process())
        made = [client.vms[await client.vm_create(VmCreate(flags))] for flags in (0, SCRATCH, LR, SCRATCH | LR)]
        assert [(vm.lr, has_scratch(vm.page_table)) for vm in made] == [
            (False, False), (False, True), (True, False), (True, True),
        ]  # fmt: skip
        assert client.vms[await client.vm_create(VmCreate(LR | FAULT))].mode == "fault"
        assert await errno(client.vm_create(VmCreate(FAULT))) == "EINVAL"
        assert len(world.gpu().driver.bind_vms) == 5

    run(scenario)


def test_numbers_are_the_clients_own_and_are_gone_once_given_back() -> None:
    async def scenario(world: World) -> None:
        mine, other = (world.gpu().open(world.process()) for _ in range(2))
        vm_id = await mine.vm_create(VmCreate())
        answers = [
            await errno(client.vm_destroy(VmDestroy(number, pad, reserved)))
            for client, number, pad, reserved in [
                (mine, 0, 0, (0, 0)), (mine, vm_id + 1, 0, (0, 0)), (other, vm_id, 0, (0, 0)),
                (mine, vm_id, 1, (0, 0)), (mine, vm_id, 0, (1, 0)), (mine, vm_id, 0, (0, 1)),
                (mine, vm_id, 0, (0, 0)), (mine, vm_id, 0, (0, 0)),
            ]
        ]  # fmt: skip
        assert answers == ["ENOENT"] * 3 + ["EINVAL"] * 3 + ["ok", "ENOENT"]
        assert await mine.vm_create(VmCreate()) != vm_id

    run(scenario)


def test_a_bind_by_number() -> None:
    async def scenario(world: World) -> None:
        client = world.gpu().open(world.process())
        vm_id = await client.vm_create(VmCreate())
        ops = [BindOp(BindKind.MAP, VPN, 1, flags=4)]
        bad = [
            VmBind(vm_id, ops, extensions=8), VmBind(vm_id, ops, pad=1), VmBind(vm_id, ops, pad2=1),
            VmBind(vm_id, ops, reserved=(0, 1)), VmBind(vm_id, [BindOp(BindKind.MAP, VPN, 1, flags=1 << 5)]),
        ]  # fmt: skip
        assert [await errno(client.vm_bind(args)) for args in bad] == ["EINVAL"] * 5
        assert await errno(client.vm_bind(VmBind(vm_id + 1, ops))) == "ENOENT"
        assert client.lookup(vm_id).vmas() == []
        assert await errno(client.vm_bind(VmBind(vm_id, ops))) == "ok"
        assert [(vma.addr, vma.end) for vma in client.lookup(vm_id).vmas()] == [(ADDR // PAGE, ADDR // PAGE + 1)]

    run(scenario)


def test_what_a_client_leaves_behind_goes_with_it() -> None:
    async def scenario(world: World) -> None:
        client = world.gpu().open(world.process())
        for _ in range(3):
            await client.vm_create(VmCreate())
        await client.close()
        assert (client.vms, world.gpu().driver.bind_vms) == ({}, {})

    run(scenario)
