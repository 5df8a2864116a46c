"""``wattbus backup`` and ``wattbus restore`` beside a real collector under load."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from storage import schema
from storage.engine import Database, database_path, open_reader, open_writer
from tests.cli.test_serve import START, Stream, all_are_stored, datagram, expected, stored
from tests.conftest import ROOT, Stack
from tests.waiting import PATIENCE, undisturbed, wait_until

MakeStack = Callable[..., Stack]


def wattbus(*words: object) -> list[str]:
    return [sys.executable, "-m", "cli", *map(str, words)]


def run(*words: object, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        wattbus(*words), cwd=ROOT, capture_output=True, text=True, timeout=60, **how
    )


def refusal(*words: object, **how: object) -> str:
    """What a command says that ends with 2."""
    done = run(*words, **how)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("wattbus: ")
    return done.stderr.strip()


def make_database(data: Path, rows: int = 0, size: int = 1000) -> Path:
    """A database with rows of blocks that nobody decodes; its file."""
    engine = open_writer(Database(data))
    with engine.begin() as connection:
        alike = {"shift": 0, "first_ms": 0, "last_ms": 1, "lasting": False, "readings": 1}
        for first in range(1, rows + 1, 500):
            some = range(first, min(first + 500, rows + 1))
            made = [{"id": n, "grp": n, "body": os.urandom(size), **alike} for n in some]
            connection.execute(schema.blocks.insert(), made)
    engine.dispose()
    return database_path(data)


def ask(file: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


# Backup while ingest runs


def test_a_backup_under_load_is_a_prefix_of_what_was_sent(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    stack = make_stack()
    stream = Stream(stack, "a", 2000)
    stack.send([datagram("b", number) for number in range(100)])
    all_are_stored(stack, "b", 100)
    stack.wait_for("a", START + 1000 * 1000)
    with stack.client() as client:
        durable = len(stored(client, "a"))
    assert durable > 500
    file = tmp_path / "backup.sqlite3"
    done = run("backup", "--data", stack.data, file)
    assert done.returncode == 0, done.stderr
    assert "2 meters" in done.stdout
    assert file.name in done.stdout
    sent = stream.stop()
    all_are_stored(stack, "a", sent)
    assert stack.stop() == 0

    assert ask(file, "PRAGMA integrity_check") == [("ok",)]
    assert ask(file, "PRAGMA journal_mode") == [("delete",)]  # one file, nothing beside it
    elsewhere = tmp_path / "restored" / "data"
    done = run("restore", file, "--data", elsewhere)
    assert done.returncode == 0, done.stderr
    again = make_stack(data=elsewhere)
    again.wait_for("b", 0)
    with again.client() as client:
        rows = stored(client, "a")
        assert rows == expected(len(rows))
        assert durable <= len(rows) <= sent
        assert stored(client, "b") == expected(100)
    # It goes on where the backup ended.
    again.send([datagram("a", number) for number in range(len(rows), sent)])
    all_are_stored(again, "a", sent)


def test_a_restored_collector_answers_as_the_first(make_stack: MakeStack, tmp_path: Path) -> None:
    stack = make_stack("--demo", "3")
    stack.send([datagram("a", number) for number in range(3000)])
    all_are_stored(stack, "a", 3000)
    for words in (["--name", "The cellar"], ["--limit", "1"]):
        assert stack.cli("meters", "set", "a", *words).returncode == 0
    stack.wait_for("demo-1", 0)
    stack.stop()
    file = tmp_path / "backup.sqlite3"
    assert run("backup", "--data", stack.data, file).returncode == 0
    elsewhere = tmp_path / "restored" / "data"
    assert run("restore", file, "--data", elsewhere).returncode == 0
    questions = [
        ("meters", "--json"),
        ("latest", "a", "--json"),
        ("history", "a", "--step", "15m", "--json"),
        ("total", "demo-1", "--json"),
        ("bill", "a", "--json"),
        ("alerts", "--json"),
    ]
    answers = []
    for data in (stack.data, elsewhere):
        one = make_stack(data=data)
        answers.append([one.cli(*question).stdout for question in questions])
        one.stop()
    assert answers[0] == answers[1]
    assert all(answers[0])
    assert "a" in answers[0][0]


def test_a_backup_holds_up_neither_commits_nor_the_log(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    make_database(tmp_path / "data", rows=5000, size=20_000)
    stack = make_stack(data=tmp_path / "data")
    stream = Stream(stack, "a", 2000)
    wal = Path(f"{database_path(stack.data)}-wal")
    largest = 0

    def most_waiting() -> float:
        """How many readings waited while a backup was made."""
        nonlocal largest
        words = ("backup", "--force", "--data", stack.data, tmp_path / "b")
        process = subprocess.Popen(wattbus(*words), cwd=ROOT)
        waited = 0
        while process.poll() is None:
            largest = max(largest, wal.stat().st_size)
            with stack.client() as client:
                writer = client.status().writer
            if writer is not None:
                waited = max(waited, *(receiver.waiting for receiver in writer.receivers), 0)
            time.sleep(0.02)
        assert process.returncode == 0
        return waited

    undisturbed(2000 * 2, most_waiting)  # two seconds of it: machines are busy
    sent = stream.stop()
    all_are_stored(stack, "a", sent)
    assert largest < 32 * 2**20


# What may go wrong


def test_a_backup_that_is_killed_or_interrupted(tmp_path: Path) -> None:
    rows, size = 5000, 20_000
    source = make_database(tmp_path / "data", rows, size)
    file, partial = tmp_path / "b.sqlite3", tmp_path / "b.sqlite3.partial"

    def ended_by(how: int) -> tuple[int, str] | None:
        """Code and words of a backup that a signal ended, unless it came to its end before."""
        process = subprocess.Popen(
            wattbus("backup", "--data", source.parent, file),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        # What an earlier one left is emptied first.
        while process.poll() is None:
            if partial.exists() and 0 < partial.stat().st_size < rows * size * 3 / 4:
                process.send_signal(how)
                break
            time.sleep(0.001)
        _, said = process.communicate(timeout=PATIENCE)
        if process.returncode == 0:
            file.unlink()
            return None
        return process.returncode, said

    for how, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)):
        ended = wait_until(lambda how=how: ended_by(how))  # type: ignore[misc]
        assert ended is not None
        returned, said = ended
        assert returned == code, said
        assert "Traceback" not in said
        assert not file.exists()
        assert partial.exists() == (how == signal.SIGKILL)
        if how == signal.SIGKILL:
            os.truncate(partial, 0)
    assert run("backup", "--data", source.parent, file).returncode == 0
    assert ask(file, "SELECT count(*) FROM blocks") == [(rows,)]
    assert not partial.exists()


def limited(octets: int) -> Callable[[], None]:
    """Files of this process grow no larger; the signal is ignored by Python, writing fails."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (octets, octets))


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_full_disk(tmp_path: Path, what: str) -> None:
    source = make_database(tmp_path / "data", rows=400, size=20_000)
    file, elsewhere = tmp_path / "b.sqlite3", tmp_path / "elsewhere"
    if what == "restore":
        assert run("backup", "--data", source.parent, file).returncode == 0
    words = {
        "backup": ("backup", "--data", source.parent, file),
        "restore": ("restore", "--data", elsewhere, file),
    }[what]
    said = refusal(*words, preexec_fn=limited(5_000_000))
    assert "backup failed" in said or "cannot write" in said
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    assert not (file.exists() if what == "backup" else database_path(elsewhere).exists())
    assert run(*words).returncode == 0


