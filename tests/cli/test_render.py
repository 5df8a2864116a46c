"""One answer as a table, as JSON and as CSV; replies as answers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from cli import answers, render, status
from cli.render import Answer, Column, Record, Style
from query import messages as m

START = 1711843200000  # 2024-03-30T21:00:00-03:00
SAO_PAULO = "America/Sao_Paulo"


class Window(io.StringIO):
    """A terminal; rich asks the environment for its size."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")


def written(answer: Answer, style: Style = Style.PEOPLE) -> str:
    out = io.StringIO()
    render.write(answer, style, out)
    return out.getvalue()


def in_window(answer: Answer, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "20")
    out = Window()
    render.write(answer, Style.PEOPLE, out)
    return out.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()


def history(*wh: int) -> m.History:
    starts = [START + n * 3_600_000 for n in range(len(wh))]
    return m.History(
        id="kitchen",
        time_zone=SAO_PAULO,
        step="hour",
        start_ms=starts,
        end_ms=[start + 3_600_000 for start in starts],
        wh=list(wh),
        flags=[["estimated", "arrival_time"] if n == 0 else [] for n in range(len(wh))],
        next=None,
    )


def total(wh: int = 21_927_130, start_ms: int | None = START) -> m.Total:
    return m.Total(
        id="kitchen",
        time_zone=SAO_PAULO,
        wh=wh,
        start_ms=start_ms,
        end_ms=None if start_ms is None else start_ms + 1,
        flags=[],
    )


def bill(price: str, amount: str) -> m.Bill:
    return m.Bill(
        id="kitchen",
        time_zone=SAO_PAULO,
        start_ms=START,
        end_ms=START + 86_400_000,
        wh=33_809_000,
        estimated_wh=1,
        complete=False,
        price=Decimal(price),
        currency="R$",
        amount=Decimal(amount),
        flags=["partial"],
    )


def meter(**settings: Any) -> m.MeterInfo:
    fields: dict[str, Any] = {
        "id": "kitchen",
        "name": None,
        "time_zone": None,
        "limit_wh": None,
        "reported_limit_wh": None,
        "price": None,
        "modulus_wh": None,
        "max_power_w": None,
        "created_ms": START,
        "time_zone_in_force": SAO_PAULO,
        "limit_wh_in_force": 500_000,
        "price_in_force": Decimal("0.50"),
    }
    return m.MeterInfo(**(fields | settings))


def test_history_in_json_is_a_list_of_objects() -> None:
    assert json.loads(written(answers.history([history(1234, 5)]), Style.JSON)) == [
        {
            "start": "2024-03-30T21:00:00-03:00",
            "end": "2024-03-30T22:00:00-03:00",
            "kwh": "1.234",
            "flags": ["estimated", "arrival_time"],
        },
        {
            "start": "2024-03-30T22:00:00-03:00",
            "end": "2024-03-30T23:00:00-03:00",
            "kwh": "0.005",
            "flags": [],
        },
    ]


def test_an_empty_list() -> None:
    nothing = answers.history([history()])
    assert written(nothing, Style.JSON) == "[]\n"
    assert written(nothing, Style.CSV) == "start,end,kwh,flags\n"
    assert written(nothing) == "there is no consumption in this range\n"


def test_history_in_csv() -> None:
    rows = list(csv.reader(io.StringIO(written(answers.history([history(1234)]), Style.CSV))))
    assert rows == [
        ["start", "end", "kwh", "flags"],
        [
            "2024-03-30T21:00:00-03:00",
            "2024-03-30T22:00:00-03:00",
            "1.234",
            "estimated arrival_time",
        ],
    ]


@pytest.mark.parametrize("style", [Style.CSV, Style.JSON])
def test_what_was_asked_for_is_written_before_more_is_asked(style: Style) -> None:
    out = io.StringIO()

    def pages() -> Iterator[m.History]:
        for number in count():
            assert out.getvalue().count("1.000") == 500 * number
            if number == 4:
                return
            yield history(*[1000] * 500)

    render.write(answers.history(pages()), style, out)
    assert out.getvalue().count("1.000") == 2000


def test_a_window_full_of_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "15")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    out = Window()
    asked = iter([True, False])
    answer = answers.history([history(*[1000] * 100)])
    render.write(answer, Style.PEOPLE, out, lambda: next(asked))
    assert out.getvalue().count("1.000") == 22
    assert next(asked, None) is None


def test_total() -> None:
    assert json.loads(written(answers.total(total()), Style.JSON)) == {
        "id": "kitchen",
        "kwh": "21927.130",
        "start": "2024-03-30T21:00:00-03:00",
        "end": "2024-03-30T21:00:00.001000-03:00"[:23] + "-03:00",
        "flags": [],
    }
    assert "21,927.130" in written(answers.total(total()))


def test_a_total_of_nothing() -> None:
    document = json.loads(written(answers.total(total(0, None)), Style.JSON))
    assert (document["kwh"], document["start"], document["end"]) == ("0.000", None, None)


