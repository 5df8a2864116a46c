from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from telemetry.delivery import Numbers
from telemetry.outbox import LEAST_OCTETS, MOST_OCTETS, Outbox, StateError

NOW = 1_790_000_000
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "meter.db"


def opened(path: Path, *ids: str, now: int = NOW, room: int = MOST_OCTETS) -> Outbox:
    return Outbox(path, ids or ("a",), now, room)


def at(meter: int, epoch: int, sequence: int) -> Numbers:
    return Numbers(*np.array([[meter], [epoch], [sequence]], np.int64))


def waiting(outbox: Outbox) -> list[tuple[int, int, int, int]]:
    """Meter, epoch, first and end of each span."""
    return [
        (int(m), int(e), int(s), int(x))
        for first, end in outbox.waiting()
        for m, e, s, x in zip(first.meter, first.epoch, first.sequence, end, strict=True)
    ]


def test_what_was_appended_is_there_after_a_restart(path: Path) -> None:
    with opened(path, "a", "b") as outbox:
        assert outbox.epoch.tolist() == [NOW, NOW]
        assert outbox.append({"a": 5, "b": 6}, [b"a0", b"b0"])
        assert outbox.append({"a": 7, "b": 6}, [b"a1", b"b1"])
        assert outbox.next.tolist() == [2, 2]
    with opened(path, "b", "a", now=NOW + 100) as outbox:
        assert outbox.registers == {"a": 7, "b": 6}
        assert (outbox.epoch.tolist(), outbox.next.tolist()) == ([NOW, NOW], [2, 2])
        assert waiting(outbox) == [(1, NOW, 0, 2), (0, NOW, 0, 2)]
        both = Numbers(np.array([0, 1]), np.array([NOW, NOW]), np.array([1, 0]))
        assert outbox.octets(both) == [b"b1", b"a0"]


def test_what_was_removed_is_gone_and_its_number_stays_used(path: Path) -> None:
    with opened(path) as outbox:
        for number in range(5):
            outbox.append({"a": number}, [bytes([number])])
        outbox.remove(at(0, NOW, 3))
        assert waiting(outbox) == [(0, NOW, 3, 5)]
        outbox.remove(at(0, NOW, 5))
    with opened(path) as outbox:
        assert waiting(outbox) == []
        assert outbox.next.tolist() == [5]


def test_without_datagrams_numbers_are_used_up(path: Path) -> None:
    with opened(path) as outbox:
        assert outbox.append({"a": 1}, None)
        assert outbox.next.tolist() == [1]
        assert waiting(outbox) == []
    with opened(path) as outbox:
        assert outbox.next.tolist() == [1]


