"""``wattbus meters add`` and ``meters key`` against a whole collector, and what they leave."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from cli.repl import _History
from query import messages as m
from query.client import Client
from query.transport import BusError
from storage import key_file
from storage.changes import MOST_ADDED, RegisterMeter
from storage.engine import Database, close_writer, open_writer
from storage.meter_keys import Keys
from telemetry import meter_id
from telemetry.keys import KeyRing
from telemetry.security import derive
from tests.conftest import ROOT, Stack
from tests.query.feeding import refused
from tests.storage.test_meter_keys import secret_of, valid

LONG = "a-name-much-longer-than-sixteen-characters"
GIVEN = "0123456789abcdef0123456789ABCDEF"
FAR = 2**62


def asked(stack: Stack, *words: str) -> Any:
    done = stack.cli(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def ring_of(stack: Stack) -> KeyRing:
    """What a receiver knows now."""
    keys = Keys(stack.data)
    try:
        return keys.ring()
    finally:
        keys.close()


def secret(stack: Stack, id: str, key_id: int) -> str:
    return secret_of(ring_of(stack), meter_id.to_octets(id), key_id).hex()


def found_in_files(directory: Path, text: str) -> list[str]:
    """The files in which a secret stands, as octets or in hex."""
    octets = (bytes.fromhex(text), text.encode(), text.upper().encode())
    files = (file for file in directory.rglob("*") if file.is_file())
    return [file.name for file in files if any(each in file.read_bytes() for each in octets)]


def test_a_new_meter_gets_a_key_which_is_shown_with_what_to_do(stack: Stack) -> None:
    done = stack.cli("meters", "add", "kitchen", "--time-zone", "America/Chicago")
    assert done.returncode == 0, done.stderr
    key = secret(stack, "kitchen", 1)
    assert key in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("wattbus meter "))
    assert shlex.split(line)[:6] == ["wattbus", "meter", "--id", "kitchen", "--key", key]
    assert line.endswith(f" --to 127.0.0.1:{stack.udp_port}")
    assert "America/Chicago" in done.stdout
    # Derived: the file holds no secret of this meter.
    assert found_in_files(stack.data.parent, key) == []
    with key_file.opened(stack.data) as file:
        ((master,),) = file.execute("SELECT secret FROM master").fetchall()
    assert derive(master, meter_id.to_octets("kitchen"), 1).hex() == key
    assert found_in_files(stack.data.parent, master.hex()) == [key_file.NAME]


def test_what_is_left_without_a_key(stack: Stack) -> None:
    assert asked(stack, "meters", "add", "shed", "--unsigned")["key"] is None
    assert not key_file.exists(stack.data)
    done = stack.cli("meters", "add", "shed")  # it is there: its datagrams may be under way
    assert "meters add shed --new-key" in done.stdout
    assert asked(stack, "meters", "key", "shed") == []
    assert "shed has no key" in stack.cli("meters", "key", "shed").stdout
    made = asked(stack, "meters", "add", "shed", "--new-key", "--price", "0.75")
    assert made["key"] == secret(stack, "shed", 1)
    assert made["price"] == "0.75"
    assert asked(stack, "meters", "add", "shed", "--unsigned")["key_id"] is None
    assert len(ring_of(stack)) == 0
    assert asked(stack, "meters", "add", "shed", "--new-key")["key"] != made["key"]


def test_a_key_of_ones_own(stack: Stack) -> None:
    assert asked(stack, "meters", "add", "a", "--key", GIVEN)["key"] == GIVEN.lower()
    assert asked(stack, "meters", "add", "a", "--key", GIVEN)["key_id"] == 1
    assert secret(stack, "a", 1) == GIVEN.lower()
    done = stack.cli("meters", "add", "b", "--key", GIVEN)
    assert (done.returncode, done.stdout) == (2, "")
    assert "this key was used before" in done.stderr
    with stack.client() as client, refused("unknown_meter"):
        client.meter("b")
    # It is where it has to be, and nowhere else: not in the database, not in a log.
    assert found_in_files(stack.data.parent, GIVEN) == [key_file.NAME]


def test_rotating_and_revoking(stack: Stack) -> None:
    first = asked(stack, "meters", "add", LONG)["key"]
    done = stack.cli("meters", "key", LONG, "--rotate", "--overlap", "12h")
    second = secret(stack, LONG, 2)
    assert f"--id {LONG} --key {second} --key-id 2 --to" in done.stdout
    one, two = asked(stack, "meters", "key", LONG)
    assert (one["key_id"], one["state"], one["kind"]) == (1, "ending", "derived")
    assert (two["key_id"], two["state"], two["until"]) == (2, "in use", None)
    assert set(one) == {"key_id", "state", "kind", "since", "until"}
    octets = meter_id.to_octets(LONG)
    with stack.client() as client:
        listed = client.keys(LONG)
        assert listed.keys == client.keys(meter_id.to_name(octets)).keys
        assert listed.keys[0].until_ms == listed.keys[1].created_ms + 12 * 3_600_000
        assert valid(ring_of(stack), octets, 1, listed.now_ms)
        assert not valid(ring_of(stack), octets, 1, listed.keys[0].until_ms)
    shown = stack.cli("meters", "key", LONG)
    for key in (first, second):
        assert key not in shown.stdout + shown.stderr
    done = stack.cli("meters", "key", LONG, "--revoke")
    assert "locked out" in done.stdout
    assert [key["state"] for key in asked(stack, "meters", "key", LONG)] == ["ended", "ended"]
    assert not valid(ring_of(stack), octets, 2, listed.now_ms + 60_000)
    assert asked(stack, "meters", "key", LONG, "--rotate")["key_id"] == 3
    assert valid(ring_of(stack), octets, 3, FAR)


def test_a_deleted_meter_has_no_keys_and_no_old_ones_again(stack: Stack) -> None:
    first = asked(stack, "meters", "add", "kitchen")["key"]
    asked(stack, "meters", "delete", "kitchen", "--yes")
    assert len(ring_of(stack)) == 0
    assert asked(stack, "meters", "add", "kitchen")["key"] != first


def test_many_at_once(stack: Stack, tmp_path: Path) -> None:
    there = asked(stack, "meters", "add", "m-3", "--unsigned")
    assert there["key_id"] is None
    ids = [f"m-{number}" for number in range(MOST_ADDED + 20)] + [LONG]
    file = tmp_path / "ids.txt"
    file.write_text("\n".join([*ids, "", "m-1", "  m-2  ", ""]))
    rows = []
    for source, piped in ((str(file), None), ("-", file.read_text())):
        done = stack.cli("meters", "add", "--file", source, stdin=piped)
        assert (done.returncode, done.stderr) == (0, "")
        rows.append(list(csv.DictReader(io.StringIO(done.stdout))))
    assert rows[0] == rows[1], "within a minute the same keys are told again"
    assert [row["id"] for row in rows[0]] == ids
    keys = {row["id"]: row["key"] for row in rows[0]}
    assert keys.pop("m-3") == ""
    assert len(set(keys.values())) == len(ids) - 1
    ring = ring_of(stack)
    for name, key in keys.items():
        assert secret_of(ring, meter_id.to_octets(name), 1).hex() == key
    with stack.client() as client:
        assert client.meter(LONG).id == LONG
        assert client.status().meters == len(ids)
    (row,) = json.loads(stack.cli("meters", "add", "--file", "-", "--json", stdin="m-3\n").stdout)
    assert row == {"id": "m-3", "key_id": None, "key": None}
    (row,) = json.loads(
        stack.cli("meters", "add", "--file", "-", "--new-key", "--json", stdin="m-3\n").stdout
    )
    assert row["key"] == secret(stack, "m-3", 1)


def test_a_meter_that_came_under_its_uuid_is_registered_under_its_name(stack: Stack) -> None:
    seen = meter_id.to_name(meter_id.to_octets(LONG))
    with stack.client() as client:
        client.register(seen)
        (made,) = client.register_many([LONG], "missing")
        assert made.key is not None
        assert client.meter(seen).id == LONG
        both = client.register_many([LONG, seen.upper()])
        assert [each.key for each in both] == [made.key] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("meters add", "which meter? Give its ID, or --file FILE"),
        ("meters add x --unsigned --new-key", "exclude each other"),
        (f"meters add x --unsigned --key {GIVEN}", "exclude each other"),
        ("meters add x --file ids.txt", "leave out ID"),
        (f"meters add --file ids.txt --key {GIVEN}", "leave out ID"),
        ("meters add --file ids.txt --limit 5", "leave out ID"),
        ("meters add --file /nowhere/ids.txt", "cannot read /nowhere/ids.txt: No such file"),
        ("meters add --file /dev/null", "names no meter"),
        ("meters add --file BAD", ":3: 'a b' is no meter id"),
        ("meters key x --rotate --revoke", "exclude each other"),
        ("meters key x --overlap 1d", "goes with --rotate"),
    ],
)
def test_what_cannot_be_meant(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").write_text("a\n\na b\n")
    assert main(words.replace("BAD", str(tmp_path / "bad")).split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("key", ["", "zz", GIVEN[:-1], GIVEN + "0", GIVEN[:-2] + "0x", "ß" * 32])
def test_what_is_no_key_is_not_repeated(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["meters", "add", "x", "--key", key])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "this is no key: write 32 hexadecimal digits" in said
    assert len(key) < 3 or key not in said


@pytest.mark.parametrize("overlap", ["", "7", "d", "-1d", "1.5d", "367d", "1w", "９d"])
def test_what_is_no_overlap(overlap: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["meters", "key", "x", "--rotate", f"--overlap={overlap}"])
    assert stop.value.code == 2
    assert "is no overlap: write days" in capsys.readouterr().err


def test_what_the_service_refuses(stack: Stack) -> None:
    with stack.client() as client:
        for ask in (client.keys, client.rotate_key, client.revoke_keys):
            with refused("unknown_meter", "'nobody'"):
                ask("nobody")
            with refused("bad_request", "is no meter id"):
                ask("a b")
        client.register("plain")
        with refused("bad_request", "no key that could be revoked"):
            client.revoke_keys("plain")
        for key in ("second", GIVEN[:-1], ""):
            with refused("bad_request", "a key is 32 hex digits, or one of first, missing, none"):
                client.register_with_key("plain", key)
        for ids in ([], ["x"] * (MOST_ADDED + 1)):
            with refused("bad_request", f"ids are 1 to {MOST_ADDED}, not {len(ids)}"):
                client.register_many(ids)
        with refused("bad_request", "of many meters, key is one of"):
            client.register_many(["x"], GIVEN)
        with refused("bad_request", "is no meter id"):
            client.register_many(["good", "a b"])
        with refused("unknown_meter"):
            client.meter("good")  # nothing of the page was done
        with refused("bad_request", "overlap_ms is 0 to"):
            client.rotate_key("plain", overlap_ms=-1)


def test_a_key_file_that_goes_bad_is_said_and_repaired(stack: Stack) -> None:
    asked(stack, "meters", "add", "kitchen")
    path = key_file.path_of(stack.data)
    path.chmod(0o644)
    for words in (["add", "hall"], ["key", "kitchen"], ["key", "kitchen", "--revoke"]):
        done = stack.cli("meters", *words)
        assert done.returncode == 1
        assert "others may read the key file" in done.stderr
    with stack.client() as client:
        with refused("unknown_meter"):
            client.meter("hall")  # no meter without the key that was wanted
        with refused("unavailable", "its keys are left"):
            client.delete("kitchen")
        path.chmod(0o600)
        assert client.delete("kitchen").found is False
    assert len(ring_of(stack)) == 0


def test_nothing_shows_a_key_that_is_printed() -> None:
    made = m.MadeKey(id="kitchen", key_id=1, key=GIVEN)
    meter = RegisterMeter(id="kitchen", key=GIVEN)
    for shown in (made, m.MadeKeys(keys=[made]), meter, m.Change(change=meter)):
        assert GIVEN not in repr(shown)
        assert GIVEN not in f"{shown}"
    assert GIVEN not in repr(made.__rich_repr__())


def test_no_line_with_a_key_is_kept_in_the_history(tmp_path: Path) -> None:
    history = _History(str(tmp_path / "history"))
    for line in (f"meters add a --key {GIVEN}", f"meters add b --key={GIVEN}", "meters key a"):
        history.append_string(line)
    kept = (tmp_path / "history").read_text()
    assert GIVEN not in kept
    assert "meters key a" in kept


@pytest.mark.parametrize("part", ["serve", "receiver", "writer"])
def test_nothing_starts_with_a_key_file_that_others_may_read(tmp_path: Path, part: str) -> None:
    with key_file.opened(tmp_path / "data", create=True):
        pass
    key_file.path_of(tmp_path / "data").chmod(0o644)
    stack = Stack(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-m", "cli", part, "--data", str(stack.data), *stack.ports],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("others may read the key file") == 1
    assert "chmod 600" in done.stderr
    assert "listening" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_backup_says_where_the_keys_are_and_restoring_who_has_none(
    make_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    stack = make_stack()
    with stack.client() as client:
        client.register_many([f"m-{number}" for number in range(7)])
    file = tmp_path / "backup.sqlite3"
    elsewhere = tmp_path / "restored" / "data"

    def run(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cli", *map(str, words)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert f"keep a copy of {key_file.path_of(stack.data)}" in run(
        "backup", "--data", stack.data, file
    )
    with key_file.opened(stack.data) as keys:
        ((master,),) = keys.execute("SELECT secret FROM master").fetchall()
    assert master not in file.read_bytes()
    said = run("restore", file, "--data", elsewhere)
    assert "7 of 7 meters have no key" in said
    assert "m-0, m-1, m-2, m-3, m-4 and 2 more" in said
    elsewhere.joinpath("wattbus.sqlite3").unlink()
    key_file.path_of(elsewhere).write_bytes(key_file.path_of(stack.data).read_bytes())
    assert "others may read" in run("restore", "--force", file, "--data", elsewhere)
    key_file.path_of(elsewhere).chmod(0o600)
    assert "have no key" not in run("restore", "--force", file, "--data", elsewhere)
    assert key_file.NAME not in run("backup", "--data", make_empty(tmp_path), tmp_path / "b")


def make_empty(tmp_path: Path) -> Path:
    """A data directory without keys."""
    close_writer(open_writer(Database(tmp_path / "keyless")))
    return tmp_path / "keyless"


def test_killed_between_key_and_meter_the_answer_is_had_by_asking_again(stack: Stack) -> None:
    """The writer is killed at random while meters are added: each new one has a key, and tells."""
    import psutil

    assert stack.process is not None
    with Client(stack.query, timeout=1.0, tries=20) as client:
        told: dict[str, str | None] = {}
        for number in range(60):
            if number % 12 == 5:
                for child in psutil.Process(stack.process.pid).children():
                    with suppress(psutil.Error):
                        if "writer" in child.cmdline():
                            child.send_signal(signal.SIGKILL)
            name = f"k-{number}"
            while name not in told:
                with suppress(BusError):  # "the change may or may not be made: try again"
                    told[name] = client.register_with_key(name)[1].key
    ring = ring_of(stack)
    for name, key in told.items():
        assert key == secret_of(ring, meter_id.to_octets(name), 1).hex()
    assert not re.search(r"Traceback", stack.log.read_text())
