"""The grammar of the line protocol: the reference's own cases, and octets that nobody sends."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.datagrams import Datagrams, Decoded
from telemetry.formats import line
from telemetry.formats.line_fields import PRECISIONS
from telemetry.formats.line_text import Field, Point, lines
from telemetry.formats.options import LineOptions, Options
from tests.telemetry.rings import open_gate

CORPUS = json.loads(
    (Path(__file__).parents[1] / "vectors/line/corpus.json").read_text(encoding="utf-8")
)["cases"]
ARRIVAL = 1_795_428_900_000
OPEN = open_gate()
LINE_REASONS = {
    "oversized",
    "malformed",
    "meter_id",
    "not_allowed",
    "unsigned",
    "no_reading",
    "value",
}
NEVER = 10**9  # lines: none is taken in bulk
fair = settings(deadline=None)  # other tests may keep this machine busy


def decode(datagrams: list[bytes], fewest: int = 1, **options: Any) -> Decoded:
    """What a listener takes from anybody; all usual lines in bulk."""
    decoder = line.decoder(Options(LineOptions(**options)), fewest)
    return decoder(Datagrams.of(datagrams), ARRIVAL, OPEN)


def octets_of(text: str | dict[str, str]) -> bytes:
    return text.encode() if isinstance(text, str) else base64.b64decode(text["binary"])


def typed(field: Field) -> dict[str, object]:
    """A field's value as the corpus tells it; floats as the nearest one of 64 bits."""
    value = field.value
    if isinstance(value, bool | str):
        return {"bool" if isinstance(value, bool) else "string": value}
    if isinstance(value, int):
        return {"uint" if field.unsigned else "int": value}
    return {"float": float(value)}


def told(point: Point, unit: int, arrival: int) -> dict[str, object]:
    """A point as the corpus tells it, ``unit`` ns being that of its time."""
    instant = arrival // unit if point.time is None else point.time
    return {
        "time": instant * unit,
        "name": point.measurement,
        "tags": [{"key": key, "value": point.tags[key]} for key in sorted(point.tags)],
        "fields": [{"key": field.key, "value": typed(field)} for field in point.fields],
    }


@pytest.mark.parametrize("case", CORPUS, ids=[case["input"]["key"][:8] for case in CORPUS])
def test_the_reference_s_cases_give_its_points(case: dict[str, Any]) -> None:
    given = case["input"]
    unit = PRECISIONS[given["precision"].removeprefix("1").replace("µ", "u")]
    found = list(lines(octets_of(given["text"])))
    if "error" in case["output"]:
        assert any(one.point is None for one in found)
        return
    points = [told(one.point, unit, given["defaultTime"]) for one in found if one.point]
    assert len(points) == len(found)
    expected = case["output"]["result"]
    for point in expected:
        point["tags"].sort(key=lambda tag: tag["key"])
    assert points == expected


def test_the_reference_s_cases_are_all_there() -> None:
    assert len(CORPUS) == 120
    assert sum("error" in case["output"] for case in CORPUS) == 53


GOOD = b"""m,id=a power=1
m,id=a,x=\\ y x="a
b",power=1 5
# power

m,id=b power=2i 1795428900000000000
"""


@pytest.mark.parametrize("cut", range(len(GOOD) + 1))
def test_a_datagram_cut_anywhere_keeps_the_lines_before_the_cut(cut: int) -> None:
    whole = sum(one.end <= cut for one in lines(GOOD))
    for fewest in (1, NEVER):
        tally = decode([GOOD[:cut]], fewest).tally
        assert tally.accepted in (whole, whole + 1)  # what is left may be a line too
        assert tally.accepted + tally.refused.total() in (max(whole, 1), whole + 1)


def test_wrong_lines_leave_the_others_of_the_datagram_alone() -> None:
    text = b'm,id=a power=1\nwrong\nm,id=b power=2\nm,id=c power="\nm,id=d power=3\n'
    decoded = decode([text])
    assert decoded.readings.value.tolist() == [10, 20]
    # The string that is never closed takes what is left.
    assert decoded.tally.refused == {"malformed": 2}


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"# a comment", b" \r\n\n#x\r\n", b"\n" * 1000], ids=repr
)
def test_a_datagram_that_says_nothing_counts_once(text: bytes) -> None:
    assert decode([text]).tally.refused == {"no_reading": 1}
    assert decode([text, b"m,id=a power=1\n" + text, text]).tally.refused == {"no_reading": 2}


