"""From the order of arrival to the journal's: a commit's readings by series."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from storage import journal
from storage.batch_body import Body
from storage.journal import Batch
from storage.order import by_meter
from telemetry.readings import UInt16s, UInt32s, spread, spread_evenly

Rows = npt.NDArray[np.intp]


def sort(meter: UInt32s, body: Body) -> Batch:
    """The batch of a commit's readings; ``meter``, of shape (m,), is the number of each datagram.

    Datagrams mostly have the same registers in the same order. Then the datagrams are sorted, and
    where each of their readings goes follows: sorting the readings takes three times as long.
    """
    assert len(body) <= journal.MOST_READINGS
    each = body.each
    registers = body.register.reshape(-1, each) if each else body.register
    if not each or (registers != registers[0]).any():
        return journal.sort(spread(meter, body.envelopes.count), body.readings)
    order = by_meter(meter)
    meter = meter[order]
    starts = np.flatnonzero(np.append(True, meter[1:] != meter[:-1]))
    column = np.argsort(registers[0], kind="stable")
    rows = order[:, np.newaxis] * each + column
    if len(starts) == len(meter):  # each meter once, as is usual of many
        rows = rows.ravel()
        register = np.tile(registers[0][column], len(meter))
        epoch = spread_evenly(body.envelopes.epoch[order], each)
    else:
        rows = _by_register(rows, starts, registers[0][column])
        register, epoch = body.register[rows], body.envelopes.epoch[rows // each]
    return Batch(
        meter=spread_evenly(meter, each),
        register=register,
        status=body.status[rows],
        epoch=epoch,
        time=body.time[rows],
        value=body.value[rows],
    )


def _by_register(rows: Rows, starts: Rows, register: UInt16s) -> Rows:
    """Readings of n datagrams by meter, then register, then arrival.

    ``rows``, of shape (n, each), are those of datagrams by meter, whose runs begin at ``starts``,
    and each datagram's by ``register``, of shape (each,).
    """
    count, each = rows.shape
    counts = np.diff(starts, append=count)
    size, start = np.repeat(counts, counts), np.repeat(starts, counts)
    nth = np.arange(count) - start
    before = register.searchsorted(register)  # columns of registers that come before
    width = register.searchsorted(register, side="right") - before
    own = np.arange(each) - before
    place = (start * each)[:, np.newaxis] + size[:, np.newaxis] * before
    place += nth[:, np.newaxis] * width + own
    found = np.empty(rows.size, np.intp)
    found[place] = rows
    return found
