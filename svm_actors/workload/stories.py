"""Small programs about one race each: what a GPU does while the CPU changes the very pages it works on.

None of them changes the protection of a part of a range that the GPU maps as one: 7.3.4 retries such a fault without
end (SVM-S01), and so does the model.

They are ordinary concurrent programs (:mod:`svm_actors.workload.concurrent_programs`), written by hand: two to four
pages and as few actors as the race needs, so that a random schedule has a fair chance to hit the window, and a
failure is short to read.  The ids are those of the race tables.
"""

from __future__ import annotations

from typing import Final

import attrs

from svm_actors.workload.concurrent_programs import (
    Access,
    AtomicAdd,
    ChildAction,
    CloseVm,
    DriverWork,
    Evict,
    Fork,
    Load,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Munmap,
    ProcessProgram,
    RandomProgram,
    Read,
    Reclaim,
    Store,
    Stream,
    ThreadAction,
    Vm,
    Write,
)

PAGES: Final = 4
"""Size of the arena, unless a story needs more."""
BLOCK: Final = 16
"""Pages of a 64 KiB range; the GPU maps that much at once where the CPU has touched all of it."""

Threads = tuple[tuple[ThreadAction, ...], ...]
Streams = tuple[tuple[Access, ...], ...]


@attrs.frozen
class Story:
    """One program with the races it is about."""

    name: str
    summary: str
    """What happens, in one line."""
    races: tuple[str, ...]
    """Ids of the windows it can hit."""
    program: RandomProgram


def _story(
    name: str,
    summary: str,
    races: str,
    threads: Threads,
    streams: Streams,
    driver: tuple[DriverWork, ...] = (),
    vms: int = 1,
    pages: int = PAGES,
    written: int = 2,
) -> Story:
    """One process with the first pages written; stream ``i`` runs on VM ``i`` modulo the number of VMs."""
    writes = tuple(Write(page, 1 + page) for page in range(written))
    setup: tuple[ChildAction, ...] = (Mmap(0, pages, "rw", "private"), *writes)
    program = RandomProgram(
        pages,
        (ProcessProgram(setup, threads),),
        tuple(Vm(0, 0) for _ in range(vms)),
        tuple(Stream(number % vms, accesses) for number, accesses in enumerate(streams)),
        driver,
    )
    return Story(name, summary, tuple(races.split()), program)


