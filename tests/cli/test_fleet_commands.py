"""The commands about all meters, the storage and deletion, against a whole collector."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from cli import fleet, render
from query import messages as m
from tests.conftest import ROOT, Stack
from tests.query.feeding import DAY, HOUR, at, constant, feed, running

MARCH = at("2024-03-01")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("fleet")) as shared:
        feed(shared, "site-1/oven", constant(MARCH, MARCH + 2 * DAY, watts=3000, step=HOUR))
        feed(shared, "site-1/lamp", constant(MARCH, MARCH + 2 * DAY, watts=1000, step=HOUR))
        feed(shared, "site-2/pump", constant(MARCH + DAY, MARCH + 3 * DAY, watts=500, step=HOUR))
        with shared.client() as client:
            client.set_name("site-1/oven", "The oven")
        yield shared


def asked(stack: Stack, *words: str) -> Any:
    done = stack.cli(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout, parse_float=Decimal)


def refused(stack: Stack, *words: str) -> str:
    done = stack.cli(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


RANGE = ("--from", "2024-03-01", "--to", "2024-04-01")


def test_fleet(stack: Stack) -> None:
    rows = asked(stack, "fleet", *RANGE)
    assert rows == [
        {"period": "2024-03-01", "kwh": "96.000", "meters": 2, "flags": []},
        {"period": "2024-03-02", "kwh": "108.000", "meters": 3, "flags": []},
        {"period": "2024-03-03", "kwh": "12.000", "meters": 1, "flags": []},
    ]
    assert asked(stack, "fleet", "--by", "month", *RANGE) == [
        {"period": "2024-03", "kwh": "216.000", "meters": 3, "flags": []}
    ]
    cut = asked(stack, "fleet", "--from", "2024-03-02", "--to", "2024-03-03", "--prefix", "site-1/")
    assert cut == [{"period": "2024-03-02", "kwh": "96.000", "meters": 2, "flags": []}]


def test_fleet_for_people_and_spreadsheets(stack: Stack) -> None:
    table = stack.cli("fleet", *RANGE).stdout.splitlines()
    assert table[0].split() == ["day", "kWh", "meters"]
    assert table[3].split() == ["2024-03-02", "108.000", "3"]
    lines = stack.cli("fleet", "--by", "month", *RANGE, "--csv").stdout.splitlines()
    assert lines == ["period,kwh,meters,flags", "2024-03,216.000,3,"]
    assert "no meter consumed anything" in stack.cli("fleet", "--from", "2024-04-01").stdout


def test_top(stack: Stack) -> None:
    found = asked(stack, "top", "2", *RANGE)
    assert (found["first"], found["last"]) == ("2024-03-01", "2024-03-31")
    assert (found["kwh"], found["meters"]) == ("216.000", 3)
    oven, lamp = found["top"]
    expected = {"rank": 1, "id": "site-1/oven", "name": "The oven", "kwh": "144.000"}
    assert oven == expected | {"share_percent": "66.67"}
    assert (lamp["id"], lamp["name"], lamp["share_percent"]) == ("site-1/lamp", None, "22.22")
    lines = stack.cli("top", *RANGE, "--csv").stdout.splitlines()
    assert lines[0] == "rank,id,name,kwh,share_percent"
    assert lines[3] == "3,site-2/pump,,24.000,11.11"
    table = stack.cli("top", *RANGE).stdout.splitlines()
    assert table[2].split() == ["1", "site-1/oven", "The", "oven", "144.000", "66.67", "%"]


def test_storage(stack: Stack) -> None:
    found = asked(stack, "storage")
    assert found["values"] == found["sealed"] + found["unsealed"] == 3 * 49
    assert found["octets"] > 0
    assert (found["oldest"], found["newest"]) == (
        "2024-03-01T00:00:00+00:00",
        "2024-03-04T00:00:00+00:00",
    )
    assert found["retention"] == []
    shown = stack.cli("storage").stdout
    assert "values stored" in shown
    assert "MiB" in shown


def test_what_will_be_thinned() -> None:
    reply = m.Storage(
        octets=1 << 21,
        meters=64,
        sealed=1_000_000,
        unsealed=0,
        octets_a_value=2.1,
        journal_rows=0,
        blocks=100,
        oldest_ms=MARCH,
        newest_ms=MARCH + DAY,
        retention=[
            m.Thinning("15m", 90 * DAY, 64, 2, MARCH, None),
            m.Thinning("nothing", 3650 * DAY, 64, 0, None, MARCH + DAY),
        ],
    )
    out = io.StringIO()
    render.write(fleet.storage_answer(reply), render.Style.PEOPLE, out)
    assert "after 90 days one reading a 15m, of 64 meters: now, of 2 of them" in out.getvalue()
    assert "after 3650 days nothing, of 64 meters: next on 2024-03-02 00:00:00" in out.getvalue()
    out = io.StringIO()
    render.write(fleet.storage_answer(reply), render.Style.JSON, out)
    first, _ = json.loads(out.getvalue())["retention"]
    assert (first["keep"], first["age_days"], first["next"]) == ("15m", 90, None)


def test_what_makes_no_sense(stack: Stack) -> None:
    assert "not included" in refused(stack, "fleet", "--from", "2024-03-02", "--to", "2024-03-02")
    assert "write year, month and day" in refused(stack, "fleet", "--from", "March")
    assert "1 to 1000" in refused(stack, "top", "0")
    assert "1 to 1000" in refused(stack, "top", "many")
    assert "there is no meter" in refused(stack, "meters", "delete", "nobody", "--yes")
    assert "ends on" in refused(stack, "top", "--from", "2199-12-31")


def test_a_deletion_without_a_terminal_wants_yes(stack: Stack) -> None:
    feed(stack, "first", [(MARCH, 1)])
    assert "--yes" in refused(stack, "meters", "delete", "first")
    assert "first" in stack.cli("meters").stdout
    assert asked(stack, "meters", "delete", "first", "--yes") == {"id": "first", "deleted": True}
    assert "first" not in stack.cli("meters").stdout


def typed(stack: Stack, text: str, *words: str) -> tuple[int, str]:
    """What a command said, with a terminal at its input on which somebody types."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, text.encode())
        done = subprocess.run(
            [sys.executable, "-m", "cli", *words, "--query", stack.query],
            cwd=ROOT,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout + done.stderr


def test_a_deletion_at_a_terminal_wants_the_id(stack: Stack) -> None:
    feed(stack, "second", [(MARCH, 1)])
    for answer in ("yes\n", "\n", "\x04", "Second\n"):
        code, said = typed(stack, answer, "meters", "delete", "second")
        assert code == 2
        assert "nothing was removed" in said
    assert asked(stack, "latest", "second")
    code, said = typed(stack, "second\n", "meters", "delete", "second", "--csv")
    assert code == 0
    assert "This removes second and every reading of it for ever. Its id: " in said
    assert said.splitlines()[:2] == ["id,deleted", "second,true"]
    assert "there is no meter" in refused(stack, "latest", "second")


def test_in_the_repl(stack: Stack) -> None:
    feed(stack, "third", [(MARCH, 1)])
    lines = "use third\nmeters delete\nmeters delete --yes\ntop 1 --from 2024-03-01 --csv\nlatest\n"
    done = stack.cli("repl", stdin=lines)
    assert done.returncode == 2
    assert "say so with --yes" in done.stderr
    assert "1,site-1/oven" in done.stdout
    assert "there is no meter 'third'" in done.stderr
