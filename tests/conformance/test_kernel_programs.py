"""Recorded sequential programs of a real kernel: every result and every notifier event, operation by operation."""

import attrs
import msgspec
import pytest
from ground_truth import recording

from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.formats import Line
from svm_actors.workload.kernel_programs import (
    OPERATIONS,
    KernelProgram,
    NotifierEvent,
    Operation,
    dump_program,
    parse_programs,
    read_programs,
)
from svm_actors.workload.kernel_run import Conformance, KernelRun, conform, run_kernel_program

WORKED_EXAMPLES = """
{"program":1,"pages":16,"devices":2,"profile":0}
{"op":"mmap","page":2,"n":6,"prot":"rw","share":"private","errno":0,"events":[]}
{"op":"cpu_write","page":3,"signal":0,"value":7,"events":[]}
{"op":"to_dev","dev":0,"page":2,"n":3,"errno":0,"cpages":3,"faults":0,"data":[0,7,0],\
"events":[{"event":"MIGRATE","page":2,"n":3,"owner":"self"},{"event":"MIGRATE","page":2,"n":3,"owner":"self"}]}
{"op":"snapshot","dev":0,"page":1,"n":5,"errno":0,"cpages":5,"faults":0,"perm":[255,34,34,34,0],"events":[]}
{"op":"dev_write","dev":1,"page":3,"n":2,"value":255,"errno":0,"cpages":2,"faults":1,\
"events":[{"event":"MIGRATE","page":3,"n":1,"owner":"self"},{"event":"MIGRATE","page":4,"n":1,"owner":"self"}]}
{"op":"cpu_read","page":4,"signal":0,"value":0,"events":[]}
{"op":"child_write","page":3,"value":9,"child":9,"events":[{"event":"PROTECTION_PAGE","page":2,"n":6}]}
{"op":"child_read","page":0,"child":255,"events":[{"event":"PROTECTION_PAGE","page":2,"n":6}]}
{"op":"cpu_read","page":3,"signal":0,"value":255,"events":[]}
{"op":"exclusive","dev":0,"page":3,"n":1,"errno":0,"events":[{"event":"EXCLUSIVE","page":3,"n":1,"owner":"none"}]}
{"op":"cpu_write","page":3,"signal":0,"value":1,"events":[{"event":"CLEAR","page":3,"n":1}]}
{"op":"mprotect","page":4,"n":2,"prot":"r","errno":0,"events":[{"event":"PROTECTION_VMA","page":4,"n":2}]}
{"op":"dev_write","dev":0,"page":3,"n":2,"value":1,"errno":1,"events":[]}
{"op":"mremap","page":2,"n":1,"to":9,"errno":0,"events":[{"event":"UNMAP","page":2,"n":1},{"event":"UNMAP","page":2,"n":1}]}
{"op":"to_sys","dev":0,"page":9,"n":1,"errno":0,"cpages":1,"faults":0,\
"events":[{"event":"MIGRATE","page":9,"n":1,"owner":"self"}]}
{"op":"madvise_dontneed","page":3,"n":1,"errno":0,"events":[{"event":"CLEAR","page":3,"n":1}]}
{"op":"dev_read","dev":1,"page":3,"n":1,"errno":0,"cpages":1,"faults":1,"data":[0],"events":[]}
{"op":"munmap","page":0,"n":16,"errno":0,"events":[{"event":"UNMAP","page":0,"n":16}]}
{"op":"cpu_write","page":3,"signal":11,"value":3,"events":[]}
{"op":"cpu_read","page":3,"signal":11,"events":[]}
{"op":"dev_read","dev":0,"page":3,"n":1,"errno":14,"events":[]}
{"end":1}
"""


def programs(text):
    """The programs of a text."""
    lines = [Line("worked", number, line) for number, line in enumerate(text.strip().splitlines(), 1)]
    return list(parse_programs("worked", lines))


def test_a_program_worked_out_by_hand():
    """Device pages over a hole, a foreign fault, fork, exclusive access, protection, move, zap, unmap."""
    (program,) = programs(WORKED_EXAMPLES)
    run = KernelRun(program)
    assert [str(mismatch) for mismatch in run.run()] == []
    assert not any(run.left.values())
    assert {type(operation.arguments) for operation in program.operations} == {*OPERATIONS}


