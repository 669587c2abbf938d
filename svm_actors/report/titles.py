"""One line for an id: what a rule demands, what a race is about, what a planted bug leaves out.

Rules and invariants are those the oracles name.  Of a race the first line of the docstring of its guard is told: the
model's own words for what it does there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from svm_actors.bugs import BUGS
from svm_actors.explore.failure import PACKAGE
from svm_actors.explore.races import LAYERS, RACE

_TABLE: Final = """
INV-01       once the start of an invalidation has returned, the GPU translates nothing in its range
INV-02       a GPU mapping is published only while the sequence it was read under still holds
INV-03       where nothing is being invalidated, a GPU entry names the page that the CPU entry names
INV-04       the GPU may write a page only where the CPU may
INV-05       no page that a GPU still reaches is free or belongs to somebody else by now
INV-06       the reference count of a page is what its mappings and holders add up to
INV-07       the map count of a page is the number of entries that point to it
INV-08       a page with a migration entry is locked and referenced
INV-10       no page-table entry names a page that is free
INV-11       device-private entries name anonymous pages in private mappings only
INV-12       a device-private entry is writable only if nobody shares its page
INV-13       an exclusive anonymous page is mapped once; a writable anonymous entry is exclusive
INV-14       a read returns the last write that happened before it
INV-15       no write is lost in a migration: the copy is of what was there when the page was taken
INV-17       after fork a write of one process is not seen by the other
INV-18       the invalidation sequence only grows, and is odd exactly while something is invalidated
INV-19       every start of an invalidation has one end
INV-20       a subscription's sequence is odd and never ahead of that of its address space
INV-21       the subscription tree does not change while something is invalidated
INV-24       locks are taken in one order, and none is held where memory may have to be reclaimed
INV-32       a swap slot counts the entries that name it
INV-34       everything is given back at the end
INV-FEN-01   a fence signals once and for good; each callback runs exactly once
INV-FEN-02   fences of one context signal in the order of their numbers
INV-FEN-03   what leads to the signal of a fence does nothing that may wait for one
INV-FEN-04   a fence is added to a reservation only in a slot reserved since it was locked
INV-FEN-05   of contexts that want each other's locks the younger one backs off
INV-FEN-07   the scheduler's own invariants hold
INV-FEN-08   nothing runs on a job, entity or scheduler that is gone
INV-FEN-09   for everything that is waited for there is somebody in the kernel who brings it about
INV-FEN-10   at the end every published fence has signaled and every reference is given back
INV-FEN-11   a fence is forced to complete only when the hardware is off or reset
INV-FEN-12   no access starts before the fences it had to ask for have signaled
INV-VMB-01   nothing reaches a page through the GPU after it was taken away
INV-VMB-02   the mappings of a VM are disjoint and cover what was bound and not unbound
INV-VMB-03   every live entry belongs to a mapping
INV-VMB-05   the locks of a VM are taken in their order and in the right context
INV-VMB-06   the fence of a job is in every reservation the job relied on
INV-VMB-07   one object has one link to one VM, and all of them are given back
INV-VMB-08   a call that failed has changed nothing
INV-VMB-10   a mapping lives until its unbind and its TLB flush are through
INV-VMB-12   TLB flushes complete in order, each fence signals once
INV-VMB-13   no job reads an object that was evicted and not brought back
INV-VMB-14   a suspended queue is resumed, or it is dead
RULE-18      every invalidation ends with the pages unmapped for the device, after zap and TLB flush
RULE-22      a DMA window is linked and freed exactly as it was reserved
RULE-23      an address array is not read after it was freed
RULE-30      every GPU fault is acknowledged exactly once
RULE-40      each device page in use holds one reference on its allocation's data
RULE-41      an allocation is released exactly once, after its last page
RULE-45      every DMA mapping is unmapped once, and before its page is used for something else
RULE-46      whatever the interleaving, a page holds the last write ordered before
RULE-48      an eviction that reports success has moved every page
RULE-49      an active pagemap is on no shrinker list and is destroyed once
RULE-50      the pages of one allocation belong to one object of one device
deadlock     somebody can always go on
step-budget  the run comes to an end
coherence    a read returns a write that was not definitely overwritten
"""
RULES: Final = dict[str, str](row.split(None, 1) for row in _TABLE.strip().splitlines())
"""What the rules demand that the oracles name, by id."""
_ID: Final = re.compile(r"\s*\(?\b(?:(?:SVM|PGM|MM|VMB|FEN)-[RBS]\d+(?:,? )?)+\)?:?\s*")


def title(rule: str) -> str:
    """What an id means, in one line; empty for one that nobody explains."""
    if rule in RULES:
        return RULES[rule]
    if rule in BUGS:
        return BUGS[rule].title
    return _guards().get(rule, "")


@cache
def _guards() -> dict[str, str]:
    """By race, the first line of the docstring of its first guard."""
    found: dict[str, str] = {}
    for layer in LAYERS:
        for path in sorted((PACKAGE / layer).glob("*.py")):
            for text in _docstrings(ast.parse(path.read_bytes())):
                for race in sorted(set(RACE.findall(text))):
                    found.setdefault(race, _ID.sub(" ", text.splitlines()[0]).strip(" ."))
    return found


def _docstrings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
