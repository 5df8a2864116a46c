"""Which instant a reading gets: the device's, or the arrival's where the device's cannot be."""

from __future__ import annotations

# A device clock before this was never set (docs/wire-format.md, "Time"); milliseconds, UTC.
EARLIEST = 946_684_800_000  # 2000-01-01T00:00:00Z
FUTURE_WINDOW = 3_600_000  # an hour


def trusted_base(base: int, arrival: int) -> int:
    """``base`` if a device's clock can have said it at ``arrival``, else ``arrival``; ms."""
    return base if EARLIEST <= base <= arrival + FUTURE_WINDOW else arrival
