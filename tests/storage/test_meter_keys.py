"""Keys of meters: made, rotated with overlap, revoked, forgotten, and read by a receiver."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import key_file, key_making, meter_keys
from storage.changes import LAST_KEY_ID, ChangeRefusedError
from storage.key_file import KeyFileError
from storage.meter_keys import Keys
from telemetry import meter_id
from telemetry.keys import KeyRing
from telemetry.meter_index import UNKNOWN
from telemetry.security import derive
from tests.examples import examples
from tests.waiting import seconds, undisturbed

NOW = 1_795_348_800_000
MINUTE, DAY = 60_000, 86_400_000
KITCHEN, HALL = (meter_id.to_octets(name) for name in ("kitchen", "hall"))
MASTER = bytes(range(32))


def make_file(data: Path) -> None:
    with key_file.opened(data, create=True) as connection:
        connection.execute("INSERT INTO master VALUES (?)", (MASTER,))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_file(tmp_path)
    return tmp_path


def row_of(ring: KeyRing, octets: bytes, key_id: int) -> int:
    """The row of a key in a ring, UNKNOWN where there is none."""
    high, low = (np.array([half], np.uint64) for half in meter_id.halves(octets))
    (row,) = ring.keys(ring.meters(high, low), np.array([key_id], np.uint8)).tolist()
    return int(row)


def secret_of(ring: KeyRing, octets: bytes, key_id: int) -> bytes:
    row = row_of(ring, octets, key_id)
    assert row != UNKNOWN
    return ring.secret(row)


def valid(ring: KeyRing, octets: bytes, key_id: int, now_ms: int) -> bool:
    row = row_of(ring, octets, key_id)
    return row != UNKNOWN and not ring.expired(np.array([row]), now_ms)[0]


def read(data: Path) -> KeyRing:
    keys = Keys(data)
    try:
        return keys.ring()
    finally:
        keys.close()


def wait_for(keys: Keys, true: Callable[[KeyRing], bool]) -> KeyRing:
    deadline = time.monotonic() + 60
    while not true(ring := keys.ring()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return ring


# Making


def test_the_first_key_is_derived_and_told_for_a_minute(data: Path) -> None:
    with key_file.opened(data, create=True) as file:
        told = key_making.ensure(file, KITCHEN, NOW)
        assert (told.key_id, told.secret) == (1, derive(MASTER, KITCHEN, 1))
        assert key_making.ensure(file, KITCHEN, NOW + MINUTE - 1) == told
        assert key_making.ensure(file, KITCHEN, NOW + MINUTE).secret is None
        assert key_making.told(file, HALL, NOW) is None
        assert file.execute("SELECT secret FROM meter_keys").fetchall() == [(None,)]
        (key,) = key_making.listed(file, KITCHEN)
    assert (key.key_id, key.derived, key.created_ms, key.until_ms) == (1, True, NOW, None)
    assert secret_of(read(data), KITCHEN, 1) == told.secret
    assert told.secret is not None
    assert repr(told.secret) not in repr(told)
    assert told.secret.hex() not in repr(told)


def test_the_master_key_is_made_once(tmp_path: Path) -> None:
    secrets = set()
    for number in range(2):
        with key_file.opened(tmp_path / str(number), create=True) as file:
            secrets.add(key_making.ensure(file, KITCHEN, NOW).secret)
        with key_file.opened(tmp_path / str(number), create=True) as file:
            key_making.ensure(file, HALL, NOW)
            ((master,),) = file.execute("SELECT secret FROM master").fetchall()
        assert len(master) == 32
    assert len(secrets) == 2


def test_a_key_that_is_given(data: Path) -> None:
    secret = b"sixteen octets!!"
    with key_file.opened(data, create=True) as file:
        key_making.ensure(file, KITCHEN, NOW)
        told = key_making.give(file, KITCHEN, secret, DAY, NOW + 1)
        assert (told.key_id, told.secret) == (2, secret)
        assert key_making.give(file, KITCHEN, secret, DAY, NOW + DAY) == told
        first, second = key_making.listed(file, KITCHEN)
        assert (first.until_ms, second.until_ms, second.derived) == (NOW + 1 + DAY, None, False)
        for octets in (KITCHEN, HALL):  # one nonce for two datagrams, of one meter or of two
            if octets == KITCHEN:
                key_making.rotate(file, KITCHEN, 2, 0, NOW + DAY)
            with pytest.raises(ChangeRefusedError, match="used before"):
                key_making.give(file, octets, secret, 0, NOW + 2 * DAY)
        with pytest.raises(ChangeRefusedError, match="used before"):
            key_making.give(file, KITCHEN, derive(MASTER, KITCHEN, 1), 0, NOW + 2 * DAY)
    assert secret_of(read(data), KITCHEN, 2) == secret


# Rotating


def test_rotation_overlaps(data: Path) -> None:
    with key_file.opened(data, create=True) as file:
        key_making.ensure(file, KITCHEN, NOW)
        told = key_making.rotate(file, KITCHEN, 1, DAY, NOW)
        assert told.key_id == 2
        # The answer was lost, and it is asked for again.
        assert key_making.rotate(file, KITCHEN, 1, DAY, NOW + MINUTE - 1) == told
        for wrong in (0, 3, 1):
            with pytest.raises(ChangeRefusedError, match="newest valid key is 2, not"):
                key_making.rotate(file, KITCHEN, wrong, DAY, NOW + MINUTE + 1)
    ring = read(data)
    assert valid(ring, KITCHEN, 1, NOW + DAY - 1)
    assert not valid(ring, KITCHEN, 1, NOW + DAY)
    assert valid(ring, KITCHEN, 2, NOW + 1000 * DAY)


def test_revoked_and_then_given_another(data: Path) -> None:
    with key_file.opened(data, create=True) as file:
        key_making.ensure(file, KITCHEN, NOW)
        key_making.ensure(file, HALL, NOW)
        key_making.revoke(file, KITCHEN, NOW + 5)
        assert key_making.newest(file, KITCHEN, NOW + 5) is None
        (key,) = key_making.listed(file, KITCHEN)
        assert key.until_ms == NOW + 5
        key_making.revoke(file, KITCHEN, NOW + 50)
        assert key_making.listed(file, KITCHEN) == [key]
    ring = read(data)
    assert row_of(ring, KITCHEN, 1) != UNKNOWN, "a meter with keys: what is unsigned is refused"
    assert not valid(ring, KITCHEN, 1, NOW + 5)
    assert valid(ring, HALL, 1, NOW + 5)
    with key_file.opened(data, create=True) as file:
        told = key_making.rotate(file, KITCHEN, 0, DAY, NOW + 60)
        assert key_making.rotate(file, KITCHEN, 0, DAY, NOW + 61) == told
        assert told.key_id == 2
        assert key_making.listed(file, KITCHEN)[0].until_ms == NOW + 5


def test_all_ids_are_in_use(data: Path) -> None:
    with key_file.opened(data, create=True) as file:
        for number in range(LAST_KEY_ID):
            assert key_making.rotate(file, KITCHEN, number, DAY, NOW).key_id == number + 1
        with pytest.raises(ChangeRefusedError, match="all its 255 key ids are valid"):
            key_making.rotate(file, KITCHEN, 255, DAY, NOW)
        assert key_making.rotate(file, KITCHEN, 255, 0, NOW + DAY).key_id == 1


def test_a_clock_that_goes_back_does_not_change_which_is_the_newest(data: Path) -> None:
    with key_file.opened(data, create=True) as file:
        key_making.ensure(file, KITCHEN, NOW)
        assert key_making.rotate(file, KITCHEN, 1, DAY, NOW - 5 * DAY).key_id == 2
        newest = key_making.newest(file, KITCHEN, NOW - 5 * DAY)
        assert newest is not None
        assert newest.key_id == 2


STEPS = st.one_of(
    st.tuples(st.just("rotate"), st.sampled_from([0, 1, MINUTE, 40 * MINUTE, 7 * DAY])),
    st.tuples(st.just("revoke"), st.just(0)),
    st.tuples(st.just("forget"), st.just(0)),
    st.tuples(st.just("ensure"), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([1, MINUTE, 30 * MINUTE, 8 * DAY])),
)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(STEPS, max_size=40), st.integers(0, 254))
def test_rotation(steps: list[tuple[str, int]], rotated_before: int) -> None:
    """Whatever is done: no secret comes back, overlaps are as long as asked, none is for ever."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
        for statement in key_file._TABLES.split(";"):
            file.execute(statement)
        now, seen = NOW, set()
        until: dict[int, int | None] = {}  # of each key id, by the rules of docs/security.md
        todo = [("rotate", 0), ("wait", MINUTE)] * rotated_before + steps
        for what, argument in todo:
            current = key_making.newest(file, KITCHEN, now)
            if what == "wait":
                now += argument
            elif what == "forget":
                key_making.forget(file, KITCHEN)
                until = {}
            elif what == "revoke":
                key_making.revoke(file, KITCHEN, now)
                until = {k: now if u is None or u > now else u for k, u in until.items()}
            elif what == "ensure" and current is not None:
                assert key_making.ensure(file, KITCHEN, now).key_id == current.key_id
            else:
                overlap = argument if what == "rotate" else 0
                replaces = current.key_id if current else 0
                if what == "rotate":
                    told = key_making.rotate(file, KITCHEN, replaces, overlap, now)
                else:
                    told = key_making.ensure(file, KITCHEN, now)
                assert told.secret is not None
                assert told.secret not in seen
                seen.add(told.secret)
                assert 1 <= told.key_id <= LAST_KEY_ID
                old = until.get(told.key_id, 0)
                assert old is not None
                assert old <= now, "an id that was valid still"
                end = now + overlap
                until = {k: end if u is None or u > end else u for k, u in until.items()}
                until[told.key_id] = None
            assert {key.key_id: key.until_ms for key in key_making.listed(file, KITCHEN)} == until
            found = key_making.newest(file, KITCHEN, now)
            assert (found is None) == all(u is not None and u <= now for u in until.values())


