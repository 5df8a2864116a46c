"""The order of rows by meter and register is that of a stable comparison."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.order import by_group, by_meter

METERS = st.one_of(st.integers(0, 3), st.integers(65_530, 65_545), st.integers(0, 2**32 - 1))
ROWS = st.lists(st.tuples(METERS, st.integers(0, 2**16 - 1)), max_size=60)


@given(ROWS)
def test_rows_stand_as_a_stable_comparison_puts_them(rows: list[tuple[int, int]]) -> None:
    meter = np.array([meter for meter, _ in rows], np.uint32)
    register = np.array([register for _, register in rows], np.uint16)
    places = range(len(rows))
    assert by_meter(meter, register).tolist() == sorted(places, key=lambda place: rows[place])
    assert by_meter(meter).tolist() == sorted(places, key=lambda place: rows[place][0])


@given(ROWS.filter(len), st.integers(0, 31))
def test_rows_of_a_group_stand_together(rows: list[tuple[int, int]], shift: int) -> None:
    meter = np.array([meter for meter, _ in rows], np.uint32)
    register = np.array([register for _, register in rows], np.uint16)

    def key(place: int) -> tuple[int, int, int]:
        number, code = rows[place]
        return number >> shift, code, number

    assert by_group(meter, register, shift).tolist() == sorted(range(len(rows)), key=key)
