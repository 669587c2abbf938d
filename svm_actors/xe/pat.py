"""PAT indices: which caching a GPU page-table entry asks for (gpusvm section 8, "PAT").

The hardware has no caches here, so an index is kept, checked and reported, and changes nothing else.  The table is
that of one generation of discrete parts: 32 entries, four of them reserved.
"""

from __future__ import annotations

from typing import Final

WRITE_BACK: Final = 2
"""Cached, written back."""
UNCACHED: Final = 3
"""Not cached."""
UNCACHED_COMPRESSED: Final = 12
"""Not cached, compressed in device memory."""
WRITE_THROUGH: Final = 15
"""Cached, written through: for scan-out."""
MAX_INDEX: Final = 31
"""The last entry of the table."""
DEFAULT: Final = WRITE_BACK
"""Of a CPU mirror nobody chose one for."""
RESERVED: Final = range(16, 20)
"""Entries of the table without a coherence mode."""


def is_valid(index: int) -> bool:
    """xe_pat_index_get_coh_mode: the entry is there and has a coherence mode."""
    return 0 <= index <= MAX_INDEX and index not in RESERVED
