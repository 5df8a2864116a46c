"""Spans of time in milliseconds; apart from the calendar, which works on columns of them."""

from __future__ import annotations

QUARTER_MS = 900_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