@fair
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_any_octets_are_taken_or_counted(datagrams: list[bytes]) -> None:
    decoded = decode(datagrams)
    assert decoded.tally.accepted == len(decoded.envelopes)
    assert decoded.tally.accepted + decoded.tally.refused.total() >= len(datagrams)
    assert {reason.value for reason in decoded.tally.refused} <= LINE_REASONS


MOST = line.LONGEST
MOST_MEMORY = 16 << 20  # octets, of the longest datagram


def repeated(make: Callable[[int], bytes]) -> bytes:
    """As many of them as one datagram carries, each with its own number."""
    parts, size = [], 0
    for number in range(MOST):
        part = make(number)
        size += len(part)
        if size > MOST:
            break
        parts.append(part)
    return b"".join(parts)


HOSTILE = {
    "quotes": b'a b="' * (MOST // 5),
    "a quote that is never closed": b'a b="' + b"c" * (MOST - 5),
    "backslashes in it": b'a b="' + b"\\" * (MOST - 5),
    "a quote a line": b'a b="\n' * (MOST // 6),
    "a quoted field a line": b'm,id=a power=1,b=""\n' * (MOST // 20),
    "spaces": b" " * MOST,
    "spaces in between": b"a" + b" " * (MOST - 4) + b"b=1",
    "spaces behind": b"a b=1" + b" " * (MOST - 5),
    "backslashes": b"\\" * MOST,
    "backslashes and spaces": b"\\ " * (MOST // 2),
    "commas": b"," * MOST,
    "equal signs": b"a " + b"=" * (MOST - 2),
    "newlines": b"\n" * MOST,
    "carriage returns": b"\r" * MOST,
    "digits": b"a,id=a power=" + b"9" * (MOST - 13),
    "noughts": b"a,id=a power=" + b"0" * (MOST - 14) + b"i",
    "digits behind a point": b"a,id=a power=." + b"9" * (MOST - 14),
    "an exponent": b"a,id=a power=1e" + b"9" * (MOST - 15),
    "an exponent of noughts": b"a,id=a power=1e" + b"0" * (MOST - 15),
    "a less than nothing": b"a,id=a power=1e-" + b"9" * (MOST - 16),
    "a time": b"a,id=a power=1 " + b"1" * (MOST - 15),
    "a time of noughts": b"a,id=a power=1 " + b"0" * (MOST - 15),
    "tags": b"a" + repeated(lambda n: b",t%d=1" % n)[: MOST - 9] + b" power=1",
    "the same tag": b"a" + b",t=1" * (MOST // 4),
    "fields": b"a,id=a " + repeated(lambda n: b"f%d=1," % n)[: MOST - 15] + b"power=1",
    "the same field": b"a,id=a power=1" + b",power=1" * ((MOST - 14) // 8),
    "short lines": b"a b=1\n" * (MOST // 6),
    "shapes": repeated(lambda n: b"a,id=a " + b"b=1," * (n % 100) + b"power=1\n"),
    "keys": repeated(lambda n: b"a,id=a k%d=1\n" % n),
    "long ids": repeated(lambda n: b"a,id=%017d pf=1\n" % n),
    "quotes and lines": repeated(lambda n: b'a b="%s\n' % (b'"' * (n % 3))),
    "comments": b"#\n" * (MOST // 2),
    "octets of UTF-8": b"\xc3" * MOST,
    "nul": bytes(MOST),
}


# As a bridge writes them, so many as fit in.
ORDINARY = repeated(
    lambda n: b"power,id=m%d value=%d,voltage=230.1 17954289%02d000000000\n" % (n % 50, n, n % 60)
)


def seconds(text: bytes, fewest: int) -> float:
    """Of the processor."""
    began = time.thread_time()
    decode([text], fewest)
    return time.thread_time() - began


def takes_long(text: bytes, fewest: int) -> bool:
    """Whether it does beside what a bridge sends; three times, where other work seems to disturb.

    Lines of the shortest kind are ten times as many as those of a bridge.
    """
    return all(seconds(text, fewest) > 15 * seconds(ORDINARY, NEVER) for _ in range(3))


@pytest.mark.parametrize("fewest", [24, NEVER])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_datagram_takes_long_or_much(name: str, fewest: int) -> None:
    text = HOSTILE[name]
    assert len(text) <= MOST
    assert not takes_long(text, fewest)
    tracemalloc.start()
    decoded = decode([text], fewest)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MOST_MEMORY
    assert decoded.tally.accepted + decoded.tally.refused.total() >= 1
