"""docs/formats.md, "InfluxDB line protocol", held to the code."""

from __future__ import annotations

import ast
import re
import tomllib
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from cli.config import Config
from telemetry.admission import LOOPBACK, Allowed, Gate
from telemetry.datagrams import Datagrams, Decoded
from telemetry.formats import line
from telemetry.formats.line_fields import PRECISIONS, USUAL, Fields
from telemetry.formats.options import LineOptions, Options
from telemetry.formats.table import FORMATS
from telemetry.keys import KeyRing
from telemetry.registers import BY_NAME
from telemetry.rejects import Reason
from tests.telemetry.rings import KEYS, MASTER, ring_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "formats.md").read_text("utf-8").split("## InfluxDB line protocol\n")[1]
PAGE = re.split(r"^## ", PAGE, flags=re.M)[0]
GATE = Gate(Allowed(LOOPBACK), KeyRing.empty())
NOW = 1_795_428_900_000


def table(first: str) -> list[list[str]]:
    """The rows of the table whose first heading is ``first``."""
    found = []
    for row in PAGE.split(f"| {first} |", 1)[1].splitlines()[2:]:
        if not row.startswith("|"):
            break
        found.append([cell.strip() for cell in row.strip("|").split(" | ")])
    return found


def decoded(text: str | bytes, gate: Gate = GATE, name: str = "line") -> Decoded:
    octets = text if isinstance(text, bytes) else text.encode()
    return FORMATS[name].decoder(Options())(Datagrams.of([octets]), NOW, gate)


def test_usual_fields() -> None:
    said: dict[str, str] = {}
    for fields, register, unit in table("usual field"):
        said |= dict.fromkeys(re.findall(r"`(\w+)`", fields), register.strip("`"))
        assert BY_NAME[register.strip("`")].unit == unit.strip("-")
    assert said == USUAL
    fields_ = Fields(LineOptions())
    for name, register in said.items():
        for written in (name, name.upper()):
            found = fields_.target(written)
            assert found
            assert found.register is BY_NAME[register]


def test_names_with_units() -> None:
    fields = Fields(LineOptions())
    told = {"energy_import", "1-0:1.8.0", "1.8.0", "power_W", "energy_import_kwh"}
    assert all(f"`{name}`" in PAGE for name in told)
    assert all(fields.target(name) for name in told)
    found = fields.target("energy_import_kwh")
    assert found
    assert found.raw(Decimal("1.5")) == 1500


def test_tags_and_precisions() -> None:
    tags = ", ".join(f"`{tag}`" for tag in LineOptions().meter[:-1])
    assert f"Of the tags {tags} and `{LineOptions().meter[-1]}`, in this order" in PAGE
    said = {unit.strip("`"): int(ns.replace(",", "")) for unit, ns in table("precision")}
    assert said == PRECISIONS


def test_sizes() -> None:
    assert f"up to {line.LONGEST:,} octets, which is all" in PAGE
    assert f"{FORMATS['auto'].longest:,} octets, and knows" in PAGE
    printable = {chr(start[0]) for start in FORMATS["line"].starts}
    assert printable == {chr(octet) for octet in range(33, 127)} - {"{"}


def test_every_reason_is_in_the_table_and_no_other() -> None:
    used = set()
    for path in (ROOT / "telemetry" / "formats").glob("line*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "Reason":
                used.add(Reason[node.attr])
    assert {Reason(row[0].strip("`")) for row in table("reason")} == used


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("m,meter=a energy_import=", Reason.MALFORMED),
        (b'm,meter=a energy_import=1,b="\xff"', Reason.MALFORMED),
        ("m,meter=a,meter=b energy_import=1", Reason.MALFORMED),
        ("m energy_import=1", Reason.METER_ID),
        ("m,meter=a\\ b energy_import=1", Reason.METER_ID),
        ("m,meter=boiler energy_import=1", Reason.UNSIGNED),
        ("m,meter=a colour=1", Reason.NO_READING),
        ("# nothing else", Reason.NO_READING),
        ("m,meter=a power=1,energy_import=-1", Reason.VALUE),
    ],
)
@pytest.mark.parametrize("name", ["line", "auto"])
def test_reasons(text: str | bytes, reason: Reason, name: str) -> None:
    found = decoded(text, Gate(Allowed(LOOPBACK), ring_of(KEYS, MASTER)), name)
    assert (found.tally.accepted, dict(found.tally.refused)) == (0, {reason: 1})


def test_the_example_line_is_read() -> None:
    example = PAGE.split("```\n", 1)[1].splitlines()[0]
    found = decoded(example)
    assert found.readings.value.tolist() == [12345, 7334]
    assert found.readings.time.tolist() == [NOW, NOW]


def test_the_configuration_of_the_page() -> None:
    text = next(part for part in re.findall(r"```toml\n(.*?)```", PAGE, re.S) if "8089\n" in part)
    (listener,) = msgspec.convert(tomllib.loads(text), Config).listeners
    assert all(good for _, good, _ in listener.complaints("x"))
    found = FORMATS["line"].decoder(listener.options("UTC"))(
        Datagrams.of([b"m,id=a total_kwh=1.5,Power\\ now=2"]), NOW, GATE
    )
    assert found.readings.value.tolist() == [1500, 20]


def test_what_auto_leaves_to_others() -> None:
    for octets in (
        b"\nm,meter=a power=1",
        b" m,meter=a power=1",
        "Zähler,meter=a power=1".encode(),
    ):
        assert decoded(octets).tally.accepted == 1
    assert decoded("éa,meter=a power=1", name="auto").tally.refused == {Reason.FOREIGN: 1}
    for octets in (b"\nm,meter=a power=1", b" m,meter=a power=1"):
        assert decoded(octets, name="auto").tally.refused == {Reason.MALFORMED: 1}
    assert decoded("SMA,meter=a power=1", name="auto").tally.accepted == 1
