"""``wattbus keys`` on a data directory, and the commands that use what it makes."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.main import main
from query import credentials
from storage import bus_keys, key_file
from tests.conftest import ROOT, Stack

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs the command on the test's own data directory, from an empty current one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["keys", "--data", str(tmp_path / "data"), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_add_list_and_remove(keys: Run, tmp_path: Path) -> None:
    assert keys() == (0, "no keys: `wattbus keys add NAME --role admin` makes one\n", "")
    assert not key_file.exists(tmp_path / "data")
    code, out, err = keys("add", "alice", "--role", "operator")
    assert (code, err) == (0, "")
    path = tmp_path / "here" / "alice.wattbus-key"
    assert path.name in out
    assert path.stat().st_mode & 0o777 == 0o600
    me = credentials.read(path)
    assert (me.name, me.role) == ("alice", "operator")
    assert me.secret not in out
    (user,) = bus_keys.clients(tmp_path / "data")
    assert (user.name, user.public, user.role.text) == ("alice", me.public, "operator")

    code, out, err = keys()
    assert (code, err) == (0, "")
    assert re.search(rf"alice +operator +{re.escape(me.public)} +20\d\d-", out)
    assert f"public key: {me.server}\n" in out
    assert me.secret not in out
    document = json.loads(keys("--json")[1])
    assert document["server"] == me.server
    assert [(row["name"], row["role"]) for row in document["keys"]] == [("alice", "operator")]

    assert keys("remove", "alice")[0] == 0
    assert bus_keys.clients(tmp_path / "data") == []
    code, out, err = keys("remove", "alice")
    assert (code, out) == (2, "")
    assert "no key of the name alice" in err


def test_where_the_key_goes(keys: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert keys("add", "bob", "--role", "reader", "--output", str(other))[0] == 0
    assert credentials.read(other).name == "bob"
    assert "others" not in keys("add", "eve", "--role", "reader", "--output", str(other))[2]
    assert credentials.read(other).name == "bob"
    assert [user.name for user in bus_keys.clients(tmp_path / "data")] == ["bob"]


def test_a_printed_key_is_a_key_file(tmp_path: Path) -> None:
    adding = ("add", "zoe", "--role", "admin", "--output", "-")
    made = subprocess.run(
        [sys.executable, "-m", "cli", "keys", "--data", str(tmp_path), *adding],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    path = tmp_path / "k"
    path.write_bytes(made.stdout)
    path.chmod(0o600)
    assert credentials.read(path).name == "zoe"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "alice", "--role", "reader"), "there is a key of the name alice already"),
        (("add", ".server", "--role", "admin"), "no name of a key"),
        (("add", "a/b", "--role", "admin"), "no name of a key"),
        (("add", "", "--role", "admin"), "no name of a key"),
        (("add", "ü", "--role", "admin"), "no name of a key"),
        (("add", "x" * 65, "--role", "admin"), "no name of a key"),
        (("remove", ".http"), "no name of a key"),
        (("remove", "nobody"), "no key of the name nobody"),
        (("add", "bob", "--role", "reader", "--output", "/nowhere/k"), "cannot write /nowhere/k"),
    ],
)
def test_wrong_input(keys: Run, arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    keys("add", "alice", "--role", "reader", "--output", str(tmp_path / "first"))
    before = bus_keys.users(tmp_path / "data")
    code, out, err = keys(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert bus_keys.users(tmp_path / "data") == before
    assert list((tmp_path / "here").iterdir()) == []  # no key file of a key that is none


@pytest.mark.parametrize(
    "arguments", [("add",), ("add", "a"), ("add", "a", "--role", "king"), ("remove",), ("list",)]
)
def test_what_argparse_refuses(keys: Run, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        keys(*arguments)
    assert stop.value.code == 2


def test_a_file_that_others_may_read(keys: Run, tmp_path: Path) -> None:
    keys("add", "alice", "--role", "reader")
    key_file.path_of(tmp_path / "data").chmod(0o644)
    for arguments in ((), ("add", "bob", "--role", "reader"), ("remove", "alice")):
        code, out, err = keys(*arguments)
        assert (code, out) == (2, "")
        assert "chmod 600" in err
    assert not Path("bob.wattbus-key").exists()


def test_the_data_directory_may_be_named_after_the_verb(tmp_path: Path) -> None:
    there = ["--data", str(tmp_path / "data")]
    output = ["--output", str(tmp_path / "k")]
    assert main(["keys", "add", "alice", "--role", "reader", *there, *output]) == 0
    assert main(["keys", "remove", *there, "alice"]) == 0
    assert bus_keys.clients(tmp_path / "data") == []


def test_every_client_command_takes_a_key(make_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """Beyond loopback: 0.0.0.0 is reached at 127.0.0.1 too, and wants a key there as well."""
    stack = make_stack("--address", "0.0.0.0")
    path = tmp_path / "boss.wattbus-key"
    made = ("add", "boss", "--role", "admin", "--output", str(path))
    assert main(["keys", "--data", str(stack.data), *made]) == 0
    wattbus = [sys.executable, "-m", "cli"]

    def run(*arguments: str, key: Path | None = None, **environment: str) -> tuple[int, str]:
        flags = ["--key-file", str(key)] if key else []
        ended = subprocess.run(
            [*wattbus, *arguments, *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            input="ping\n",
            timeout=60,
            env=os.environ | environment,
        )
        return ended.returncode, ended.stdout + ended.stderr

    there = ("--query", stack.query)
    assert run("ping", *there, key=path)[0] == 0
    assert run("ping", *there, WATTBUS_KEY=str(path))[0] == 0
    code, said = run("repl", *there, key=path)
    assert code == 0, said
    code, said = run("ping", *there)
    assert code == 2
    assert "wants a key" in said
    assert "Traceback" not in said
    code, said = run("repl", *there)
    assert "wants a key" in said
    code, said = run("watch", "kitchen", "--live", stack.live)
    assert (code, "wants a key" in said) == (2, True), said
    code, said = run("ping", *there, key=tmp_path / "none")
    assert (code, "cannot read the key file" in said) == (2, True), said
    watching = subprocess.Popen(
        [*wattbus, "watch", "kitchen", "--live", stack.live, "--key-file", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        for number in range(200):
            stack.send(b'{"meter":"kitchen","registers":{"energy_import":%d}}' % number)
            if select.select([watching.stdout], [], [], 0.1)[0]:
                assert "energy_import" in watching.stdout.readline()
                break
        else:
            raise AssertionError("nothing was heard")
    finally:
        watching.terminate()
        watching.wait(60)
        assert watching.stdout is not None
        watching.stdout.close()