def test_every_result_field_is_compared():
    """Change each recorded value in turn: exactly that one is reported."""
    (program,) = programs(WORKED_EXAMPLES)
    changes = [
        (index, field, wrong)
        for index, operation in enumerate(program.operations)
        for field, value in operation.results.items()
        for wrong in [changed(value)]
    ]
    assert len(changes) > 50
    for index, field, wrong in changes:
        operation = program.operations[index]
        altered = attrs.evolve(operation, results={**operation.results, field: wrong})
        doctored = attrs.evolve(
            program, operations=(*program.operations[:index], altered, *program.operations[index + 1 :])
        )
        (found,) = run_kernel_program(doctored)
        assert (found.index, found.op, found.difference.field) == (index, operation.op, field)
        assert (found.difference.recorded, found.difference.produced) == (wrong, operation.results[field])


def changed(value):
    """Another value of the same type."""
    if isinstance(value, int):
        return value ^ 1
    return value[:-1] if value else (NotifierEvent("SOFT_DIRTY", 0, 1),)


def test_a_mismatch_names_program_operation_line_and_both_values():
    (program,) = programs(
        '{"program":5,"pages":4,"devices":1,"profile":0}\n'
        '{"op":"cpu_read","page":0,"signal":0,"value":3,"events":[]}\n'
        '{"end":5}'
    )
    signal, value = run_kernel_program(program)
    assert str(signal) == "program 5 operation 0 (line 2) cpu_read: signal is 11, recorded 0"
    assert str(value) == "program 5 operation 0 (line 2) cpu_read: value is None, recorded 3"


def test_totals_tell_results_from_events():
    (good,) = programs(WORKED_EXAMPLES)
    read = good.operations[5]
    wrong_event = Operation(read.arguments, {**read.results, "events": (NotifierEvent("CLEAR", 4, 1),)}, 1)
    wrong_result = Operation(read.arguments, {**read.results, "value": 77}, 1)
    prefix = good.operations[:5]
    cases = [good, *(KernelProgram(2, 16, 2, 0, (*prefix, last), 1) for last in (wrong_event, wrong_result))]
    done = []
    total = conform(cases, done.append)
    assert (total.programs, total.agreeing, done) == (3, 2, [1, 2, 3])
    assert total.operations - total.events_equal == 1
    assert len(total.mismatches) == 2


def test_a_run_is_the_same_twice():
    (program,) = programs(WORKED_EXAMPLES)
    runs = [KernelRun(program), KernelRun(program)]
    for run in runs:
        run.run()
    assert runs[0].process.engine.trace() == runs[1].process.engine.trace()


@pytest.fixture(scope="module")
def recorded():
    return list(read_programs(recording("programs.jsonl.gz")))


def test_all_recorded_programs_agree_on_every_result(recorded):
    """errno, data, value, cpages, faults, perm, signal, child; and every event, in order, with its owner."""
    total = conform(recorded)
    assert [str(mismatch) for mismatch in total.mismatches[:5]] == []
    assert (total.agreeing, total.programs) == (len(recorded), len(recorded))
    assert total.events_equal == total.operations
    assert total == Conformance(len(recorded), len(recorded), total.operations, total.operations, [])


def test_no_recorded_program_leaves_anything_behind(recorded):
    for program in recorded[::10]:
        run = KernelRun(program)
        run.run()
        assert not any(run.left.values()), (program.number, run.left)


def test_the_run_never_sees_a_recorded_result(recorded):
    """A program stripped of its results produces the same answers."""
    program = recorded[7]
    bare = attrs.evolve(
        program,
        operations=tuple(attrs.evolve(operation, results={"events": ()}) for operation in program.operations),
    )
    produced = {}
    for mismatch in run_kernel_program(bare):
        produced.setdefault(mismatch.index, {})[mismatch.difference.field] = mismatch.difference.produced
    for index, operation in enumerate(program.operations):
        expected = {name: value for name, value in operation.results.items() if (name, value) != ("events", ())}
        assert produced.get(index, {}) == expected
    assert msgspec.json.decode(dump_program(program).splitlines()[0])["program"] == program.number


def test_every_operation_of_the_format_has_an_executor():
    process = KernelRun(KernelProgram(1, 1, 1, 0, (), 1)).process
    assert {*OPERATIONS} | {ops.MprotectR, ops.MprotectRw, ops.MremapAway} == {*process._handlers}
