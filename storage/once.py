"""What is made once and kept by a name."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

MOST = 100_000

Made = TypeVar("Made")


def once(kept: dict[Hashable, Any], name: Hashable, make: Callable[[], Made]) -> Made:
    """What is kept under the name, made if it is not there; too much is forgotten, all at once."""
    if name not in kept:
        if len(kept) >= MOST:
            kept.clear()
        kept[name] = make()
    found: Made = kept[name]
    return found
