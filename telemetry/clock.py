"""Which instant a reading gets: the device's, or the arrival's where the device's cannot be."""

from __future__ import annotations

# A device clock before this was never set (docs/wire-format.md, "Time"); milliseconds, UTC.
EARLIEST = 946_684_800_000  # 2000-01-01T00:00:00Z
FUTURE_WINDOW = 3_600_000  # an hour


def plausible(stated: int, arrival: int) -> bool:
    """Whether a device's clock can have said ``stated`` at ``arrival``; both in ms."""
    return EARLIEST <= stated <= arrival + FUTURE_WINDOW
