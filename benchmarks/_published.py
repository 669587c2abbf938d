"""Published figures of concurrency-testing strategies, as facts (exploration digest, sections 2.4 and 4).

``LEAN`` holds, for the lean form of each program, steps and contested steps of the canonical run and failing
runs per 100 under six strategies, measured with 10,000 runs each.

``PAPER`` holds the results of SURW (ASPLOS 2025), recomputed from its raw data: median schedules to the first
failure over the successful ones of 20 trials of at most 10,000 schedules (SafeStack 1,000,000), with the number
of successful trials after a colon where it is not 20; ``-`` is none, ``n/r`` not run.
"""

from __future__ import annotations

from typing import Final

import attrs

LEAN_COLUMNS: Final = ("RW", "POS", "PCT3", "PCT10", "URW", "SURW")
PAPER_COLUMNS: Final = ("RW", "POS", "PCT-3", "PCT-10", "URW", "N-U", "SURW")

_LEAN: Final = """
twostage          14  5  1.58  8.23  8.31  8.66  2.24  4.43
reorder_3          7  4  5.09  9.93  8.17 10.95  8.47 16.26
reorder_4          9  6  3.81  8.28  4.81  7.82  6.93 12.04
reorder_5         11  8  3.35  6.29  3.14  5.67 11.82 15.57
reorder_10        21 18  1.38  2.98  0.81  2.25  2.82  4.88
stack            160 10 62.49 61.73 34.27 57.07 73.94 50.00
token_ring        24  3 16.28 16.79 16.61 16.43  7.43 17.03
lazy01            11  2 33.77 33.49 33.44 33.44 41.88 33.27
deadlock01        12  3 50.80 32.88 51.21 49.88 55.28 33.55
bluetooth         15  9  9.75 10.22  4.70 10.54  1.11  8.28
account           15  2 33.77 33.63 33.44 33.44 45.52 32.85
wronglock         34 12 41.48 42.12  8.06 20.36 29.93 28.12
wronglock_3       18  8 38.18 36.47 13.09 24.43 28.35 28.52
stringbuffer      16  8  6.24  7.94  0.40  2.72  7.99  1.57
IWSQ              62 12  0.40  1.92  4.17  8.85 18.77 23.50
IWSQWS            54 27 26.46 10.95  1.24  9.90 28.33 28.33
WSQ               62 12  0.30  2.04  4.93  9.47 19.66 25.83
bbuf             152 18  0.00  0.00  0.00  0.00  0.00  0.00
boundedBuffer    170 22 25.22 24.28  2.57 11.94 30.30 14.22
qsort             15  3 21.81 14.88  8.87 12.75 24.66 13.82
bug4              13  7 22.02 12.46  1.91 14.63 24.30 12.86
bug6              21  2 25.27 24.72 20.58 24.54 25.56 24.37
CVE-2013-1792      9  8  4.06  5.21  5.31  4.32  3.10  5.17
CVE-2016-1972     16 15 12.61 19.98 13.11 29.94  8.31 18.02
CVE-2016-1973      8  4 16.59 30.39 18.59 22.34 23.72 37.14
CVE-2016-7911      8  3 37.48 29.69 23.83 33.60 63.63 50.14
CVE-2016-9806     16  3  3.45 16.04 14.34 16.38 22.19 36.34
CVE-2017-15265    17  3  1.01 10.02 10.02 10.34 10.56 14.21
CVE-2017-6346     16  8 45.11 39.26 17.21 30.20 77.64 62.52
queue            129 20 99.98 99.98 13.62 50.15 100.0 49.23
circular_buffer   48  7 93.89 94.30 44.51 64.80 95.73 54.74
carter01          24  2 50.22 49.96 49.51 49.51 67.03 33.91
CVE-2009-3547      7  1 49.77 49.82 49.37 49.37 42.70 49.86
CVE-2011-2183     14  4 81.37 55.61 62.15 71.25 70.47 70.23
CVE-2015-7550      8  2 50.48 33.60 41.60 50.02 57.31 29.59
din_phil3         27  8 93.48 77.62 85.29 79.62 58.52 11.11
phil3             12  7 33.28 20.03  9.13 49.78 40.92 19.99
"""

