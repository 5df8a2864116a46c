"""How many examples Hypothesis draws."""

from __future__ import annotations

import os

_LONG = bool(os.environ.get("WATTBUS_LONG"))
_FEWEST = 25


def examples(many: int) -> int:
    """A third of many, since each run draws others; all of them with WATTBUS_LONG=1."""
    return many if _LONG else max(many // 3, _FEWEST)
