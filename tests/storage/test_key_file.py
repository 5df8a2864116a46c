"""The key file on a real disk: who may read it, and what is said of one that cannot be used."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from storage import key_file
from storage.key_file import KeyFileError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a key file."""
    with key_file.opened(tmp_path, create=True) as connection:
        connection.execute("INSERT INTO master VALUES (?)", (b"m" * 32,))
    return tmp_path


def complaint(data: Path) -> str:
    with pytest.raises(KeyFileError) as caught:
        key_file.check(data)
    said = str(caught.value)
    assert str(key_file.path_of(data)) in said
    return said


def test_it_is_ours_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with key_file.opened(tmp_path / "new", create=True) as connection:
            connection.execute("INSERT INTO master VALUES (?)", (b"m" * 32,))
            files = list((tmp_path / "new").iterdir())
            assert len(files) == 2, "the journal of the open transaction lies beside it"
            assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
    finally:
        os.umask(before)


def test_none_is_fine_and_none_is_made(tmp_path: Path) -> None:
    key_file.check(tmp_path)
    assert not key_file.exists(tmp_path)
    with pytest.raises(KeyFileError), key_file.opened(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_begun_and_never_written(tmp_path: Path) -> None:
    key_file.path_of(tmp_path).touch(0o600)
    key_file.check(tmp_path)
    assert not key_file.exists(tmp_path)
    with key_file.opened(tmp_path, create=True) as connection:
        assert connection.execute("SELECT count(*) FROM meter_keys").fetchone() == (0,)
    assert key_file.exists(tmp_path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o601, 0o777])
def test_others_may_reach_it(data: Path, mode: int) -> None:
    key_file.check(data)
    key_file.path_of(data).chmod(mode)
    assert "others may read" in (said := complaint(data))
    assert "chmod 600" in said
    with pytest.raises(KeyFileError), key_file.opened(data, create=True):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_it_belongs_to_somebody_else(data: Path) -> None:
    os.chown(key_file.path_of(data), 65534, 65534)
    assert "chown to the user" in complaint(data)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)
    assert path.lstat().st_size == 0


@pytest.mark.parametrize("make", [_link, _directory])
def test_it_is_no_plain_file(data: Path, make: Callable[[Path], None]) -> None:
    make(key_file.path_of(data))
    assert "is no plain file" in complaint(data)


def test_a_pipe_in_its_place_does_not_hang(data: Path) -> None:
    _fifo(key_file.path_of(data))
    with pytest.raises(KeyFileError, match="is no plain file"), key_file.opened(data, create=True):
        pass


@pytest.mark.parametrize("octets", [b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_damaged(data: Path, octets: bytes) -> None:
    key_file.path_of(data).write_bytes(octets)
    assert "put your copy of it there" in complaint(data)


def test_cut_off(data: Path) -> None:
    path = key_file.path_of(data)
    os.truncate(path, path.stat().st_size // 2)

    def look() -> None:
        with key_file.opened(data) as connection:
            for table in ("master", "meter_keys", "spent", "bus_keys"):
                connection.execute(f"SELECT * FROM {table}").fetchall()

    with pytest.raises(KeyFileError, match="put your copy"):
        look()


def test_of_a_newer_version(data: Path) -> None:
    with closing(sqlite3.connect(key_file.path_of(data))) as connection:
        connection.execute(f"PRAGMA user_version = {key_file.VERSION + 1}")
    assert "newer Wattbus" in complaint(data)


def test_another_database_in_its_place(data: Path) -> None:
    path = key_file.path_of(data)
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    path.chmod(0o600)
    assert "is no key file" in complaint(data)
    with pytest.raises(KeyFileError, match="no key file"), key_file.opened(data, create=True):
        pass
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_where_nothing_can_be_written() -> None:
    """Root may write anywhere but here."""
    with (
        pytest.raises(KeyFileError, match="Is its directory there and yours"),
        key_file.opened(Path("/sys/wattbus"), create=True),
    ):
        pass


def test_what_fails_in_between_changes_nothing(data: Path) -> None:
    def fail() -> None:
        with key_file.opened(data, create=True) as connection:
            connection.execute("DELETE FROM master")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with key_file.opened(data) as connection:
        assert connection.execute("SELECT secret FROM master").fetchone() == (b"m" * 32,)


def test_what_is_removed_is_overwritten(data: Path) -> None:
    secret = b"S3CR3T-0F-16-OCT"
    with key_file.opened(data, create=True) as connection:
        connection.execute("INSERT INTO meter_keys VALUES (?, 1, ?, 0, NULL)", (b"m" * 16, secret))
    assert secret in key_file.path_of(data).read_bytes()
    with key_file.opened(data, create=True) as connection:
        connection.execute("DELETE FROM meter_keys")
    assert secret not in key_file.path_of(data).read_bytes()
