"""The journal in memory answers what was added, in the order of acceptance, whatever was merged."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import journal
from storage.tail import Tail
from storage.watermark import Watermark
from telemetry.readings import Readings
from tests.examples import examples

ROW = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 3])), min_size=1, max_size=6)


def batch(row: list[tuple[int, int]], first: int) -> journal.Batch:
    """A row of (meter, register), with values that tell each reading from all others."""
    count = len(row)
    zeros = np.zeros(count, np.uint64)
    readings = Readings(
        key_high=zeros,
        key_low=zeros,
        epoch=np.ones(count, np.uint32),
        register=np.array([register for _, register in row], np.uint16),
        status=np.zeros(count, np.uint16),
        time=np.full(count, 1000, np.int64),
        value=np.arange(first, first + count, dtype=np.int64),
    )
    return journal.sort(np.array([meter for meter, _ in row], np.uint32), readings)


@given(st.lists(ROW, max_size=90), st.integers(0, 90), st.integers(1, 4))
@settings(max_examples=examples(150), deadline=None)
def test_each_series_is_in_the_order_of_acceptance(
    rows: list[list[tuple[int, int]]], sealed: int, gone: int
) -> None:
    tail, value = Tail(), 0
    expected: list[tuple[int, int, int, int]] = []  # meter, register, row, value
    for number, row in enumerate(rows, 1):
        tail.add(number, batch(row, value))
        expected += [(*each, number, value + at) for at, each in enumerate(row)]
        value += len(row)
    sealed = min(sealed, len(rows))
    for step in range(3):
        if step == 1:
            tail.seal(Watermark(sealed=sealed))
            expected = [each for each in expected if each[2] > sealed]
        if step == 2:
            tail.forget(gone)
            expected = [each for each in expected if each[0] != gone]
        assert len(tail) == len(expected)
        for meter in range(1, 5):
            for register in (1, 3):
                found = tail.series(meter, register)
                own = [each[2:] for each in expected if each[:2] == (meter, register)]
                assert list(zip(found.late.tolist(), found.value.tolist(), strict=True)) == own
            by_register = [
                each[3] for register in (1, 3) for each in expected if each[:2] == (meter, register)
            ]
            found = tail.meter(meter)
            rows_of = np.argsort(found.register, kind="stable")
            assert found.value[rows_of].tolist() == by_register
    # After all that, it goes on.
    tail.add(len(rows) + 1, batch([(2, 1)], value))
    assert tail.series(2, 1).value[-1:].tolist() == [value]


def test_a_question_looks_into_few_runs() -> None:
    tail = Tail()
    for number in range(1, 1001):
        tail.add(number, batch([(1, 1)], number))
        assert len(tail._runs) <= 3 * 5
    assert tail.series(1, 1).value.tolist() == list(range(1, 1001))