_PAPER: Final = """
twostage         166     11.5    8       5       6.5    6.5    6
twostage_20      -       116     83      91      14.5   130    5
twostage_50      -       1384    1169    678     91.5   1208   16.5
twostage_100     -       5375:3  7092:3  6732:9  2596:18 8530:1 272
reorder_3        -       82.5    130     71.5    12.5   27.5   4.5
reorder_4        -       252     374     371     11     45.5   4
reorder_5        -       1582    606     544     16     116    6.5
reorder_10       -       -       3255:16 4134:12 64     4588:6 18.5
reorder_20       -       -       1990    2644:17 6      3471:8 4
reorder_50       -       -       3072:6  9422:1  52     -      11.5
reorder_100      -       -       -       -       3025:12 -     112
stack            156     1       2       2       533:19 5      4
token_ring       7.5     6       6.5     5       10     10.5   7
lazy01           15      4       5       4       3      5      2
deadlock01       2       2.5     8.5     6       2      3      2
bluetooth_driver 162     22      104     53      1373:19 53    53
account          12      3       4       4       2.5    4.5    4
wronglock        16      5       42      13.5    3.5    3      4
wronglock_3      16      5       47      12      4.5    4      7
stringbuffer-jdk1.4 1196:19 16   162     24.5    716    5      5
InterlockedWorkStealQueue - 12   47      8       24.5   25.5   5
InterlockedWorkStealQueueWithState 18 4 731 104  1280:4 5      4.5
StateWorkStealQueue n/r  5.5     624     116     6:3    11     4.5
WorkStealQueue   n/r     12.5    31      13.5    9      23     5
bbuf             n/r     n/r     n/r     n/r     n/r    -      -
boundedBuffer    5       4.5     16.5    5       5      6.5    5
qsort_mt         2215:19 1762:18 5409:14 2595:15 284    2244   2824:19
bug4             1293:19 192     239:19  669     324    32     13
bug6             28      15.5    33.5    14.5    3.5    4      3.5
SafeStack        -       -       -       -       -      n/r    204071:19
CVE-2013-1792    308     26      63      35      55.5   18     11
CVE-2016-1972    244     18.5    5794:16 1560:19 28.5   11.5   8
CVE-2016-1973    88.5    4.5     7.5     4.5     7.5    4      4
CVE-2016-7911    3       8.5     10.5    7       2.5    13.5   2.5
CVE-2016-9806    1537    6       5       3.5     4      5.5    2
CVE-2017-15265   -       -       -       -       -      -      -
CVE-2017-6346    2       7       18.5    13      2      7.5    13
queue            1       1       3       2       2      2      2
circular_buffer  3       1.5     8.5     3       11     3      3
carter01         1       1       5       3       n/r    n/r    n/r
CVE-2009-3547    4.5     2       3       2       3.5    3.5    3
CVE-2011-2183    1.5     1       4.5     2.5     2      3      3
CVE-2015-7550    1       3.5     7.5     3       2      2.5    3.5
"""


@attrs.frozen
class Lean:
    """What is known of the lean form of a program."""

    steps: int
    """Ops of the canonical run."""
    contested: int
    """Those of its steps at which there was a choice."""
    failing: dict[str, float]
    """Failing runs per 100, by column."""


def _lean() -> dict[str, Lean]:
    found = {}
    for line in _LEAN.split("\n")[1:-1]:
        name, steps, contested, *rates = line.split()
        found[name] = Lean(int(steps), int(contested), dict(zip(LEAN_COLUMNS, map(float, rates), strict=True)))
    return found


LEAN: Final = _lean()
PAPER: Final = {
    name: dict(zip(PAPER_COLUMNS, cells, strict=True))
    for name, *cells in (line.split() for line in _PAPER.split("\n")[1:-1])
}
