"""System calls against a byte map: every result, every error, every value, for any program."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mm_rig import Rig

from svm_actors.engine.errors import KernelError
from svm_actors.mm.messages import Signal

PAGES = 16
page = st.integers(0, PAGES - 1)
span = st.tuples(page, st.integers(1, 6)).map(lambda s: (s[0], min(s[1], PAGES - s[0])))
operation = st.one_of(
    st.tuples(st.just("mmap"), span, st.sampled_from(["rw", "r", "none"])),
    st.tuples(st.just("munmap"), span),
    st.tuples(st.just("mprotect"), span, st.sampled_from(["rw", "r", "none"])),
    st.tuples(st.just("mremap"), span, page),
    st.tuples(st.just("dontneed"), span),
    st.tuples(st.just("free"), span),
    st.tuples(st.just("swap"), span),
    st.tuples(st.just("write"), page, st.integers(1, 255)),
    st.tuples(st.just("read"), page),
    st.tuples(st.just("fork"), page, st.integers(1, 255)),
)


class ByteMap:
    """What a process sees: protection and first byte of each page."""

    def __init__(self) -> None:
        self.prot: dict[int, str] = dict.fromkeys(range(PAGES), "rw")
        self.value: dict[int, int] = {}

    def run(self, op: tuple) -> object:
        return getattr(self, op[0])(*op[1:])

    def mmap(self, at, prot):
        for p in range(at[0], sum(at)):
            self.prot[p] = prot
            self.value.pop(p, None)

    def munmap(self, at):
        for p in range(at[0], sum(at)):
            self.prot.pop(p, None)
            self.value.pop(p, None)

    def mprotect(self, at, prot):
        for p in range(at[0], sum(at)):
            if p not in self.prot:
                return "ENOMEM"
            self.prot[p] = prot
        return None

    def mremap(self, at, to):
        start, n = at
        if to + n > PAGES or (start < to + n and to < start + n):
            return "EINVAL"
        if start not in self.prot:
            return "EFAULT"
        moved = {p: (self.prot[p], self.value.get(p)) for p in range(start, start + n) if p in self.prot}
        # the target of each piece is cleared on its own, so what faces a hole in the source stays
        for p in moved:
            self.prot.pop(p, None)
            self.value.pop(p, None)
        for p, (prot, value) in moved.items():
            self.prot[p - start + to] = prot
            self.value.pop(p - start + to, None)
            if value is not None:
                self.value[p - start + to] = value
        return None

    def dontneed(self, at):
        for p in range(at[0], sum(at)):
            self.value.pop(p, None)
        return None if all(p in self.prot for p in range(at[0], sum(at))) else "ENOMEM"

    def free(self, at):
        return None if all(p in self.prot for p in range(at[0], sum(at))) else "ENOMEM"

    def swap(self, at):
        return None

    def write(self, p, value):
        if self.prot.get(p) != "rw":
            return "SIGSEGV"
        self.value[p] = value
        return None

    def read(self, p):
        if self.prot.get(p, "none") == "none":
            return "SIGSEGV"
        return self.value.get(p, 0)

    def fork(self, p, value):
        if self.prot.get(p, "none") == "none":
            return "SIGSEGV"
        seen = self.value.get(p, 0)
        return (seen, value) if self.prot[p] == "rw" else (seen, "SIGSEGV")


async def perform(rig: Rig, op: tuple) -> object:
    kind, *rest = op
    if kind == "mmap":
        return await rig.mmap(*rest[0], rest[1])
    if kind == "munmap":
        return await rig.munmap(*rest[0])
    if kind == "mprotect":
        return await rig.mprotect(*rest[0], rest[1])
    if kind == "mremap":
        start, n = rest[0]
        if rest[1] + n > PAGES:
            return "EINVAL"
        return await rig.mremap(start, n, rest[1])
    if kind in ("dontneed", "free"):
        return await rig.madvise(*rest[0], kind)
    if kind == "swap":
        await rig.swap_out(*rest[0])
        return None
    if kind == "write":
        return await rig.write(*rest)
    if kind == "read":
        return await rig.read(*rest)
    return await fork_and_look(rig, *rest)


async def fork_and_look(rig: Rig, p: int, value: int) -> object:
    child = await rig.fork(rig.core.new_name("c"))
    try:
        seen = await rig.read(p, child)
        try:
            await rig.write(p, value, child)
            return seen, await rig.read(p, child)
        except Signal as signal:
            return seen, signal.code
    finally:
        await child.mmput()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(operation, max_size=25))
def test_a_process_sees_what_the_byte_map_says(ops):
    async def body(rig: Rig) -> None:
        model = ByteMap()
        for op in ops:
            expected = model.run(op)
            try:
                got = await perform(rig, op)
            except KernelError as error:
                got = error.code
            assert got == expected, f"{op}: model {expected}, core MM {got}"
        for p in range(PAGES):
            if model.prot.get(p, "none") != "none":
                assert await rig.read(p) == model.value.get(p, 0)

    Rig().run(body)
