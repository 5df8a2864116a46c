"""``wattbus backup`` and ``restore`` with PostgreSQL: a collector moves there, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.test_care import refusal, run
from tests.cli.test_serve import START, datagram
from tests.cli.test_serve_postgresql import values
from tests.conftest import Stack
from tests.postgresql import PostgresServer

MakeStack = Callable[..., Stack]


def test_a_collector_moves_to_postgresql_and_back(
    make_stack: MakeStack, postgresql: PostgresServer, tmp_path: Path
) -> None:
    name = postgresql.create()
    url = postgresql.url(name)
    first, second = tmp_path / "first.sqlite3", tmp_path / "second.sqlite3"
    stack = make_stack()
    stack.send([datagram("a", number) for number in range(100)])
    stack.wait_for("a", START + 99_000)
    assert stack.stop() == 0
    assert run("backup", first, "--data", stack.data).returncode == 0
    there = make_stack("--database", url)
    said = refusal("restore", first, "--data", tmp_path / "other", "--database", url)
    assert "another wattbus writes to this database already" in said
    assert there.stop() == 0
    arguments = ("restore", first, "--data", stack.data, "--database", url)
    assert "--force keeps files only" in refusal(*arguments, "--force")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "restored, 1 meters" in done.stdout
    assert postgresql.password not in done.stdout + done.stderr
    there.start()
    assert values(there, "a") == [3 * number for number in range(100)]
    there.send([datagram("a", number) for number in range(100, 150)])
    there.wait_for("a", START + 149_000)
    done = run("backup", second, "--data", there.data, "--database", url)  # while it runs
    assert done.returncode == 0, done.stderr
    assert there.stop() == 0
    assert "is not empty" in refusal(*arguments)
    done = run("restore", second, "--data", stack.data, "--force")
    assert done.returncode == 0, done.stderr
    stack.start()
    assert values(stack, "a") == [3 * number for number in range(150)]
    stack.stop()
    postgresql.drop(name)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/wattbus"
    said = refusal("backup", tmp_path / "b", "--data", tmp_path, "--database", url)
    assert "Is the server running" in said
    assert "secret" not in said
    assert not (tmp_path / "b").exists()