def test_too_little_room_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from storage import whole_file
    from storage.engine import StorageError

    with pytest.raises(StorageError, match=r"the backup needs about 1000000\.0 GB, and .* free"):
        whole_file.need_space(tmp_path, 10**15, "the backup")


def test_a_backup_overwrites_only_when_told(tmp_path: Path) -> None:
    source = make_database(tmp_path / "data")
    file = tmp_path / "b.sqlite3"
    file.write_text("precious")
    assert "is there already" in refusal("backup", "--data", source.parent, file)
    assert file.read_text() == "precious"
    assert run("backup", "--data", source.parent, file, "--force").returncode == 0
    assert ask(file, "SELECT value FROM info WHERE key = 'schema'")
    assert "is a directory" in refusal("backup", "--data", source.parent, tmp_path, "--force")
    assert "No such file" in refusal("backup", "--data", source.parent, tmp_path / "no" / "b")
    assert "there is no database" in refusal("backup", "--data", tmp_path / "empty", "x")
    assert not (tmp_path / "empty").exists()


def test_nothing_of_a_collectors_own_is_written_over(stack: Stack, tmp_path: Path) -> None:
    """Whoever means --force means an older backup."""
    assert stack.cli("meters", "add", "kitchen").returncode == 0
    stack.send(b'{"meter": "a", "time": "2026-01-01T00:00:00Z", "registers": {"power": 1}}')
    stack.wait_for("a", 0)
    link, copy = tmp_path / "link", stack.data / "older.sqlite3"
    link.symlink_to(stack.data / "wattbus.sqlite3")
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE precious (a)")
    names = ["wattbus.sqlite3", "wattbus.sqlite3-wal", "keys.db", "writer.lock", "spool/state"]
    own = [stack.data / name for name in names if (stack.data / name).exists()]
    assert len(own) >= 4
    for file in (*own, link, other):
        before = file.stat().st_ino
        assert refusal("backup", file, "--data", stack.data, "--force")
        exported = stack.cli("export", "a", "-o", str(file))
        assert exported.returncode == 2
        assert "choose another name" in exported.stderr
        assert file.stat().st_ino == before
    assert run("backup", copy, "--data", stack.data).returncode == 0
    assert run("backup", copy, "--data", stack.data, "--force").returncode == 0
    assert run("verify", "--data", stack.data).returncode == 0
    assert stack.cli("latest", "a").returncode == 0


