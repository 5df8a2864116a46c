"""The REPL in a real terminal: what a person types, and what the screen shows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

from benchmarks.ports import free_port
from cli.monitor import Rate
from query import messages as m
from telemetry import meter_id
from telemetry.formats import native
from telemetry.registers import ENERGY_IMPORT, POWER_IMPORT
from tests.conftest import ROOT, Stack

START = 1709272800000  # 2024-03-01T06:00:00+00:00
QUARTER = 900_000
TAB, UP, CTRL_C, CTRL_D, RIGHT = "\t", "\x1b[A", "\x03", "\x04", "\x1b[C"


class Screen(pyte.Screen):
    """A screen that answers what programs ask a terminal."""

    def __init__(self, child: Any, columns: int, lines: int) -> None:
        self._child = child
        super().__init__(columns, lines)

    def write_process_input(self, data: str) -> None:
        self._child.send(data)


class Terminal:
    """``wattbus repl`` in a pty of a given size."""

    def __init__(self, endpoint: str, state: Path, columns: int = 100, lines: int = 60) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self._child = pexpect.spawn(
            sys.executable,
            ["-m", "cli", "repl", "--query", endpoint, "--timeout", "1.5"],
            cwd=str(ROOT),
            env=environment | {"TERM": "xterm-256color", "XDG_STATE_HOME": str(state)},
            dimensions=(lines, columns),
            encoding="utf-8",
        )
        self._screen = Screen(self._child, columns, lines)
        self._stream = pyte.Stream(self._screen)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def line(self) -> str:
        """The line with the cursor."""
        shown: str = self._screen.display[self._screen.cursor.y]
        return shown.rstrip()

    def type(self, text: str) -> None:
        self._child.send(text)

    def enter(self, text: str) -> None:
        self.type(f"{text}\r")

    def wait(self, *texts: str, within: float = 60.0) -> None:
        """Read until the screen shows all the texts."""
        self.wait_until(lambda: all(text in self.text for text in texts), within, texts)

    def wait_until(
        self, true: Callable[[], bool], within: float = 60.0, what: object = None
    ) -> None:
        deadline = time.monotonic() + within
        while not true():
            assert time.monotonic() < deadline, f"no {what} on\n{self.text}"
            try:
                self._stream.feed(self._child.read_nonblocking(65536, timeout=0.05))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                assert true(), f"it ended without {what}:\n{self.text}"

    def code(self) -> int | None:
        """The exit code, after it has ended by itself."""
        self._child.expect(pexpect.EOF, timeout=60)
        self._child.close()
        code: int | None = self._child.exitstatus
        return code

    def close(self) -> None:
        self._child.close(force=True)


Open = Callable[..., Terminal]


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Open]:
    terminals: list[Terminal] = []

    def open_one(endpoint: str, **size: int) -> Terminal:
        terminal = Terminal(endpoint, tmp_path / "state", **size)
        terminals.append(terminal)
        return terminal

    yield open_one
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def kitchen(stack: Stack) -> Stack:
    """A meter in São Paulo: four intervals of 0.250 kWh, 1 kW."""
    with stack.client() as client:
        client.register("kitchen", time_zone="America/Sao_Paulo")
    records = [
        native.Record(register, START + n * QUARTER, value)
        for n in range(5)
        for register, value in ((ENERGY_IMPORT, n * 250), (POWER_IMPORT, 10_000))
    ]
    stack.send(native.encode(meter_id.to_octets("kitchen"), 1, 1, records))
    stack.wait_for("kitchen", START + 4 * QUARTER)
    return stack


def test_a_first_session(kitchen: Stack, open_terminal: Open) -> None:
    terminal = open_terminal(kitchen.query)
    terminal.wait("`help` lists the commands", "wattbus>", "connected", "datagrams/s")

    terminal.type("met" + TAB)
    terminal.wait("wattbus> meters")
    terminal.type(CTRL_C)
    terminal.type("total kit" + TAB)
    terminal.wait("wattbus> total kitchen")
    terminal.type(" --fr" + TAB)
    terminal.wait("wattbus> total kitchen --from")
    terminal.type(CTRL_C)
    terminal.wait_until(lambda: terminal.line == "wattbus>", what="empty line")

    terminal.enter("total kitchen")
    terminal.wait("kWh    1.000", "2024-03-01 03:00:00-03:00")
    terminal.enter("help")
    terminal.wait("List the meters, or those whose ids start with PREFIX.", "(consumo atual)")
    terminal.type("\x0c")
    terminal.enter("help meters add")
    terminal.wait("usage: meters add", "--time-zone ZONE", "examples:")
    terminal.enter("totl kitchen")
    terminal.wait("'totl' is no command: did you mean total?")
    terminal.enter("total kitchen --nonsense")
    terminal.wait("total: error: unrecognized arguments: --nonsense")
    terminal.enter("1")
    terminal.wait("1 is about a meter: choose one with `use ID`")
    terminal.type(CTRL_D)
    assert terminal.code() == 0


def test_the_old_menu(kitchen: Stack, open_terminal: Open) -> None:
    terminal = open_terminal(kitchen.query)
    terminal.wait("wattbus>")
    terminal.enter("use nobody")
    terminal.wait("there is no meter 'nobody'")
    terminal.enter("use kitchen")
    terminal.wait(
        "1 current consumption (consumo atual)",
        "2 total consumption (consumo total)",
        "3 history of the current bill (histórico da fatura atual)",
        "4 value of the bill (valor da fatura)",
        "0 quit (sair)",
        "wattbus kitchen>",
    )
    terminal.enter("1")
    terminal.wait("0.250", "power now, W  1,000.0", "to            2024-03-01 04:00:00-03:00")
    terminal.enter("2")
    terminal.wait("1.000")
    terminal.enter("3")
    terminal.wait("2024-03-01 03:15:00-03:00   2024-03-01 03:30:00-03:00   0.250")
    terminal.enter("4")
    terminal.wait("R$ 0.50")
    terminal.type("\x0c")
    terminal.enter("latest")
    terminal.wait("energy import")
    terminal.enter("use")
    terminal.wait_until(lambda: terminal.line == "wattbus>", what="no meter in the prompt")
    terminal.enter("0")
    assert terminal.code() == 0


def test_a_meter_without_readings(stack: Stack, open_terminal: Open) -> None:
    with stack.client() as client:
        client.register("silent")
    terminal = open_terminal(stack.query)
    terminal.wait("wattbus>")
    terminal.enter("use silent")
    terminal.wait("wattbus silent>")
    terminal.enter("1")
    terminal.wait("silent has not sent two readings yet")
    terminal.enter("4")
    terminal.wait("has no energy readings to bill yet")


def test_long_lists_stop_at_each_window_full(kitchen: Stack, open_terminal: Open) -> None:
    terminal = open_terminal(kitchen.query, lines=8)
    terminal.wait("wattbus>")
    terminal.enter("readings kitchen")
    terminal.wait("-- Enter for more, q to stop --", "03:45:00")
    assert "04:00:00" not in terminal.text
    terminal.enter("")
    terminal.wait("04:00:00", "wattbus>")


def test_the_service_goes_and_comes_back(kitchen: Stack, open_terminal: Open) -> None:
    terminal = open_terminal(kitchen.query)
    terminal.wait("connected")
    kitchen.stop()
    terminal.wait(f"The service at {kitchen.query} is away.", "AWAY: no answer from")
    terminal.enter("total kitchen")
    terminal.wait("wattbus: no answer from", "is `wattbus serve` running there?")
    terminal.type("total kit" + TAB)  # nothing to propose, and nothing goes wrong
    time.sleep(1)
    terminal.type(CTRL_C)
    kitchen.start()
    terminal.wait(f"The service at {kitchen.query} is back.", "connected")
    terminal.enter("total kitchen")
    terminal.wait("kWh    1.000")
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("columns", [40, 120])
def test_windows(kitchen: Stack, open_terminal: Open, columns: int) -> None:
    terminal = open_terminal(kitchen.query, columns=columns)
    terminal.wait("connected")
    terminal.enter("history kitchen --step 15m")
    terminal.wait("2024-03-01 03:45:00-03:00", "kWh")
    rows = [line for line in terminal.text.splitlines() if line.startswith("2024-03-01")]
    assert len(rows) == 4
    assert all("0.250" in row for row in rows)
    assert ("2024-03-01 03:15:00-03:00   2024" in terminal.text) == (columns == 120)


def test_history_outlives_the_session(stack: Stack, open_terminal: Open) -> None:
    first = open_terminal(stack.query)
    first.wait("wattbus>")
    first.enter("ping --json")
    first.wait('"protocol": 1')
    first.type(CTRL_D)
    assert first.code() == 0

    second = open_terminal(stack.query)
    second.wait("wattbus>")
    second.type("pi")
    second.wait("wattbus> ping --json")  # a suggestion
    second.type(RIGHT)
    second.type("\r")
    second.wait('"protocol": 1')
    second.type(UP)
    second.wait_until(lambda: second.line == "wattbus> ping --json", what="the line before")


def test_without_a_service(open_terminal: Open) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    terminal = open_terminal(endpoint)
    terminal.wait(f"The service at {endpoint} is away. Is `wattbus serve` running?", "AWAY")
    terminal.enter("use kitchen")
    terminal.wait("wattbus: no answer from")
    terminal.enter("quit")
    assert terminal.code() == 0


def test_lines_from_a_pipe(kitchen: Stack) -> None:
    for lines, code, out, err in (
        ("total kitchen --csv\n", 0, "kitchen,1.000,", ""),
        ("# a comment\n\n  use kitchen\ntotal --csv\n", 0, "kitchen,1.000,", ""),
        ("total nobody\nping --csv", 2, "version,protocol", "there is no meter 'nobody'"),
        ("ping --csv\nnonsense\n", 2, "version,protocol", "'nonsense' is no command"),
        ("total 'kitchen\n", 2, "", "a quotation is not closed"),
        ("quit\ntotal nobody\n", 0, "", ""),
        ("help history\n", 0, "usage: history", ""),
        ("history --help\n", 0, "usage: history", ""),
        ("help history more\n", 2, "", "'history more' is no command"),
    ):
        done = kitchen.cli("repl", stdin=lines)
        assert done.returncode == code, lines
        assert out in done.stdout
        assert err in done.stderr
        assert bool(err) == bool(done.stderr)


def test_an_address_that_is_none() -> None:
    done = pexpect.run(
        f"{sys.executable} -m cli repl --query nonsense", cwd=str(ROOT), withexitstatus=True
    )
    assert done[1] == 2
    assert b"is no address such as tcp://127.0.0.1:5002" in done[0]


def reported(accepted: int, refused: int, ms: int) -> m.Status:
    listener = m.ListenerStatus("", "", accepted, {"truncated": refused}, 0, 0, None)
    receiver = m.ReceiverStatus(0, ms, 0, [listener])
    return m.Status("", 0, 0, 0, 0, 0, m.WriterStatus(0, 0, 0, 0.0, [receiver]))


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    rate = Rate()
    seen = []
    for status in (
        reported(100, 0, 1000),
        reported(100, 0, 1000),  # no newer report
        reported(150, 50, 2000),
        reported(150, 50, 2000),
        reported(0, 0, 3000),  # a new receiver
        reported(5, 0, 5000),
        reported(5, 0, 7000),
        reported(5, 0, 15000),
        m.Status("", 0, 0, 0, 0, 0, None),
    ):
        rate.update(status)
        seen.append(rate.value)
    assert seen == [None, None, 100.0, 100.0, 100.0, 2.5, 1.25, 0.0, None]
