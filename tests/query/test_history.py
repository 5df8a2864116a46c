"""History by day is the same from the days that are kept as from the readings."""

from __future__ import annotations

import random
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from query import messages as m
from query.asking import Answers
from query.history import get_history
from storage import kept_days
from storage.ladder import KEEP_ALL
from telemetry.calendar import DAY_MS, HOUR_MS
from telemetry.registers import ENERGY_IMPORT
from tests.storage.test_sealing import NOON, Store

AUTUMN = NOON  # Lisbon's clock goes back in these weeks


def test_days_that_are_kept_and_readings_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any range, any page, with gaps, a reset and an hour that comes twice; then unsealed ones."""
    chance = random.Random(4)
    store = Store(tmp_path, 1)
    value, values = 0, []
    for hour in range(60 * 24):
        value = 0 if hour == 700 else value + chance.randrange(900)
        if not 300 < hour < 420 and chance.random() < 0.9:
            values.append((1, ENERGY_IMPORT, AUTUMN + hour * HOUR_MS, value))
    store.commit(values[:-100])
    store.sealer.seal_all()
    store.commit(values[-100:])
    with store.reader.snapshot():
        store.check_kept_days(1)
        name = store.reader.by_number(1).id
        source = Answers(store.reader, store.defaults, KEEP_ALL, "1", lambda: AUTUMN + 90 * DAY_MS)
        certain = kept_days.certain_before(store.reader, store.reader.by_number(1), _zone(store))
        assert certain is not None
        assert certain > AUTUMN + 50 * DAY_MS
        for _ in range(300):
            request = _request(name, chance)
            kept = get_history(request, source)
            with monkeypatch.context() as without:
                without.setattr(kept_days, "certain_before", lambda *_: None)
                assert kept == get_history(request, source), request
    store.close()


def _zone(store: Store) -> ZoneInfo:
    return store.defaults.own_zone


def _request(name: str, chance: random.Random) -> m.GetHistory:
    """A range with any ends, at midnight or not, open or not, before, inside or after the data."""

    def instant() -> int | None:
        at = AUTUMN + chance.randrange(-10 * DAY_MS, 75 * DAY_MS)
        return chance.choice([None, at, at // DAY_MS * DAY_MS, at // DAY_MS * DAY_MS - HOUR_MS])

    start, end = instant(), instant()
    if start is not None and end is not None:
        start, end = min(start, end), max(start, end) + 1
    most = chance.choice([1, 2, 7, 1000])
    return m.GetHistory(id=name, step="day", start_ms=start, end_ms=end, most=most)
