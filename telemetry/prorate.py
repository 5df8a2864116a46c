"""What is known of a longer time only, divided among the quarter hours of UTC."""

from __future__ import annotations

import numpy as np

from telemetry.calendar import QUARTER_MS
from telemetry.readings import Int64s


def prorate(total: Int64s, start: Int64s, end: Int64s, instants: Int64s) -> Int64s:
    """How much of a total that came evenly over [start, end) came before an instant inside.

    All of shape (n,), whole numbers, no total negative. The quarter hours of UTC (the first and
    the last may be cut short) share the total by time, rounded by largest remainder; within a
    quarter it is linear, rounded half up. So the parts of any partition add up to the total.
    """
    if int(total.max()) * 4 * QUARTER_MS >= 2**63:
        # The products are too large for 64 bits: on with Python's integers.
        total, start, end, instants = (x.astype(object) for x in (total, start, end, instants))
    quarter = instants - instants % QUARTER_MS
    parts = _whole_quarters(total, start, end, quarter)
    if (instants > quarter).any():
        left, right = np.maximum(quarter, start), np.minimum(quarter + QUARTER_MS, end)
        rise, width = _whole_quarters(total, start, end, right) - parts, right - left
        parts = parts + (2 * rise * (instants - left) + width) // (2 * width)
    return parts.astype(np.int64)


def _whole_quarters(total: Int64s, start: Int64s, end: Int64s, instants: Int64s) -> Int64s:
    """``prorate`` at edges of quarters of an hour, and beyond both ends."""
    # The quarters: one of `head` ms cut short, `full` whole ones, one of `tail` ms cut short.
    length, head, tail = end - start, -start % QUARTER_MS, end % QUARTER_MS
    full = np.maximum((length - head - tail) // QUARTER_MS, 0)
    head_part, head_rest = total * head // length, total * head % length
    tail_part, tail_rest = total * tail // length, total * tail % length
    full_part, full_rest = total * QUARTER_MS // length, total * QUARTER_MS % length
    # The units still to give go to the largest rests; of equal ones the earlier quarter is first.
    missing = total - head_part - tail_part - full * full_part
    head_extra = full * (full_rest > head_rest) + (tail_rest > head_rest) < missing
    tail_extra = full * (full_rest >= tail_rest) + (head_rest >= tail_rest) < missing
    passed, extra = (instants - start - head) // QUARTER_MS, missing - head_extra - tail_extra
    # Among whole quarters they are spread evenly, the first whole quarter's first.
    inside = passed * full_part - (-passed * extra // np.maximum(full, 1))
    inside += head_part + head_extra
    return np.where(instants <= start, 0, np.where(instants >= end, total, inside))
