"""Datagrams of every kind that a collector counts apart, prepared by the wave."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from telemetry.formats.native import HEADER, LONGEST, RECORD, encode_same_shape
from telemetry.readings import Bytes
from telemetry.registers import ENERGY_IMPORT
from telemetry.rejects import Reason

METERS = 2000
ROUNDS = 8  # of numbers of each meter in a wave
_REPEATED, _STALE, _WRONG = 2000, 200, 150  # datagrams a wave: of each kind, and of each wrong one
_BURST = 100  # datagrams that leave together
_STEP_MS = 1000
_STALE_AFTER = 64 // ROUNDS + 2  # waves after which a number is out of the window

UNIQUE, DUPLICATE, STALE, PLAIN = "unique", "duplicate", "stale", "unique, without numbers"


def _changed(**fields: int) -> Callable[[Bytes], Bytes]:
    """Makes right datagrams wrong in some fields of the header or of their one record."""

    def change(rows: Bytes) -> Bytes:
        for name, value in fields.items():
            dtype, offset = (HEADER, 0) if name in (HEADER.names or ()) else (RECORD, 40)
            column = np.ndarray((len(rows),), dtype, rows, offset=offset, strides=(rows.shape[1],))
            column[name] = value
        return rows

    return change


def _longer(rows: Bytes, octets: int) -> Bytes:
    return np.pad(rows, ((0, 0), (0, octets)))


def _text(text: str) -> Callable[[Bytes], Bytes]:
    row = np.frombuffer(text.encode(), np.uint8)
    return lambda rows: np.tile(row, (len(rows), 1))


# How right native datagrams become each kind of wrong one.
_WRONG_KINDS: dict[str, Callable[[Bytes], Bytes]] = {
    Reason.FOREIGN: _changed(magic=1),
    Reason.SHORT: lambda rows: rows[:, :50],
    Reason.OVERSIZED: lambda rows: _longer(rows, LONGEST),
    Reason.VERSION: _changed(version=9),
    Reason.FLAGS: _changed(flags=0x80),
    Reason.UNKNOWN_KEY: lambda rows: _longer(_changed(key_id=7)(rows), 16),  # and a tag
    Reason.COUNT: _changed(count=3),
    Reason.METER_ID: _changed(key_high=0x20),
    Reason.REGISTER: _changed(register=999),
    Reason.VALUE: _changed(value=1 << 62),
    Reason.MALFORMED: _text('{"meter":'),
    Reason.TYPE: _text('{"meter":5}'),
    Reason.TIME: _text('{"meter":"plain","time":"noon","registers":{"energy_import":1}}'),
    PLAIN: _text('{"meter":"plain","registers":{"energy_import":1}}'),
}


@dataclass
class Traffic:
    """Waves of datagrams, each in another order; what they are is counted as they are made."""

    start_ms: int
    seed: int
    kinds: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        names = np.char.mod("exact-%04d", np.arange(METERS)).astype("S16")
        self._keys = names.view(np.uint64).reshape(METERS, 2)
        self._before: deque[Bytes] = deque(maxlen=_STALE_AFTER)
        self._waves = 0

    def wave(self) -> list[Bytes]:
        """Bursts of rows, a datagram each, all of one length."""
        unique = self._unique()
        parts = {UNIQUE: unique}
        if self._before:
            parts[DUPLICATE] = self._some(self._before[-1], _REPEATED)
        if len(self._before) == _STALE_AFTER:
            parts[STALE] = self._some(self._before[0], _STALE)
        for kind, make in _WRONG_KINDS.items():
            parts[kind] = make(self._some(unique, _WRONG))
        self._before.append(unique)
        self._waves += 1
        self.kinds.update({kind: len(rows) for kind, rows in parts.items()})
        bursts = [
            rows[first : first + _BURST]
            for rows in parts.values()
            for first in range(0, len(rows), _BURST)
        ]
        return [bursts[place] for place in self._rng.permutation(len(bursts))]

    def _unique(self) -> Bytes:
        count = METERS * ROUNDS
        sequence = np.repeat(np.arange(ROUNDS, dtype=np.uint32), METERS)
        sequence += np.uint32(self._waves * ROUNDS)
        records = np.zeros((count, 1), RECORD)
        records["register"], records["value"] = ENERGY_IMPORT, sequence[:, None]
        return encode_same_shape(
            np.tile(self._keys[:, 0], ROUNDS),
            np.tile(self._keys[:, 1], ROUNDS),
            np.ones(count, np.uint32),
            sequence,
            self.start_ms + sequence.astype(np.int64) * _STEP_MS,
            records,
        )

    def _some(self, rows: Bytes, count: int) -> Bytes:
        return rows[self._rng.choice(len(rows), count, replace=False)]
