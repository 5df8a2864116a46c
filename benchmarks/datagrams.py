"""The same readings as native datagrams and as line protocol, made in bulk.

A line is ``meter,meter=ID energy_import=WHi,power_import=Wi NS``. Where everybody gets the same
octets over UDP all lines are of one length, so that they are prepared and sent as rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from telemetry.formats.native import RECORD, encode_same_shape
from telemetry.readings import Bytes, Int64s
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT

MEASUREMENT = "meter"
_ID = len("bench-0000000")
_NS = 1_000_000  # in a millisecond
_NS_DIGITS = 19
_LOWEST_WH, _LOWEST_W = 10_000_000, 1_000  # so that lines of a load are of one length


@dataclass(frozen=True, slots=True)
class Chunk:
    """A datagram of each of some meters, with k readings of energy (Wh) and power (W).

    ``first`` is the first meter's number, ``number`` which of each meter's datagrams this is;
    ``time_ms`` has shape (k,), ``energy`` and ``power`` have (k, meters).
    """

    first: int
    number: int
    time_ms: Int64s
    energy: Int64s
    power: Int64s

    @property
    def readings(self) -> int:
        """Of energy and power each."""
        return self.energy.size


def name(meter: int) -> str:
    """A meter's id."""
    return f"bench-{meter:07d}"


def names(count: int, first: int = 0) -> npt.NDArray[np.bytes_]:
    """The ids of meters, 16 octets each."""
    return np.char.mod("bench-%07d", np.arange(first, first + count)).astype("S16")


def made(
    meters: int,
    rounds: int,
    start_ms: int,
    step_ms: int,
    *,
    each: int = 1,
    first: int = 0,
    number: int = 0,
) -> Iterator[Chunk]:
    """``rounds`` datagrams of each meter with ``each`` readings, the same for the same arguments.

    ``number`` is that of each meter's first datagram, ``first`` the first meter's.
    Steady consumption, so that nobody has anything to correct, and lines are of one length.
    """
    rng = np.random.default_rng(1)
    energy = rng.integers(_LOWEST_WH, 2 * _LOWEST_WH, meters)
    for done in range(rounds):
        power = rng.integers(_LOWEST_W, 5 * _LOWEST_W, (each, meters))
        registers = energy + (power * step_ms // 3_600_000).cumsum(axis=0)
        energy = registers[-1]
        time_ms = start_ms + (done * each + np.arange(each)) * step_ms
        yield Chunk(first, number + done, time_ms, registers, power)


def native_rows(chunk: Chunk) -> Bytes:
    """Native datagrams, shape (meters, length)."""
    each, meters = chunk.energy.shape
    keys = names(meters, chunk.first).view(np.uint64).reshape(meters, 2)
    records = np.zeros((meters, each, 2), RECORD)
    records["register"] = ENERGY_IMPORT, POWER_IMPORT
    records["offset"] = (chunk.time_ms - chunk.time_ms[0])[None, :, None]
    records["value"] = np.stack([chunk.energy.T, chunk.power.T * 10], axis=2)
    return encode_same_shape(
        keys[:, 0],
        keys[:, 1],
        np.ones(meters, np.uint32),
        np.full(meters, chunk.number, np.uint32),
        np.full(meters, chunk.time_ms[0], np.int64),
        records.reshape(meters, 2 * each),
    )


def line_rows(chunk: Chunk) -> Bytes:
    """Datagrams of lines, shape (meters, length); raises ValueError where lengths differ."""
    text, there = _lines(chunk)
    if not there.all():
        raise ValueError("lines of different lengths are no rows")
    return text.reshape(chunk.energy.shape[1], -1)


def line_text(chunk: Chunk) -> bytes:
    """All lines of a chunk."""
    text, there = _lines(chunk)
    return text[there].tobytes()


def _lines(chunk: Chunk) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Octets of all lines, meter by meter, and which of them count: no leading zeros."""
    each, meters = chunk.energy.shape
    ids = names(meters, chunk.first).view(np.uint8).reshape(meters, 16)[:, :_ID]
    energy, power = chunk.energy.T.ravel(), chunk.power.T.ravel()
    columns = [
        _fixed(f"{MEASUREMENT},meter=", meters * each),
        np.repeat(ids, each, axis=0),
        _fixed(" energy_import=", meters * each),
        _digits(energy, len(str(energy.max()))),
        _fixed("i,power_import=", meters * each),
        _digits(power, len(str(power.max()))),
        _fixed("i ", meters * each),
        np.tile(_digits(chunk.time_ms * _NS, _NS_DIGITS), (meters, 1)),
        _fixed("\n", meters * each),
    ]
    text = np.concatenate(columns, axis=1)
    there = np.ones(text.shape, np.bool_)
    at = 0
    for column, values in zip(columns, (None, None, None, energy, None, power), strict=False):
        width = column.shape[1]
        if values is not None:
            for place in range(width - 1):
                there[:, at + place] = values >= 10 ** (width - 1 - place)
        at += width
    return text, there


def _fixed(text: str, count: int) -> Bytes:
    return np.tile(np.frombuffer(text.encode(), np.uint8), (count, 1))


def _digits(values: Int64s, width: int) -> Bytes:
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    return (values[:, None] // powers % 10 + ord("0")).astype(np.uint8)