def test_restore_keeps_what_was_there(tmp_path: Path) -> None:
    first = make_database(tmp_path / "data", rows=3)
    file = tmp_path / "b.sqlite3"
    assert run("backup", "--data", first.parent, file).returncode == 0
    other = make_database(tmp_path / "other", rows=5)
    assert "a database in" in refusal("restore", file, "--data", other.parent)
    assert ask(other, "SELECT count(*) FROM blocks") == [(5,)]
    done = run("restore", file, "--data", other.parent, "--force")
    assert done.returncode == 0, done.stderr
    (kept,) = other.parent.glob("wattbus-2*.sqlite3")
    assert f"the database that was there is now {kept}" in done.stdout
    assert ask(kept, "SELECT count(*) FROM blocks") == [(5,)]
    assert ask(other, "SELECT count(*) FROM blocks") == [(3,)]


def test_restore_refuses_while_a_writer_runs(make_stack: MakeStack, tmp_path: Path) -> None:
    file = tmp_path / "b.sqlite3"
    stack = make_stack()
    assert run("backup", "--data", stack.data, file).returncode == 0
    said = refusal("restore", file, "--data", stack.data, "--force")
    assert f"another wattbus writes to {stack.data} already" in said


def not_sqlite(file: Path) -> None:
    file.write_bytes(b"readings, honestly" * 100)


def other_tables(file: Path) -> None:
    ask(file, "CREATE TABLE tunes (name TEXT)")


def cut_short(file: Path) -> None:
    made = make_database(file.parent / "made", rows=500, size=5000)
    file.write_bytes(made.read_bytes()[:1_000_000])


def newer(file: Path) -> None:
    made = make_database(file.parent / "made")
    with closing(sqlite3.connect(made)) as connection:
        connection.execute("UPDATE info SET value = '99' WHERE key = 'schema'")
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")
    made.rename(file)


def open_still(file: Path) -> None:
    made = make_database(file.parent / "made")
    made.rename(file)
    Path(f"{file}-wal").write_bytes(b"x" * 100)


def scribbled(file: Path) -> None:
    made = make_database(file.parent / "made", rows=500, size=5000)
    octets = bytearray(made.read_bytes())
    octets[40_960:49_152] = os.urandom(8192)
    file.write_bytes(octets)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (not_sqlite, "is no SQLite database"),
        (other_tables, "but none of Wattbus"),
        (cut_short, "is damaged"),
        (scribbled, "is damaged"),
        (newer, "has schema 99, newer than this Wattbus knows"),
        (open_still, "is in use or was not closed"),
        (lambda file: None, "No such file"),
        (lambda file: file.mkdir(), "Is a directory"),
    ],
)
def test_what_is_no_backup(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    file, elsewhere = tmp_path / "b.sqlite3", tmp_path / "elsewhere"
    spoil(file)
    assert said in refusal("restore", file, "--data", elsewhere)
    assert not database_path(elsewhere).exists()
    assert not list(elsewhere.glob("*.partial"))


def test_a_backup_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    source = make_database(tmp_path / "data")
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("UPDATE info SET value = '99' WHERE key = 'schema'")
        connection.commit()
    said = refusal("backup", "--data", source.parent, tmp_path / "b")
    assert "has schema 99, newer than this Wattbus knows" in said
    assert not (tmp_path / "b").exists()


def test_damage_that_was_there_is_copied_and_said(make_stack: MakeStack, tmp_path: Path) -> None:
    stack = make_stack()
    stack.send([datagram("a", number) for number in range(10)])
    all_are_stored(stack, "a", 10)
    stack.stop()
    with closing(sqlite3.connect(database_path(stack.data))) as connection:
        connection.execute(
            "UPDATE journal SET body = CAST('x' || substr(body, 2) AS BLOB) WHERE id = 1"
        )
        connection.commit()
    file = tmp_path / "b.sqlite3"
    done = run("backup", "--data", stack.data, file)
    assert done.returncode == 0
    assert "copied as it is, damaged: row 1 of the journal" in done.stderr
    query = "SELECT body FROM journal WHERE id = 1"
    assert ask(file, query) == ask(database_path(stack.data), query)


def test_an_older_layout_is_copied_as_it_is(tmp_path: Path) -> None:
    """The copy before a migration has the tables of before, those we do not know among them."""
    source = make_database(tmp_path / "data", rows=2)
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("DROP TABLE daily")
        connection.execute("CREATE TABLE of_old (a TEXT, b BLOB, PRIMARY KEY (b, a))")
        connection.execute("INSERT INTO of_old VALUES ('x', x'01'), ('y', x'00')")
        connection.execute("CREATE TABLE keyless (a TEXT)")
        connection.execute("INSERT INTO keyless VALUES ('p'), ('p')")
        connection.execute("UPDATE info SET value = '1' WHERE key = 'schema'")
        connection.commit()
    file = tmp_path / "b.sqlite3"
    done = run("backup", "--data", source.parent, file)
    assert done.returncode == 0, done.stderr
    assert ask(file, "SELECT * FROM of_old ORDER BY a") == [("x", b"\1"), ("y", b"\0")]
    assert ask(file, "SELECT * FROM keyless") == [("p",), ("p",)]
    query = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    assert ask(file, query) == ask(source, query)
    assert open_reader(Database(source.parent), older=True)
