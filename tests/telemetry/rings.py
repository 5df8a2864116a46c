"""Keys for tests: the ring of the golden vectors, and gates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from telemetry.admission import EVERYWHERE, LOOPBACK, Allowed, Gate
from telemetry.keys import NEVER, KeyRing
from telemetry.meter_id import halves

VECTORS = Path(__file__).parents[1] / "vectors"
# Meter, key id, until when (ms) and secret; None: it does not end, it is derived.
Key = tuple[bytes, int, int | None, bytes | None]


def ring_of(keys: Sequence[Key], master: bytes | None = None) -> KeyRing:
    octets = [halves(key[0]) for key in keys]
    return KeyRing(
        np.array([high for high, _ in octets], np.uint64),
        np.array([low for _, low in octets], np.uint64),
        np.array([key[1] for key in keys], np.uint8),
        np.array([NEVER if key[2] is None else key[2] for key in keys], np.int64),
        [key[3] for key in keys],
        master,
    )


_TOLD = json.loads((VECTORS / "keys.json").read_text(encoding="utf-8"))
MASTER = bytes.fromhex(_TOLD["master"])
KEYS: list[Key] = [
    (
        bytes.fromhex(key["octets"]),
        key["key_id"],
        key["until"],
        bytes.fromhex(key["secret"]) if key["secret"] else None,
    )
    for key in _TOLD["keys"]
]


def vector_gate() -> Gate:
    """The keys of the vectors; unsigned datagrams from this machine only."""
    return Gate(Allowed(LOOPBACK), ring_of(KEYS, MASTER))


def open_gate() -> Gate:
    """No keys; unsigned datagrams from anywhere."""
    return Gate(Allowed(EVERYWHERE), KeyRing.empty())
