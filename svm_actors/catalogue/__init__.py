"""The catalogue: every race, rule, invariant, bug and suspicion the digests number, and what the model makes of it.

What an id is about is written in ``rows/``; where it is resolved, counted, broken and checked is read from the
sources, so the catalogue can say of the model only what is there.
"""

from __future__ import annotations

from svm_actors.catalogue.entry import Entry, catalogue
from svm_actors.catalogue.rows import Row, read_rows

__all__ = ["Entry", "Row", "catalogue", "read_rows"]
