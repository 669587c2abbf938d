"""Suspicions of core_mm section 16.2: rows that the digest calls latent at 7.3.4."""

from __future__ import annotations

from typing import Final

from benchmarks._suspected_pgm import NO_BLOCKS
from benchmarks._suspicion import Suspicion

MM: Final = (
    Suspicion(
        "MM-B13",
        "the status of a copy is not looked at (the row of PGM-S05)",
        "the row is of another driver, where it was found and mended; PGM-S05 suspects the same of this one.",
        "mended: a migration looks at its copies.  Planted, it does not.",
        bug="MM-B13",
    ),
    Suspicion(
        "MM-B32",
        "a plain notifier that refuses leaves the interval tree's side of a start open",
        "when a notifier on the plain list refuses a start that must not block, after the interval tree's part has "
        "begun, nobody may end the latter: its sequence stays odd and later readers wait for ever.",
        "mended: both sides are ended.  Planted, one is not.",
        bug="MM-B32",
    ),
    Suspicion(
        "MM-B33",
        "the collection of large pages in pieces sleeps for a lock while it holds others",
        "collecting a large folio that is mapped in pieces takes its lock without trying, with locks of other folios "
        "held: two migrations of one range may wait for each other.",
        "the same on single pages, where the kernel only tries; planted as MM-R09.  Large folios are not modelled.",
        bug="MM-R09",
        noticed=("engine/deadlock", "engine/EngineError"),
    ),
    Suspicion(
        "MM-B34",
        "a fault on a device block spins when the page is locked",
        "as PGM-S09, from the core's side.",
        "faults on single pages, which sleep.",
        reason=f"{NO_BLOCKS}  There are no CPUs to keep busy.",
    ),
    Suspicion(
        "MM-B35",
        "a walk does not ask for write permission of the own device page",
        "the walk answers a device page of the own owner as it is, without the write bit although write was asked for, "
        "and never upgrades it; who asks has to look.",
        "as in 7.3.4.  What comes of it where nobody looks is SVM-S02.",
        same="SVM-S02",
    ),
    Suspicion(
        "MM-B36",
        "a device map between commit and finalize is not protected against DONTNEED",
        "a driver that maps a page for its device after migrate_vma_pages and before finalize, without a look at the "
        "sequence, may map a page that DONTNEED has taken away meanwhile.",
        "the mended mirror driver looks; planted, it does not.  GPU SVM maps later, by way of get_pages.",
        bug="MM-B36",
    ),
    Suspicion(
        "MM-B37",
        "pages in RAM that the device wrote are not marked dirty",
        "neither GPU SVM nor the test driver marks RAM pages dirty that their device writes, so reclaim may drop a "
        "clean page with its new content.",
        "mended; planted, GPU SVM does not mark them.",
        bug="MM-B37",
    ),
    Suspicion(
        "MM-B38",
        "an eviction steps by the size of a page that it does not own",
        "an eviction by page number uses the order of a folio even when it could not be taken, or when the number is "
        "that of a tail, and may step too far.",
        "evictions of single pages.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "MM-B39",
        "a walk reports the head of a block for an address inside it",
        "on an own device block the walk may leave out the offset of a start in its middle.",
        "walks over single pages.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "MM-B40",
        "a split page still counts as locked by the fault",
        "collecting remembers the folio of the fault; after its split the old head may count as locked though it is "
        "not, and be unlocked under somebody else.",
        "faults on single pages, whose lock the fault holds throughout.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "MM-B41",
        "the page of a fault is referenced again after a split, outside the lock",
        "the new folio of the fault may be freed by DONTNEED before it is referenced and locked.",
        "faults on single pages.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "MM-B42",
        "a fault on a part of a block never gets on",
        "when the range or the selector of a migration covers less than a block, the references of collection and of "
        "the fault may keep the split from ever happening.",
        "faults on single pages.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "MM-B43",
        "a fault on a block with small targets has all of its work for nothing",
        "the split of an unmapped block is refused because of the fault's reference; targets are freed, and the block "
        "comes back in pieces.",
        "faults on single pages.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "MM-B44",
        "a huge hole with few targets dereferences nothing",
        "a hole collected as one block with small targets that are not all there may be taken for pages.",
        "holes of single pages.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "MM-B45",
        "an unlocked walk starts again with the answers of its last round as requests",
        "the array of a walk is input and output; where flags of entries are kept as requests, what a first round "
        "answered may be taken for what is asked in the second.",
        "the drivers of the model ask for all pages alike, as GPU SVM does, so an answer is never taken for a request. "
        "Planted, the mirror driver asks page by page.",
        bug="MM-B45",
    ),
    Suspicion(
        "MM-B46",
        "the time limit of an unlocked walk begins anew whenever mmap_lock is lost",
        "each round in which a fault dropped mmap_lock may set the deadline anew, so a limit of one second is none.",
        "the limit itself.",
        reason="No fault of the model gives mmap_lock up, so no round is lost.",
    ),
    Suspicion(
        "MM-B47",
        "a migration that ran out of memory is finalized with targets that were never committed",
        "finalize without the step before it, with targets in place, may leave migration entries behind and free the "
        "source.",
        "the mended mirror driver takes its targets back; planted, it does not.  GPU SVM always makes the step.",
        bug="MM-B47",
    ),
    Suspicion(
        "MM-B48",
        "the first check of references lets one too many pass",
        "the check after unmapping grants device pages a reference that they do not have any more, so a page with one "
        "foreign reference may be copied before the exact check refuses it.",
        "as in 7.3.4.  It costs a copy, and nothing else while the second check is there.",
        script="copied_for_nothing",
        noticed=("suspected",),
    ),
)