def test_latest_is_an_object_by_obis_code_with_exact_numbers() -> None:
    value = m.LatestValue(
        obis="1-0:32.7.0",
        name="voltage_l1",
        unit="V",
        raw=230_100,
        scaler=-3,
        time_ms=START,
        flags=[],
    )
    answer = answers.latest(m.Latest(id="kitchen", time_zone=SAO_PAULO, registers=[value]))
    text = written(answer, Style.JSON)
    assert json.loads(text, parse_float=Decimal) == {
        "1-0:32.7.0": {
            "name": "voltage_l1",
            "value": Decimal("230.100"),
            "unit": "V",
            "time": "2024-03-30T21:00:00-03:00",
            "flags": [],
        }
    }
    assert "230.100" in text
    assert "voltage l1" in written(answer)


def test_latest_of_nothing_is_an_empty_object() -> None:
    answer = answers.latest(m.Latest(id="kitchen", time_zone=SAO_PAULO, registers=[]))
    assert json.loads(written(answer, Style.JSON)) == {}
    assert written(answer) == "kitchen has sent no readings yet\n"


@pytest.mark.parametrize(
    ("price", "amount", "shown"),
    [
        ("0.50", "16904.50", "R$ 16904.50"),
        ("0.5", "3", "R$ 3.00"),
        ("0.12345678", "1.00", "R$ 0.12345678"),
    ],
)
def test_bill(price: str, amount: str, shown: str) -> None:
    answer = answers.bill(bill(price, amount))
    document = json.loads(written(answer, Style.JSON))
    assert (document["kwh"], document["price"], document["amount"]) == ("33809.000", price, amount)
    assert document["currency"] == "R$"
    assert document["complete"] is False
    assert shown in written(answer)


def test_meters_say_what_is_in_force_and_what_was_set() -> None:
    found = meter(limit_wh=250_500, limit_wh_in_force=250_500, max_power_w=13_800, name="K")
    (document,) = json.loads(written(answers.meters([found], ""), Style.JSON))
    assert document["limit_kwh"] == "250.500"
    assert document["max_power_kw"] == "13.800"
    assert document["modulus_kwh"] is None
    assert document["set"] == ["name", "limit", "max_power"]
    assert document["time_zone"] == SAO_PAULO


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 120, 200])
def test_tables_fit_the_window(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [meter(id="a-meter-with-a-long-name", name="The kitchen of the house"), meter()]
    for answer in (answers.meters(found, ""), answers.history([history(1234, 10**9)])):
        lines = in_window(answer, width, monkeypatch)
        assert max(map(len, lines)) <= width


def test_a_narrow_window_loses_what_matters_least(monkeypatch: pytest.MonkeyPatch) -> None:
    head = in_window(answers.history([history(1234)]), 200, monkeypatch)[0].split()
    assert head == ["from", "to", "kWh", "notes"]
    lines = in_window(answers.history([history(1234)]), 40, monkeypatch)
    assert lines[0].split() == ["from", "kWh"]
    assert "2024-03-30 21:00:00-03:00" in lines[2]
    assert "1.234" in lines[2]


def test_a_pipe_gets_everything_on_one_line_without_colours() -> None:
    text = written(answers.meters([meter(id="m" * 36, name="n" * 200)], ""))
    assert "n" * 200 in text
    assert "\x1b" not in text


def test_no_name_steers_the_terminal_or_is_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[Record] = [{"name": "\x1b[2J[red]\nx"}]
    (_, _, line) = in_window(Answer((Column("name", "name"),), records), 80, monkeypatch)
    assert line.strip() == "\ufffd[2J[red]\ufffdx"


def collector(writer: m.WriterStatus | None) -> m.Status:
    return m.Status(
        version="0.1.0",
        now_ms=START + 10_000,
        started_ms=START,
        meters=5,
        readings=1_234_567,
        database_octets=3 * 2**20,
        writer=writer,
    )


def writing() -> m.WriterStatus:
    listener = m.ListenerStatus(
        address="udp://127.0.0.1:5001",
        format="native",
        accepted=1000,
        refused={"truncated": 3, "not_native": 2, "unknown": 0},
        kernel_drops=7,
        buffer_octets=4_194_304,
        buffer_seconds=3.25,
    )
    receiver = m.ReceiverStatus(
        started_ms=START, reported_ms=START + 10_000, waiting=12, listeners=[listener]
    )
    return m.WriterStatus(
        started_ms=START, readings=2000, commits=10, commit_ms=0.75, receivers=[receiver]
    )


def test_status_says_what_was_lost_and_why() -> None:
    text = written(status.answer(collector(writing())))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    part = "udp://127.0.0.1:5001 native"
    for line in (
        "storage readings 1,234,567",
        "writer commits 10",
        f"{part} accepted 1,000 datagrams",
        f"{part} refused 5 datagrams",
        f"{part} refused: truncated 3 datagrams",
        f"{part} refused: not native 2 datagrams",
        f"{part} lost in the kernel 7 datagrams",
        f"{part} on average 100.5 datagrams/s",
        f"{part} buffer holds 3.25 s at the top rate",
    ):
        assert line in lines
    assert "refused: unknown" not in text


def test_status_in_json_is_the_reply() -> None:
    document = json.loads(written(status.answer(collector(writing())), Style.JSON))
    assert document["writer"]["receivers"][0]["listeners"][0]["refused"]["truncated"] == 3


def test_status_without_a_writer() -> None:
    assert "away" in written(status.answer(collector(None)))
    assert status.received(collector(None)) == 0
    assert status.received(collector(writing())) == 1005
