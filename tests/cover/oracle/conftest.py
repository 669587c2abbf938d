"""The machine of the core MM tests is the one the oracles watch here too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "mm"))
