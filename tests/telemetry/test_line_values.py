"""What lines of the line protocol become: raw integers, instants, meters, and why not."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telemetry import meter_id
from telemetry.admission import LOOPBACK, Allowed, Gate
from telemetry.clock import EARLIEST, FUTURE_WINDOW
from telemetry.datagrams import MOST_NAMES, Datagrams, Decoded, Tally
from telemetry.formats import line
from telemetry.formats.line_fields import PRECISIONS, Fields, target
from telemetry.formats.options import LineOptions, Options
from telemetry.readings import Status
from telemetry.registers import BY_CODE, BY_NAME, REGISTERS
from tests.telemetry.rings import open_gate, ring_of
from tests.telemetry.test_line import ARRIVAL, LINE_REASONS, MOST, NEVER, decode

BOTH = pytest.mark.parametrize("fewest", [1, NEVER], ids=["bulk", "one by one"])


def values(decoded: Decoded) -> dict[str, int]:
    """Raw integers of one line, by register, in order."""
    codes, raw = decoded.readings.register.tolist(), decoded.readings.value.tolist()
    return {BY_CODE[code].name: value for code, value in zip(codes, raw, strict=True)}


NUMBERS = {
    # Power counts in 0.1 W: halves go to the even neighbour, of all digits that were written.
    "power=230": 2300,
    "power=-250i": -2500,
    "power=250u": 2500,
    "power=0.05": 0,
    "power=0.15": 2,
    "power=0.25": 2,
    "power=0.2500000000000001": 3,
    "power=0.250000000000000000000000000000000000001": 3,
    "power=0.249999999999999999999": 2,
    "power=-0.15": -2,
    "power=-0.25": -2,
    "power=-0.05": 0,
    "power=-0": 0,
    "power=-0.0": 0,
    "power=-0i": 0,
    "power=.5": 5,
    "power=5.": 50,
    "power=1e3": 10_000,
    "power=1.5E-1": 2,
    "power=2.5e+2": 2500,
    "power=1e" + "0" * 5000 + "2": 1000,
    "power=1e-400": 0,
    "power=0e400": 0,
    "power=0e99999999999999999999": 0,
    "power=1e-99999999999999999999": 0,
    "power=000000000000000000000000000007i": 70,
    "power=1000000000000": 10**13,
    "power=-1000000000000": -(10**13),
    "power=1000000000000.04999": 10**13,
    # Nobody's 17 digits of floating point make a nearby number of it.
    "energy_import=999999999999999": 999_999_999_999_999,
    "energy_import=17.5": 18,
    "energy_import=18.5": 18,
    "energy_import_wh=1": 1,
    "energy_import_kWh=1.2345": 1234,
    "energy_import_kWh=1.2355": 1236,
    "e=1": 1000,
    "e=0.0005": 0,
    "e=0.0015": 2,
    "mega=1.5": 1_500_000,
    "milli=2500": 2500,
    "tiny=.999999999999999999": 0,
    "voltage_l1=230.1": 230_100,
    "voltage=230.1": 230_100,
    "pf=0.9995": 1000,
    "pf=-1": -1000,
}
OWN = {
    "e": "energy_import kWh",
    "mega": "energy_import MWh",
    "milli": "voltage_l1 mV",
    "tiny": "energy_import mWh",
}


@BOTH
@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_become_raw_integers_exactly(field: str, fewest: int) -> None:
    decoded = decode([f"m,id=a {field}".encode()], fewest, registers=OWN)
    assert decoded.readings.value.tolist() == [NUMBERS[field]]


@settings(deadline=None)
@given(
    st.decimals(-(10**14), 10**14, places=5),
    st.sampled_from(["", "k", "M", "m"]),
    st.sampled_from([one for one in REGISTERS if one.unit]),
)
@example(Decimal("0.00005"), "k", BY_NAME["energy_import"])
def test_every_unit_of_every_register_is_exact(value: Any, prefix: str, register: Any) -> None:
    own = {"x": f"{register.name} {prefix}{register.unit}"}
    power = {"": 0, "k": 3, "M": 6, "m": -3}[prefix]
    raw = round(Fraction(value) * Fraction(10) ** (power - register.scaler))
    for fewest in (1, NEVER):
        decoded = decode([f"m,id=a x={value:f}".encode()], fewest, registers=own)
        if register.minimum <= raw <= register.maximum:
            assert decoded.readings.value.tolist() == [raw]
        else:
            assert decoded.tally.refused == {"value": 1}


@BOTH
@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("power=1e400", "malformed"),
        ("power=-1e400", "malformed"),
        ("power=" + "9" * 400, "malformed"),
        ("power=1e308", "value"),
        ("power=9223372036854775807i", "value"),
        ("power=-9223372036854775808i", "value"),
        ("power=9223372036854775808i", "malformed"),
        ("power=18446744073709551615u", "value"),
        ("power=18446744073709551616u", "malformed"),
        ("power=-1u", "malformed"),
        ("power=1.5i", "malformed"),
        ("power=NaN", "malformed"),
        ("power=+1", "malformed"),
        ("power=1000000000000.06", "value"),
        ("energy_import=-1", "value"),
        ("energy_import=1000000000000001", "value"),
        ("pf=1.0006", "value"),
        ("pf=1,power=-1e300", "value"),
        ("unknown=1", "no_reading"),
        ("power=true", "no_reading"),
        ('power="5"', "no_reading"),
    ],
)
def test_numbers_that_no_register_takes_count(field: str, reason: str, fewest: int) -> None:
    decoded = decode([f"m,id=a {field}\nm,id=b power=1".encode()], fewest)
    assert decoded.tally.refused == {reason: 1}
    assert decoded.readings.value.tolist() == [10]


GOOD_MS = ARRIVAL - 12_345


@BOTH
@pytest.mark.parametrize("precision", ["ns", "us", "ms", "s"])
def test_times_are_of_the_listener_s_precision(precision: str, fewest: int) -> None:
    # A nanosecond before the next millisecond: it is not rounded up.
    told = (GOOD_MS * 10**6 + 10**6 - 1) // PRECISIONS[precision]
    decoded = decode([f"m,id=a power=1 {told}".encode()], fewest, precision=precision)
    expected = GOOD_MS // 1000 * 1000 if precision == "s" else GOOD_MS
    assert decoded.readings.time.tolist() == [expected]
    assert decoded.readings.status.tolist() == [0]


@BOTH
@pytest.mark.parametrize(
    "stated",
    [
        "",
        " ",
        " 0",
        " -1",
        " 1700000000",  # seconds, to a listener of milliseconds
        f" {EARLIEST - 1}",
        f" {ARRIVAL + FUTURE_WINDOW + 1}",
        " 9223372036854",
        " -9223372036854",
    ],
)
def test_times_that_cannot_be_become_the_arrival_s(stated: str, fewest: int) -> None:
    decoded = decode([f"m,id=a power=1{stated}".encode()], fewest, precision="ms")
    assert decoded.readings.time.tolist() == [ARRIVAL]
    assert decoded.readings.status.tolist() == [Status.ARRIVAL_TIME]


@BOTH
@pytest.mark.parametrize("stated", [EARLIEST, ARRIVAL, ARRIVAL + FUTURE_WINDOW])
def test_times_that_can_be_are_the_device_s(stated: int, fewest: int) -> None:
    decoded = decode([f"m,id=a power=1 {stated}".encode()], fewest, precision="ms")
    assert decoded.readings.time.tolist() == [stated]
    assert decoded.readings.status.tolist() == [0]


@BOTH
@pytest.mark.parametrize("precision", ["ns", "us", "ms", "s"])
def test_times_beyond_64_bits_of_nanoseconds_are_wrong(precision: str, fewest: int) -> None:
    last = (2**63 - 1) // PRECISIONS[precision]
    for stated, reasons in [(last, {}), (last + 1, {"malformed": 1}), (-last, {})]:
        text = f"m,id=a power=1 {stated}".encode()
        assert decode([text], fewest, precision=precision).tally.refused == reasons


@BOTH
def test_the_last_of_fields_for_one_register_counts(fewest: int) -> None:
    text = b"m,id=a power=1,pf=1,active_power=2,power=3,voltage=1,voltage_l1=2"
    assert list(values(decode([text], fewest)).items()) == [
        ("power_factor", 1000),
        ("power", 30),
        ("voltage_l1", 2000),
    ]


@BOTH
def test_what_is_no_number_hides_nothing(fewest: int) -> None:
    text = b'm,id=a power=1,power=true,power="x",on=true,x="a b",y=9'
    assert values(decode([text], fewest)) == {"power": 10}


@BOTH
@pytest.mark.parametrize(
    ("tags", "meter"),
    [
        (",host=h,id=i,meter=m", "m"),
        (",host=h,id=i", "i"),
        (",host=h,other=o", "h"),
        (",ID=x,id=i", "i"),
        (",id=LGZ1030692147013", "LGZ1030692147013"),
        (",id=0190163d-8694-739b-aea5-966c26f8ad91", "0190163d-8694-739b-aea5-966c26f8ad91"),
    ],
)
def test_the_first_of_the_tags_in_the_listener_s_order_names_the_meter(
    tags: str, meter: str, fewest: int
) -> None:
    readings = decode([f"m{tags} power=1".encode()], fewest).readings
    octets = meter_id.from_halves(int(readings.key_high[0]), int(readings.key_low[0]))
    assert meter_id.to_name(octets) == meter


@BOTH
def test_the_listener_may_name_other_tags(fewest: int) -> None:
    text = b"m,id=i,sensor=s power=1"
    readings = decode([text], fewest, meter=("sensor",)).readings
    assert int(readings.key_high[0]) == int.from_bytes(b"s", "little")


@BOTH
def test_long_ids_travel_by_name(fewest: int) -> None:
    long, longest = "x" * 17, "y" * 64
    text = f"m,id={long} power=1\nm,id={longest} power=2\nm,id={long} x=1\nm,id=z power=1"
    decoded = decode([text.encode()], fewest)
    assert decoded.tally.names == {long, longest}
    octets = meter_id.halves(meter_id.to_octets(long))
    assert (decoded.readings.key_high[0], decoded.readings.key_low[0]) == octets
    refused = decode([b"m,id=" + b"y" * 64 + b" x=1"], fewest)
    assert refused.tally.names == set()


@BOTH
@pytest.mark.parametrize(
    "tags", ["", ",other=a", ",id=_", ",id=a\\ b", ",id=é", ",id=" + "x" * 65, ",meter=_,id=a"]
)
def test_lines_without_a_meter_count(tags: str, fewest: int) -> None:
    decoded = decode([f"m{tags} power=1\nm,id=b power=1".encode()], fewest)
    assert decoded.tally.refused == {"meter_id": 1}
    assert decoded.tally.accepted == 1


@BOTH
def test_whose_lines_come_in_is_the_gate_s(fewest: int) -> None:
    ring = ring_of([(b"keyed".ljust(16, b"\0"), 1, None, bytes(16))])
    gate = Gate(Allowed(LOOPBACK, ("a*", "keyed")), ring)
    text = b"m,id=a power=1\nm,id=b power=1\nm,id=keyed power=1\nm,id=ab power=1\n"
    decoder = line.decoder(Options(), fewest)
    inside = decoder(Datagrams.of([text]), ARRIVAL, gate).tally
    assert (inside.accepted, inside.refused) == (2, {"not_allowed": 1, "unsigned": 1})
    (meter,) = inside.meters
    assert meter[:2] == meter_id.halves(b"keyed".ljust(16, b"\0"))
    outside = decoder(Datagrams.of([text], "192.0.2.1"), ARRIVAL, gate).tally
    assert (outside.accepted, outside.refused) == (0, {"not_allowed": 4})


def test_each_reason_is_one_of_the_documented_ones() -> None:
    text = b"m,id=a power=1\nx\nm power=1\nm,id=b x=1\nm,id=c pf=2\n"
    tally = decode([text, text + b" " * MOST, b"\n" * MOST]).tally
    assert tally.accepted == 1
    expected = {"malformed": 1, "meter_id": 1, "no_reading": 2, "value": 1, "oversized": 1}
    assert tally.refused == expected
    assert expected.keys() | {"not_allowed", "unsigned"} == LINE_REASONS


def test_a_datagram_longer_than_the_row_is_not_read() -> None:
    cut = Datagrams.of([b"m,id=a power=1\n" * 3])
    cut.lengths[0] = cut.octets.shape[1] + 1
    decoded = line.decoder(Options())(cut, ARRIVAL, open_gate())
    assert decoded.tally.refused == {"oversized": 1}


def test_names_that_wait_to_be_told_are_bounded() -> None:
    tally = Tally()
    lot = MOST // 40
    for first in range(0, MOST_NAMES + lot, lot):
        made = [b"m,id=%017d power=1\n" % number for number in range(first, first + lot)]
        tally.add(decode([b"".join(made)], 24).tally)
    assert len(tally.names) == MOST_NAMES


def test_names_of_fields_are_registers_in_any_case_with_or_without_units() -> None:
    fields = Fields(LineOptions(registers={"Power": "frequency", "z": "1.8.0 kWh"}))
    expected = {
        "energy_import": ("energy_import", 0),
        "ENERGY_IMPORT": ("energy_import", 0),
        "energy_import_kWh": ("energy_import", 3),
        "1-0:1.8.0": ("energy_import", 0),
        "power": ("power", 0),
        "power_kw": ("power", 3),
        "Power": ("frequency", 0),
        "z": ("energy_import", 3),
        "power_factor": ("power_factor", 0),
    }
    for name, (register, exponent) in expected.items():
        found = fields.target(name)
        assert found is not None
        assert (found.register.name, found.exponent) == (register, exponent)
    for name in ("", "power_", "power_factor_", "energy", "unknown", "power_Wh"):
        assert (fields.target(name) is None) == (name != "energy")


@pytest.mark.parametrize(
    "text", ["", "colour", "energy_import Wk", "energy_import kW", "power_factor W", "power  W"]
)
def test_registers_that_are_none_are_told(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        target(text)


def test_many_lines_of_a_batch_keep_their_order() -> None:
    texts = [f"m,id=a power={n}" + ',x=""' * (n % 3 == 0) + "\n" for n in range(100)]
    datagrams = ["".join(texts[at : at + 7]).encode() for at in range(0, 100, 7)]
    decoded = decode(datagrams, 24)
    assert decoded.readings.value.tolist() == [n * 10 for n in range(100)]
    assert decoded.rows.tolist() == [n // 7 for n in range(100)]
    assert np.all(decoded.envelopes.count == 1)
