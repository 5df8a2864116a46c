"""Lines taken in bulk say what they say one by one, in whole numbers and fractions."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telemetry import meter_id
from telemetry.clock import plausible
from telemetry.datagrams import Datagrams, Decoded
from telemetry.formats import line
from telemetry.formats.line_bulk import take
from telemetry.formats.line_digits import ROOM
from telemetry.formats.line_fields import PRECISIONS, Fields
from telemetry.formats.line_marks import BEHIND, Marks
from telemetry.formats.line_text import Point, lines
from telemetry.formats.options import LineOptions, Options
from telemetry.readings import COLUMNS, Status
from telemetry.rejects import Reason
from tests.examples import examples
from tests.telemetry.test_line import ARRIVAL, CORPUS, NEVER, OPEN, octets_of

TAGS = ("meter", "id", "host")
REGISTERS = {"e": "energy_import kWh", "value": "power", "p": "power_export kW"}
NOISE = b',power=9 1\nm,id=behind power=3\n"'

Row = tuple[int, ...]  # in the order of readings.COLUMNS


def options(precision: str) -> LineOptions:
    return LineOptions(precision, TAGS, REGISTERS)


class Expected:
    """What datagrams say, line by line."""

    def __init__(self, datagrams: list[bytes], precision: str) -> None:
        self._fields, self._unit = Fields(options(precision)), PRECISIONS[precision]
        self.readings: list[Row] = []
        self.envelopes: list[Row] = []  # halves, how many readings, which datagram
        self.refused = Counter[Reason]()
        self.names: set[str] = set()
        for row, datagram in enumerate(datagrams):
            found = list(lines(datagram))
            reasons = [self._take(one.point, row) for one in found] or [Reason.NO_READING]
            self.refused.update(reason for reason in reasons if reason)

    def _take(self, point: Point | None, row: int) -> Reason | None:
        """Take the readings of a line, or tell why not."""
        if point is None:
            return Reason.MALFORMED
        instant = None if point.time is None else point.time * self._unit
        if instant is not None and not -(2**63) <= instant < 2**63:
            return Reason.MALFORMED
        name = next((point.tags[tag] for tag in TAGS if tag in point.tags), "")
        try:
            halves = meter_id.halves(meter_id.to_octets(name))
        except ValueError:
            return Reason.METER_ID
        values: dict[str, tuple[int, bool]] = {}  # by register, in the order of the last fields
        for field in point.fields:
            target = self._fields.target(field.key)
            if target is not None and not isinstance(field.value, bool | str):
                register = target.register
                step = Fraction(10) ** (target.exponent - register.scaler)
                raw = round(Fraction(field.value) * step)
                values.pop(register.name, None)
                values[register.name] = raw, register.minimum <= raw <= register.maximum
        if not values:
            return Reason.NO_READING
        if not all(fits for _, fits in values.values()):
            return Reason.VALUE
        stated = None if instant is None else instant // 10**6
        own = stated is not None and plausible(stated, ARRIVAL)
        when = (0 if own else int(Status.ARRIVAL_TIME), stated if own and stated else ARRIVAL)
        for register_name, (raw, _) in values.items():
            target = self._fields.target(register_name)
            assert target is not None
            self.readings.append((*halves, 0, target.register.code, *when, raw))
        self.envelopes.append((*halves, len(values), row))
        if meter_id.is_long(name):
            self.names.add(name)
        return None


def followed(datagrams: list[bytes], noise: bytes) -> Datagrams:
    """Rows of the datagrams; what lies behind them is not theirs."""
    made = Datagrams.of([*datagrams, bytes(300)])
    octets = np.resize(np.frombuffer(noise, np.uint8), made.octets.shape).copy()
    for number, datagram in enumerate(datagrams):
        octets[number, : len(datagram)] = np.frombuffer(datagram, np.uint8)
    return Datagrams(octets, made.lengths, made.sources).take(np.arange(len(datagrams)))


def found_in(decoded: Decoded) -> tuple[list[Row], list[Row]]:
    columns = [getattr(decoded.readings, name).tolist() for name in COLUMNS]
    envelopes = decoded.envelopes
    kept = (envelopes.key_high, envelopes.key_low, envelopes.count, decoded.rows)
    rest = (envelopes.epoch, envelopes.sequence, envelopes.marks)
    assert not any(column.any() for column in rest)
    return (
        list(zip(*columns, strict=True)),
        list(zip(*(column.tolist() for column in kept), strict=True)),
    )


def agree(datagrams: list[bytes], precision: str = "ns", noise: bytes = NOISE) -> None:
    expected = Expected(datagrams, precision)
    for fewest in (1, 2, 24, NEVER):
        decode = line.decoder(Options(options(precision)), fewest)
        decoded = decode(followed(datagrams, noise), ARRIVAL, OPEN)
        readings, envelopes = found_in(decoded)
        assert readings == expected.readings
        assert envelopes == expected.envelopes
        assert decoded.tally.refused == expected.refused
        assert decoded.tally.accepted == len(expected.envelopes)
        assert decoded.tally.names == expected.names
        for name, dtype in COLUMNS.items():
            assert getattr(decoded.readings, name).dtype == dtype


digits = st.text("0123456789", min_size=1, max_size=20)
numbers = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.decimals(-(10**7), 10**7, places=3).map(str),
    st.builds("{}{}.{}".format, st.sampled_from(["", "-"]), digits, digits),
    st.builds("{}{}{}".format, st.sampled_from(["", "-"]), digits, st.sampled_from("iu.")),
    st.builds("{}{}".format, digits, st.sampled_from(["e3", "E-3", "e+2", "e400", "e-400"])),
    st.sampled_from(
        [
            *(
                "0",
                "-0",
                "-0.0",
                ".5",
                "5.",
                ".",
                "-",
                "-.5",
                "1.5i",
                "-1u",
                "0.05",
                "0.15",
                "0.25",
            ),
            *("", str(10**15), str(10**15 + 1), "999999999999.95", f"{2**63 - 1}i", f"{2**63}i"),
            *(f"{2**64 - 1}u", f"{2**64}u", "1" * 18, "1" * 19, "0" * 30 + "1", "0" * 5000 + "7i"),
        ]
    ),
)
usual_numbers = st.one_of(
    st.integers(0, 10**6).map(str),
    st.decimals(0, 10**5, places=2).map(str),
    st.integers(0, 10**6).map("{}i".format),
)
others = st.sampled_from(["true", "F", '"on"', '"a b"', '""', r'"a\"b"', '"a\nb"', '"never', "tr"])
ids = st.sampled_from(
    [
        *("a", "b", "kitchen", "x" * 16, "x" * 17, "é", "_", "a b", "", "-", 'a"b'),
        *("0190163d-8694-739b-aea5-966c26f8ad91", "a\\ b", "x" * 64, "x" * 65, r"a\,b"),
    ]
)
usual_ids = st.sampled_from(["a", "b", "kitchen", "LGZ1030692147013"])
times = st.one_of(
    st.sampled_from(["", "", " 0", " -1", " ", "  5", " 1.5", f" {2**63}", f" {2**63 - 1}"]),
    st.integers(ARRIVAL - 10**9, ARRIVAL + 10**8).map(" {}".format),
    st.integers(ARRIVAL - 10**9, ARRIVAL + 10**8).map(" {}000000".format),
    st.integers(ARRIVAL // 1000 - 10**9, ARRIVAL // 1000 + 10**5).map(" {}".format),
    st.integers(-(2**64), 2**64).map(" {}".format),
)
keys = st.sampled_from(["power", "energy_import_kWh", "e", "value", "p", "POWER_W", "x", "pf"])
tag_keys = st.sampled_from(["id", "meter", "host", "room", "a" * 9])


@st.composite
def alike(draw: st.DrawFn) -> list[str]:
    """Lines of one sender: the same keys, other values."""
    tags = draw(st.lists(tag_keys, max_size=3, unique=draw(st.booleans())))
    fields = draw(st.lists(keys, min_size=1, max_size=4))
    any_id, any_value, timed = draw(st.tuples(*[st.integers(0, 3)] * 3))
    of_tag = ids if any_id == 0 else usual_ids
    of_field = {0: numbers, 1: st.one_of(numbers, others)}.get(any_value, usual_numbers)
    found = []
    for _ in range(draw(st.integers(1, 5))):
        told = "".join(f",{tag}={draw(of_tag)}" for tag in tags)
        values = ",".join(f"{field}={draw(of_field)}" for field in fields)
        found.append(f"{draw(st.sampled_from(['m', 'power', '#m']))}{told} {values}")
        found[-1] += draw(times) if timed else ""
    return found


@st.composite
def batches(draw: st.DrawFn) -> list[bytes]:
    """Datagrams of lines of several senders, some of them damaged."""
    told = [one for lot in draw(st.lists(alike(), min_size=1, max_size=3)) for one in lot]
    order = draw(st.permutations(told))
    end = draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", " \n"]))
    text = bytearray((end.join(order) + draw(st.sampled_from(["", end]))).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b" ", b",", b"=", b"\n", b"\\", b'"', b"#", b"\r", b"\xff", b"-"])
        )
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    if draw(st.booleans()):  # most senders cut where lines end
        cuts = sorted({text.find(b"\n", cut) + 1 or len(text) for cut in cuts})
    return [bytes(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(deadline=None, max_examples=examples(300))
@example([b"m,id=a " + b"k" * 60 + b"=1\n" + b"m,id=a p=1\n" * 3], "ns", NOISE)
@example([b"m,id=a power=1,energy_import_kWh=2,power=3\n" * 3], "ns", NOISE)
@example([b'm,id=a power=1 0\nm,id=a power=2,x="" 0\n'], "ns", NOISE)
@example([b"m,id= p=1\n" * 2 + b"m,id=a p=1\n" * 3, b"", b"m,id=b p=1"], "s", NOISE)
@example([b"m,id=a power=1\rx\n" * 3, b"m,id=a power=1 5\r5\n" * 3], "ns", NOISE)
@example([b'm,id=a x="b"c,power=1\n' * 3, b'm,id=a x=b"c",power=1\n' * 3], "ns", NOISE)
@given(batches(), st.sampled_from(list(PRECISIONS)), st.binary(min_size=1, max_size=40))
def test_lines_in_bulk_say_what_they_say_one_by_one(
    datagrams: list[bytes], precision: str, noise: bytes
) -> None:
    agree(datagrams, precision, noise)


TOKENS = [
    *(b"m,id=a power=1", b"m,id=a ", b'x="', b'"', b'"', b",", b"=", b" ", b"\n", b"\r\n", b"\r"),
    *(b"power=2", b",power=3", b'm,id=a x="b",power=1', b"\\", b"t", b"\t", b"m,id="),
]


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.text(' ,="\\\n\r#aipower1.-eu\x7fé', max_size=60).map(str.encode),
            st.lists(st.sampled_from(TOKENS), max_size=20).map(b"".join),
        ),
        max_size=5,
    )
)
def test_other_octets_too(datagrams: list[bytes]) -> None:
    agree(datagrams)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_corpus_agrees(precision: str) -> None:
    every = [octets_of(case["input"]["text"]) for case in CORPUS]
    agree(every, precision)
    agree([b"\n".join(every)], precision)
    for text in every:
        agree([text.replace(b"host", b"id").replace(b"value", b"power")] * 3, precision)


USUAL = [
    b"m,id=a power=1",
    b"power,host=gw,id=LGZ1030692147013 energy_import_kWh=1.25,power=-250i 1795428900000000000",
    b"mqtt_consumer,host=pi,meter=kitchen,topic=t/1 voltage=230.1,unknown=5,e=17.123456789 1795",
    b"m power=1",
    b"m,id=_ power=1",
    b"m,id=a-meter-in-the-cellar power=1",
    b"m,id=0190163d-8694-739b-aea5-966c26f8ad91 power=1",
    b"m,id=_a-meter-in-the-cellar power=1",
    b"m,id=a power=1 1\r",
    b"m,id=a power=1,on=true,off=F,unknown=-1.5",
    b'm,id=a state="on, or = off",power=1,x="" 1795',
]


@pytest.mark.parametrize(
    "text",
    [
        b' m,a="x b=" c=",d="\n',  # behind a space that is no end of tags
        b'm,a="x b=" c=",d="\n',  # among the tags
        b'm x="a\\" y=",z="\n',  # behind an escape
        b'm x="a" "\n',
    ],
)
def test_quotes_in_pairs_may_still_hide_the_end_of_a_line(text: bytes) -> None:
    agree([text + b'm,id=a power=1\n"\n' * 2] * 3)


@pytest.mark.parametrize("text", USUAL, ids=range(len(USUAL)))
def test_usual_lines_are_all_taken_in_bulk(text: bytes) -> None:
    octets = b"\n" * ROOM + b"\n".join([text] * 30) + b"\n" * (1 + BEHIND)
    marks = Marks(octets)
    left = np.flatnonzero(marks.end > marks.start)
    assert not len(marks.unquoted())
    taken = take(marks, left, Fields(options("ns")), "ns", 24)
    assert taken.understood.tolist() == left.tolist()
    assert not len(taken.others)
    agree([text] * 30)


def test_who_sends_first_does_not_decide_what_is_usual() -> None:
    odd = [b"m,id=a " + b"k=1," * n + b"power=1" for n in range(1, 21)]
    octets = b"\n" * ROOM + b"\n".join([*odd, *USUAL[:1] * 100]) + b"\n" * (1 + BEHIND)
    marks = Marks(octets)
    left = np.flatnonzero(marks.end > marks.start)
    taken = take(marks, left, Fields(options("ns")), "ns", 24)
    assert len(taken.understood) >= 100