def test_keys_of_a_deleted_meter_never_come_back(data: Path) -> None:
    """Else what was recorded of its first life would be taken in its second."""
    with key_file.opened(data, create=True) as file:
        first = key_making.ensure(file, KITCHEN, NOW)
        key_making.forget(file, KITCHEN)
        assert key_making.listed(file, KITCHEN) == []
        again = key_making.ensure(file, KITCHEN, NOW)
        assert again.key_id == first.key_id
        assert again.secret != first.secret
        other = key_making.ensure(file, HALL, NOW)  # of others they are derived as before
        assert other.secret == derive(MASTER, HALL, 1)
    assert KITCHEN[:7] not in b"".join(
        row[0] for row in sqlite3.connect(key_file.path_of(data)).execute("SELECT * FROM spent")
    )


# The receiver's view


def test_without_a_file_there_are_no_keys(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    ring = keys.ring()
    assert len(ring) == 0
    assert keys.ring() is ring
    assert list(tmp_path.iterdir()) == []
    make_file(tmp_path)
    with key_file.opened(tmp_path, create=True) as file:
        key_making.ensure(file, KITCHEN, NOW)
    assert row_of(keys.ring(), KITCHEN, 1) != UNKNOWN
    keys.close()


def test_the_ring_is_the_same_until_the_file_changes(data: Path) -> None:
    keys = Keys(data)
    first = keys.ring()
    assert all(keys.ring() is first for _ in range(3))
    with key_file.opened(data, create=True) as file:
        key_making.ensure(file, KITCHEN, NOW)
    ring = wait_for(keys, lambda ring: ring is not first)
    assert valid(ring, KITCHEN, 1, NOW)
    # Changes within one tick of the file system's clock, and of one size, are seen as well.
    for number in range(2, 12):
        with key_file.opened(data, create=True) as file:
            key_making.rotate(file, KITCHEN, number - 1, 0, NOW)
        wait_for(keys, lambda ring, number=number: valid(ring, KITCHEN, number, NOW))  # type: ignore[misc]
    keys.close()


def test_a_writer_in_the_middle_of_a_change_holds_nobody_up(data: Path) -> None:
    keys = Keys(data)
    ring = keys.ring()
    with closing(key_file.connect(data)) as file:
        file.execute("BEGIN EXCLUSIVE")
        key_making.ensure(file, KITCHEN, NOW)

        def same() -> None:
            assert keys.ring() is ring

        undisturbed(1, lambda: seconds(same))
        file.execute("COMMIT")
    wait_for(keys, lambda ring: len(ring) == 1)
    keys.close()


def test_a_file_that_is_replaced_opened_up_or_removed(data: Path, tmp_path: Path) -> None:
    with key_file.opened(data, create=True) as file:
        key_making.ensure(file, KITCHEN, NOW)
    keys, path = Keys(data), key_file.path_of(data)
    keys.ring()
    other = tmp_path / "other"
    make_file(other)
    with key_file.opened(other, create=True) as file:
        key_making.ensure(file, HALL, NOW)
    key_file.path_of(other).replace(path)
    ring = wait_for(keys, lambda ring: row_of(ring, HALL, 1) != UNKNOWN)
    assert row_of(ring, KITCHEN, 1) == UNKNOWN
    path.chmod(0o644)
    for _ in range(2):
        with pytest.raises(KeyFileError, match="others may read"):
            keys.ring()
    path.chmod(0o600)
    assert row_of(keys.ring(), HALL, 1) != UNKNOWN
    path.unlink()
    for _ in range(2):  # and not: no keys, then what is unsigned is taken
        with pytest.raises(KeyFileError, match="has gone"):
            keys.ring()
    keys.close()


@pytest.mark.parametrize(
    "row",
    [(b"short", 1, None), (KITCHEN, 1, b"short"), (KITCHEN, 256, None), (KITCHEN, "x", None)],
)
def test_rows_that_are_none(data: Path, row: tuple[object, ...]) -> None:
    with key_file.opened(data, create=True) as file:
        file.execute("INSERT INTO meter_keys VALUES (?, ?, ?, 0, NULL)", row)
    with pytest.raises(KeyFileError, match="is damaged"):
        read(data)


def test_many(data: Path) -> None:
    """More than are read at once, some stored and some that end."""
    count = meter_keys._AT_ONCE + 10
    octets = [b"m%08d" % number + bytes(7) for number in range(count)]
    with key_file.opened(data, create=True) as file:
        file.executemany(
            "INSERT INTO meter_keys VALUES (?, 7, ?, 0, ?)",
            (
                (own, bytes([number % 256]) * 16 if number % 3 == 0 else None, number % 2 or None)
                for number, own in enumerate(octets)
            ),
        )
    ring = read(data)
    assert len(ring) == count
    for number in (0, 1, 2, 3, count - 1):
        stored = bytes([number % 256]) * 16
        secret = stored if number % 3 == 0 else derive(MASTER, octets[number], 7)
        assert secret_of(ring, octets[number], 7) == secret
        assert valid(ring, octets[number], 7, 1) == (number % 2 == 0)
    assert meter_keys.without(data, [octets[5], KITCHEN]) == [KITCHEN]