def test_an_epoch_ends_with_its_last_number(path: Path) -> None:
    opened(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE meters SET next = {2**32 - 1}")
    connection.close()
    with opened(path) as outbox:
        outbox.append({"a": 1}, [b"last"])
        outbox.append({"a": 1}, [b"first"])
        assert waiting(outbox) == [(0, NOW, 2**32 - 1, 2**32), (0, NOW + 1, 0, 1)]
        assert outbox.octets(at(0, NOW + 1, 0)) == [b"first"]


def test_meters_that_join_and_leave_a_fleet(path: Path) -> None:
    with opened(path, "a", "b") as outbox:
        outbox.append({"a": 5, "b": 6}, [b"a", b"b"])
    with opened(path, "c", "a", now=NOW + 9) as outbox:
        assert outbox.epoch.tolist() == [NOW + 9, NOW]
        assert waiting(outbox) == [(1, NOW, 0, 1)]
        assert outbox.waiting_of_others() == 1
        outbox.append({"a": 7, "c": 1}, [b"c", b"a"])
    with opened(path, "b") as outbox:
        assert outbox.registers == {"b": 6}
        assert outbox.waiting_of_others() == 3


def test_a_commit_is_synced_and_whole(path: Path) -> None:
    """Seen from outside while the outbox is open: the pragmas that durability rests on."""
    with opened(path) as outbox:
        connection = outbox._connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        outbox.append({"a": 3}, [b"x"])
        reader = sqlite3.connect(path)
        assert reader.execute("SELECT register_mwh, next FROM meters").fetchall() == [(3, 1)]
        assert reader.execute("SELECT octets FROM waiting").fetchall() == [(b"x",)]
        reader.close()


def test_a_full_outbox_keeps_what_it_has_and_says_so(path: Path) -> None:
    fleet = [f"m-{number}" for number in range(100)]
    tick = [bytes(150)] * len(fleet)
    with opened(path, *fleet, room=LEAST_OCTETS) as outbox:
        kept = 0
        while outbox.append(dict.fromkeys(fleet, kept), tick):
            kept += 1
        assert 0.6 * LEAST_OCTETS < kept * 100 * 150 < LEAST_OCTETS
        assert set(outbox.next.tolist()) == {kept}
        assert not outbox.append(dict.fromkeys(fleet, 10**6), tick)
        assert waiting(outbox) == [(meter, NOW, 0, kept) for meter in range(100)]
        assert path.stat().st_size <= LEAST_OCTETS
    with opened(path, *fleet, room=LEAST_OCTETS) as outbox:
        assert set(outbox.registers.values()) == {10**6}  # the registers need no new room
        place = np.arange(100)
        outbox.remove(Numbers(place, outbox.epoch, np.full(100, kept // 2)))
        assert outbox.append(dict.fromkeys(fleet, 10**6), tick)
        assert waiting(outbox) == [(meter, NOW, kept // 2, kept + 1) for meter in range(100)]


def test_an_old_state_is_taken_over(tmp_path: Path) -> None:
    old = tmp_path / "meter.json"
    old.write_text('{"epoch":7,"registers_mwh":{"a":5,"b":6}}')
    with opened(old, "b", "c") as outbox:
        assert outbox.registers == {"b": 6, "c": 0}
        assert outbox.epoch.tolist() == [NOW, NOW]
    with opened(old, "a", now=NOW + 1) as outbox:
        assert (outbox.registers, outbox.epoch.tolist()) == ({"a": 5}, [NOW])


def test_an_old_state_of_the_same_name_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "meter.json").write_text(f'{{"epoch":{2**32 - 2},"registers_mwh":{{"a":5}}}}')
    with opened(tmp_path / "meter.db") as outbox:
        assert (outbox.registers, outbox.epoch.tolist()) == ({"a": 5}, [2**32 - 1])
    assert not (tmp_path / "meter.json").exists()


def test_two_processes_cannot_hold_one_file(path: Path) -> None:
    code = (
        "import pathlib, sys; from telemetry.outbox import Outbox;"
        "outbox = Outbox(pathlib.Path(sys.argv[1]), ['a'], 1); print('held', flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StateError, match="another process is this meter already"):
            opened(path)
        other.kill()
    opened(path).close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"epoch": -1, "registers_mwh": {}}',
        b'{"epoch": 4294967295, "registers_mwh": {}}',
        b'{"epoch": 1, "registers_mwh": {"a": 1.5}}',
        b'{"epoch": 1, "registers_mwh": {"a": 1000000000000000001}}',
        b'{"epoch": 1, "meters": {}}',
        b"\xff",
    ],
)
def test_a_foreign_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "meter.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"meter\.json is not the state of a meter"):
        opened(path)
    assert path.read_bytes() == content


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE meters (x)")
    connection.close()
    with pytest.raises(StateError, match=r"other\.db is not the state of a meter"):
        opened(path)


def test_a_damaged_file_is_named(path: Path) -> None:
    with opened(path) as outbox:
        for number in range(200):
            outbox.append({"a": number}, [bytes(1000)])
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xee" * (len(content) - 4096))
    with pytest.raises(StateError, match=r"meter\.db is damaged \(.*move it away"):
        opened(path).waiting()


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot use the state file"):
        opened(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"cannot use the state file .*--state"):
        opened(tmp_path / "file" / "meter.db")


def test_a_disk_that_takes_no_more_is_an_error_not_a_loss(path: Path) -> None:
    """In a process of its own, whose files may not grow: the write fails in the kernel."""
    opened(path).close()
    code = (
        "import pathlib, resource, signal, sys; from telemetry.outbox import Outbox, StateError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "outbox = Outbox(pathlib.Path(sys.argv[1]), ['a'], 1)\n"
        "assert outbox.append({'a': 1}, [b'kept'])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "try: outbox.append({'a': 2}, [bytes(1000)])\n"
        "except StateError as error: print(error)\n"
        "import os; os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert "cannot use the state file" in done.stdout, done.stderr
    with opened(path) as outbox:
        assert outbox.registers == {"a": 1}
        assert waiting(outbox) == [(0, NOW, 0, 1)]
