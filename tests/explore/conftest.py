"""The machine of the core MM tests is searched here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "cover" / "mm"))