_ALL: Final = (
    _story(
        "unmap",
        "the GPU faults while pages are unmapped, mapped anew and written",
        "SVM-R01 SVM-R02 SVM-R51 PGM-R22",
        ((Munmap(0, 2), Mmap(0, 2, "rw", "private"), Write(0, 10), Write(1, 11)),),
        ((Load(0), Store(1, 20), Load(0), Load(1)),),
    ),
    _story(
        "dontneed",
        "pages are dropped under the GPU and their memory is used for something else at once",
        "SVM-R01 SVM-R02 SVM-R51",
        ((Madvise(0, 2, "dontneed"), Write(2, 10), Write(3, 11)), (Read(0), Read(1))),
        ((Load(0), Store(0, 20), Load(0)), (Load(1), Load(1))),
    ),
    _story(
        "storm",
        "one page is written and dropped over and over while the GPU wants it",
        "SVM-R01 SVM-R02 SVM-R49",
        ((Write(0, 10), Madvise(0, 1, "dontneed")) * 4,),
        ((Load(0), Load(0), Store(0, 20), Load(0)), (Load(0), Load(0))),
    ),
    _story(
        "cpu-write",
        "the CPU writes pages that the GPU pulls to its memory",
        "SVM-R01 SVM-R02 MM-R04",
        ((Write(0, 10), Read(0)) * 3, (Write(1, 12), Read(1)) * 3),
        ((Load(0), Store(1, 20), Load(0), Load(1)),),
    ),
    _story(
        "fork",
        "fork shares pages while the GPU writes them; the child writes too",
        "SVM-R01 SVM-R38 MM-R07 MM-R19",
        ((Fork((Read(0), Write(1, 10), Read(1))), Read(0), Write(0, 11)),),
        ((Store(0, 20), Load(1), Store(1, 21), Load(0)),),
    ),
    _story(
        "mremap",
        "a mapping moves away and back over what was mapped there, with the GPU on both places",
        "SVM-R01 SVM-R02 SVM-R05",
        ((Mremap(0, 2, 2), Write(2, 10), Mremap(2, 2, 0)),),
        ((Load(0), Store(2, 20), Load(2)), (Store(1, 21), Load(3), Load(1))),
    ),
    _story(
        "eviction",
        "another client wants the device memory while GPU and CPU fault on what lies there",
        "SVM-R02 PGM-R03 PGM-R04 PGM-R15",
        ((Read(0), Write(1, 10), Read(1)),),
        ((Store(0, 20), Store(1, 21), Load(0)), (Load(1), Store(0, 22))),
        (Evict(0, 2), Evict(0, 2)),
    ),
    _story(
        "mremap-eviction",
        "a mapping in device memory moves while it is evicted, and others take the memory",
        "SVM-R01 SVM-R02 PGM-R04",
        ((Mremap(0, 2, 2),),),
        ((Store(0, 20), Store(1, 21), Store(4, 22), Store(5, 23), Load(2), Load(3)),),
        (Evict(0, 2), Evict(0, 4)),
        pages=6,
    ),
    _story(
        "fork-eviction",
        "device pages shared by fork are evicted while both sides use them",
        "SVM-R38 PGM-R03 PGM-R04 MM-R07",
        ((Fork((Read(0), Write(0, 10), Read(0))), Write(0, 11)),),
        ((Store(0, 20), Load(0), Store(1, 21)),),
        (Evict(0, 2), Evict(0, 2)),
    ),
    _story(
        "fork-mremap",
        "a child moves pages it shares with its parent while they are evicted",
        "SVM-R20 PGM-R04 MM-R04",
        ((Fork((Mremap(0, 2, 2), Read(2), Write(3, 10))), Read(0)),),
        ((Store(0, 20), Load(0), Store(1, 21)),),
        (Evict(0, 2), Evict(0, 2)),
    ),
    _story(
        "fork-swap",
        "pages are on the swap device when fork shares them, and both sides and the GPU want them back",
        "SVM-R01 PGM-R02 MM-R04",
        ((Reclaim(0, 2), Fork((Read(0), Write(1, 10), Read(1))), Read(0), Write(1, 11)),),
        ((Load(0), Store(1, 20), Load(0)),),
        (Evict(0, 2),),
    ),
    _story(
        "swap",
        "reclaim takes pages that look cold to the CPU while the GPU works on them",
        "SVM-R01 SVM-R02 SVM-R09",
        ((Reclaim(0, 2), Read(0), Reclaim(0, 2)), (Write(1, 10),)),
        ((Load(0), Store(1, 20), Load(1)),),
    ),
    _story(
        "mprotect",
        "write permission goes and comes back under a writing GPU",
        "SVM-R01 SVM-R38 SVM-R53",
        ((Mprotect(0, 2, "r"), Read(0), Mprotect(0, 2, "rw"), Write(0, 10)),),
        ((Store(0, 20), Store(1, 21), Load(0)),),
    ),
    _story(
        "wide",
        "one call changes the end of a 64 KiB range and the start of the next",
        "SVM-R51 SVM-R52 SVM-R54",
        ((Madvise(10, 12, "dontneed"), Write(12, 51)), (Munmap(15, 2), Write(14, 50))),
        ((Load(2), Load(BLOCK + 14), Load(2)), (Store(BLOCK + 15, 60), Load(BLOCK + 14))),
        pages=2 * BLOCK,
        written=2 * BLOCK,
    ),
    _story(
        "two-vms",
        "two GPU VMs mirror one process and want the same pages",
        "SVM-R02 SVM-R09 PGM-R02 PGM-R03",
        ((Write(0, 10), Madvise(1, 1, "dontneed"), Read(0)),),
        ((Store(0, 20), Load(1)), (Store(0, 21), Store(1, 22))),
        (Evict(0, 2),),
        vms=2,
    ),
    _story(
        "close",
        "the VM is closed while its faults are served and its pages are unmapped",
        "SVM-R22 SVM-R42 SVM-R47",
        ((Munmap(0, 2), Mmap(0, 2, "rw", "private"), Write(0, 10)),),
        ((Store(0, 20), Store(1, 21), Load(0)),),
        (CloseVm(0),),
    ),
    _story(
        "atomics",
        "GPU atomics insist on device memory while the CPU keeps reading",
        "SVM-R02 SVM-R49 MM-R04",
        ((Read(0), Write(0, 10)) * 3, (Read(0), Write(1, 11)) * 2),
        ((AtomicAdd(0, 5), AtomicAdd(0, 5)), (AtomicAdd(0, 5), Load(1))),
    ),
)

STORIES: Final[dict[str, Story]] = {story.name: story for story in _ALL}
"""By name, simplest first."""
