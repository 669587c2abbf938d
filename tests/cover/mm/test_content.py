"""Page contents behave as 4096 bytes and share what they can."""

from hypothesis import given
from hypothesis import strategies as st

from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.content import FILLED, ZERO, Content

writes = st.lists(
    st.tuples(st.integers(0, PAGE_SIZE - 1), st.binary(min_size=1, max_size=16)).filter(
        lambda write: write[0] + len(write[1]) <= PAGE_SIZE
    )
    | st.integers(0, 255),
    max_size=12,
)


def apply(content: Content, ops: list) -> tuple[Content, bytearray]:
    model = bytearray(content.read(0, PAGE_SIZE))
    for op in ops:
        offset, data = (0, bytes([op]) * PAGE_SIZE) if isinstance(op, int) else op
        content = content.write(offset, data)
        model[offset : offset + len(data)] = data
    return content, model


@given(writes)
def test_a_page_reads_what_was_written(ops):
    content, model = apply(ZERO, ops)
    assert content.read(0, PAGE_SIZE) == bytes(model)
    assert all(content.byte(offset) == model[offset] for offset in range(0, PAGE_SIZE, 97))


@given(writes, writes)
def test_equality_is_equality_of_bytes(first, second):
    one, model_one = apply(ZERO, first)
    two, model_two = apply(FILLED[7], second)
    assert (one == two) == (model_one == model_two)


@given(writes)
def test_writing_never_changes_the_page_written_from(ops):
    before = ZERO.write(5, b"abc")
    apply(before, ops)
    assert before.read(0, 9) == b"\0\0\0\0\0abc\0"


def test_a_whole_page_fill_is_shared_and_forgets_the_patch():
    page = ZERO.write(9, b"x").write(0, bytes([3]) * PAGE_SIZE)
    assert page is FILLED[3]
    assert page != object()
    assert "3" in repr(page)
