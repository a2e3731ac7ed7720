"""Units of a third party: in a module that this process and its workers can import."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "toys"))
