"""A Kamstrup meter's list of three phases, each 10 s: 13 registers, plain."""

from __future__ import annotations

import struct

_START = 1_795_428_900  # 2026-11-23T10:15:00Z
_CODES = (
    *((1, 7), (2, 7), (3, 7), (4, 7), (31, 7), (51, 7), (71, 7), (32, 7), (52, 7), (72, 7)),
    *((1, 8), (2, 8), (3, 8)),
)


def made(meter: int, turn: int) -> bytes:
    """What meter number ``meter`` pushes for the ``turn``-th time; its energies rise."""
    watts = 200 + (meter * 37 + turn * 11) % 4_000
    values = [watts, 0, watts // 9, 0, watts // 7, watts // 6, watts // 8, 229, 230, 231]
    values += [meter * 100 + turn, meter % 7, meter * 10 + turn // 3]
    elements = [_text("Kamstrup_V0001"), _code(1, 1, 0, 0, 5), _text(f"57065672{meter:08d}")]
    for (c, d), value in zip(_CODES, values, strict=True):
        elements += [_code(1, 1, c, d, 0), struct.pack(">BI", 0x06, value)]
    body = b"\x02" + bytes([len(elements)]) + b"".join(elements)
    apdu = struct.pack(">BI", 0x0F, turn & 0xFFFFFF) + b"\x0c" + _clock(turn) + body
    return struct.pack(">4H", 1, 1, 0x66, len(apdu)) + apdu


def _clock(turn: int) -> bytes:
    """The clock of the turn, UTC, as 12 octets; it begins anew each day."""
    of_day = (_START + 10 * turn) % 86_400
    hour, minute, second = of_day // 3600, of_day // 60 % 60, of_day % 60
    return struct.pack(">H7BhB", 2026, 11, 23, 1, hour, minute, second, 0xFF, 0, 0)


def _code(*groups: int) -> bytes:
    return b"\x09\x06" + bytes([*groups, 0xFF])


def _text(text: str) -> bytes:
    return b"\x0a" + bytes([len(text)]) + text.encode()
