"""When Speedwire datagrams were sent: their arrival, with the order and the distance they tell.

A device tells no time, only its ticker: milliseconds since it started, modulo 2**32. Datagrams
that waited together while nobody took them arrive at one instant; their tickers tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_WRAP = 1 << 32
# Milliseconds. What is older than the newest by more is no late datagram but a device that started
# again.
LATE = 10_000
# A time further behind the arrival is given up: the device started again, or our clock was set.
MOST_LAG = 30_000
# Of how many datagrams of a meter, which are not older than LATE, it is known that they came.
RECENT = 64
# Of how many meters the state is kept at least, of twice as many at most. One that is forgotten
# begins anew with its next datagram.
MOST_METERS = 1 << 12
_MICRO = 1000  # microseconds of a millisecond; also the slew of 0.1 %: 1 us for each ms

DUPLICATE = None


@dataclass(slots=True)
class _Meter:
    """What is known of a meter: its newest ticker, unwrapped, and what to add for the time.

    ``newest`` arrived at ``arrived``; ``offset`` is in microseconds; ``last`` is the latest time
    that was given. ``recent`` has times and contents by ticker.
    """

    newest: int
    arrived: int
    offset: int
    last: int
    recent: dict[int, tuple[int, int]] = field(default_factory=dict)


class Clock:
    """The times of datagrams, by meter. Not thread-safe."""

    def __init__(self) -> None:
        # What is full becomes the elder and the elder is forgotten: memory is bounded.
        self._younger: dict[bytes, _Meter] = {}
        self._elder: dict[bytes, _Meter] = {}

    def times(
        self, meter: bytes, tickers: Sequence[int], contents: Sequence[int], arrival: int
    ) -> list[int | None]:
        """When a meter's datagrams were sent (ms, UTC), in the order they came in; or DUPLICATE.

        There is one at least, and all arrived at ``arrival``. ``contents`` are equal where
        datagrams say the same.
        """
        state = self._younger.get(meter) or self._elder.get(meter)
        if state is not None and arrival < state.last - MOST_LAG:  # our clock was set back
            state = None
        if state is not None and _began_again(state, tickers[0], contents[0], arrival):
            state = _Meter(tickers[0], arrival, (arrival - tickers[0]) * _MICRO, state.last)
        runs = _runs(tickers[0] if state is None else state.newest, tickers)
        times: list[int | None] = []
        for run, latest in zip(runs, _latest(runs, arrival), strict=True):
            state = _followed(state, run, latest, most_lag=MOST_LAG if run is runs[-1] else None)
            times += [
                _time(state, ticker, content, latest)
                for ticker, content in zip(run, contents[len(times) :], strict=False)
            ]
        assert state is not None
        self._keep(meter, state)
        return times

    def _keep(self, meter: bytes, state: _Meter) -> None:
        if meter not in self._younger and len(self._younger) >= MOST_METERS:
            self._younger, self._elder = {}, self._younger
        self._younger[meter] = state


def _distance(ticker: int, newest: int) -> int:
    """How much later than another a ticker is, signed, the shorter way round."""
    return (ticker - newest + _WRAP // 2) % _WRAP - _WRAP // 2


def _began_again(state: _Meter, ticker: int, content: int, arrival: int) -> bool:
    """Whether a ticker is that of a device that started again, not of a late datagram."""
    later = _distance(ticker, state.newest)
    _, known = state.recent.get(state.newest + later, (0, None))
    return later < 0 and known != content and max(-later, arrival - state.arrived) > LATE


def _runs(newest: int, tickers: Sequence[int]) -> list[list[int]]:
    """Tickers in runs, each of which goes on from its start; as numbers that do not wrap."""
    runs: list[list[int]] = []
    for ticker in tickers:
        later = _distance(ticker, newest)
        if not runs or not -LATE <= later <= MOST_LAG:
            runs.append([])
        if later > 0 or later < -LATE:
            newest += later
            later = 0
        runs[-1].append(newest + later)
    return runs


def _latest(runs: list[list[int]], arrival: int) -> list[int]:
    """Of runs that arrived together, until when each was sent at the latest."""
    latest = [arrival]
    for run in reversed(runs[1:]):
        latest.append(latest[-1] - (max(run) - run[0]) - 1)
    return latest[::-1]


def _followed(state: _Meter | None, run: list[int], latest: int, most_lag: int | None) -> _Meter:
    """The state after datagrams that arrived together, and were sent at ``latest`` or before.

    Nothing is sent after it arrives; so the offset is the least that was seen, and grows so slowly
    that a clock that drifts is followed. What lags by more than ``most_lag``, if that says
    anything, is not followed.
    """
    newest = max(run)
    bound = (latest - newest) * _MICRO
    if state is None or newest < state.newest - LATE:
        return _Meter(newest, latest, bound, 0 if state is None else state.last)
    passed = newest - state.newest
    if passed > 0:
        lag = bound - state.offset
        given_up = most_lag is not None and lag > most_lag * _MICRO
        state.offset = bound if given_up else min(bound, state.offset + passed)
        state.newest, state.arrived = newest, latest
    return state


def _time(state: _Meter, ticker: int, content: int, latest: int) -> int | None:
    """When a datagram was sent: between those that were sent before and after it."""
    recent = state.recent
    if ticker in recent:
        time, known = recent[ticker]
        return DUPLICATE if known == content else time
    time = min(ticker + state.offset // _MICRO, latest)
    after = [there for other, (there, _) in recent.items() if other > ticker]
    time = min(time, min(after) - 1) if after else max(time, state.last + 1)
    state.last = max(state.last, time)
    recent[ticker] = time, content
    while len(recent) > RECENT or min(recent) < max(recent) - LATE:
        del recent[min(recent)]
    return time
