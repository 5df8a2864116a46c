"""From arrival to series: a commit's datagrams sorted give what sorting their readings gives."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage import arrival, journal
from storage.batch_body import Body
from storage.journal import Batch
from telemetry.datagrams import Envelopes
from telemetry.readings import spread


def body(meters: list[int], registers: list[list[int]], epochs: list[int]) -> Body:
    """A datagram a meter, with readings of these registers; each has a value of its own."""
    counts = np.array([len(own) for own in registers], np.uint16)
    total = int(counts.sum())
    half = np.array(meters, np.uint64)
    envelopes = Envelopes(
        half,
        half * np.uint64(3),
        np.array(epochs, np.uint32),
        np.arange(len(meters), dtype=np.uint32),
        counts,
        np.zeros(len(meters), np.uint8),
    )
    value = np.arange(total)
    register = np.array([code for own in registers for code in own], np.uint16)
    return Body(envelopes, register, (value % 3).astype(np.uint16), -value, value, None)


def check(meters: list[int], registers: list[list[int]], epochs: list[int]) -> None:
    own = body(meters, registers, epochs)
    number = np.array(meters, np.uint32)
    found = arrival.sort(number, own)
    wanted = journal.sort(spread(number, own.envelopes.count), own.readings)
    for column in fields(Batch):
        one, other = getattr(found, column.name), getattr(wanted, column.name)
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist(), column.name


few = st.integers(1, 4)


@given(st.data(), st.lists(few, min_size=1, max_size=6))
def test_datagrams_of_the_same_registers(data: st.DataObject, registers: list[int]) -> None:
    meters = data.draw(st.lists(few | st.sampled_from([70_000, 2**31]), min_size=1, max_size=12))
    epochs = data.draw(st.lists(few, min_size=len(meters), max_size=len(meters)))
    check(meters, [registers] * len(meters), epochs)


@given(st.data(), st.integers(1, 40))
def test_each_meter_once(data: st.DataObject, count: int) -> None:
    meters = data.draw(st.permutations(range(1, count + 1)))
    check(meters, [[3, 1]] * count, [7] * count)


@given(st.data(), st.lists(st.lists(few, max_size=4), max_size=8))
def test_datagrams_of_any_registers(data: st.DataObject, registers: list[list[int]]) -> None:
    meters = data.draw(st.lists(few, min_size=len(registers), max_size=len(registers)))
    check(meters, registers, meters)
