"""DLMS/COSEM push: the vectors, the shapes of other models, ciphers, blocks, clocks, any bytes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.admission import EVERYWHERE, Allowed, Gate
from telemetry.datagrams import Datagrams, Decoded, Mark
from telemetry.formats import dlms, dlms_apdu, dlms_blocks, dlms_models, dlms_proof
from telemetry.formats.dlms_axdr import Cursor
from telemetry.formats.dlms_clock import clock
from telemetry.formats.dlms_items import UNITS, items
from telemetry.formats.options import Options
from telemetry.formats.table import FORMATS
from telemetry.keys import KeyRing
from telemetry.meter_id import from_halves, halves, to_name, to_octets
from telemetry.readings import Status
from telemetry.registers import BY_CODE
from telemetry.rejects import Reason, RejectedError
from tests.examples import examples

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "dlms"
PUSHES: list[dict[str, Any]] = json.loads((VECTORS / "dlms_push.json").read_text("utf-8"))
CRYPTO: list[dict[str, str]] = json.loads((VECTORS / "dlms_crypto.json").read_text("utf-8"))
OTHERS: list[dict[str, Any]] = json.loads((VECTORS / "other_models.json").read_text("utf-8"))
ARRIVAL = 1_795_428_900_000  # 2026-11-23T10:15:00Z
TITLE = bytes.fromhex("4d4d4d0000bc614e")
METER = TITLE.hex()
EK, AK = bytes(range(16)), bytes(range(0xD0, 0xE0))
SECOND = bytes(range(16, 32))
CAPTURED_EK = bytes.fromhex(PUSHES[0]["key_ek"])


def ring(*keys: tuple[str, int, bytes, bytes | None, int | None]) -> KeyRing:
    """Keys of meter, id, encryption key, authentication key, until; made a minute apart."""
    high, low = np.array([halves(to_octets(key[0])) for key in keys], np.uint64).T
    return KeyRing(
        high,
        low,
        np.array([key[1] for key in keys], np.uint8),
        np.array([2**63 - 1 if key[4] is None else key[4] for key in keys], np.int64),
        [key[2] for key in keys],
        None,
        np.array([ARRIVAL - 10**9 + 60_000 * key[1] for key in keys], np.int64),
        {row: key[3] for row, key in enumerate(keys) if key[3] is not None},
    )


def gate(*keys: tuple[str, int, bytes, bytes | None, int | None]) -> Gate:
    return Gate(Allowed(EVERYWHERE), ring(*keys) if keys else KeyRing.empty())


BOTH = gate((METER, 1, EK, AK, None))


def wrapped(apdu: bytes) -> bytes:
    return bytes.fromhex("000100010066") + len(apdu).to_bytes(2) + apdu


def length(count: int) -> bytes:
    return bytes([count]) if count < 128 else b"\x82" + count.to_bytes(2)


def sealed(
    apdu: bytes,
    counter: int,
    *,
    control: int = 0x30,
    key: bytes = EK,
    half: bytes = AK,
    title: bytes = TITLE,
) -> bytes:
    """A push ciphered as the standard says, in an implementation of the tests' own."""
    nonce = title + counter.to_bytes(4)
    if control & 0x10:
        encryptor = Cipher(AES(key), GCM(nonce)).encryptor()
        plain = b"" if control & 0x20 else apdu
        encryptor.authenticate_additional_data(bytes([control]) + half + plain)
        octets = encryptor.update(apdu) if control & 0x20 else apdu
        octets += (encryptor.finalize(), encryptor.tag)[1][:12]
    else:
        octets = Cipher(AES(key), CTR(nonce + b"\0\0\0\2")).encryptor().update(apdu)
    inner = bytes([control]) + counter.to_bytes(4) + octets
    return b"\xdb\x08" + title + length(len(inner)) + inner


def power(watts: int, meter: str = "") -> bytes:
    """A list of Aidon's: a power, and whose it is."""
    value = bytes.fromhex("020309060100010700ff06") + watts.to_bytes(4)
    found = [value + bytes.fromhex("02020f00161b")]
    if meter:
        name = bytes([len(meter)]) + meter.encode()
        found.append(bytes.fromhex("020209060000600100ff0a") + name)
    return bytes.fromhex("0f400000000001") + bytes([len(found)]) + b"".join(found)


def blocks(apdu: bytes, size: int) -> list[bytes]:
    parts = [apdu[at : at + size] for at in range(0, len(apdu), size)]
    return [
        bytes([0xE0, 0xC0 if number == len(parts) else 0x40])
        + number.to_bytes(2)
        + bytes(2)
        + length(len(part))
        + part
        for number, part in enumerate(parts, 1)
    ]


class Listener:
    """A decoder with its state, fed datagram by datagram."""

    def __init__(self, entry: Gate | None = None, zone: str = "UTC") -> None:
        self.gate = entry or gate()
        self.decode = FORMATS["dlms"].decoder(Options(time_zone=zone))

    def take(self, *datagrams: bytes, arrival: int = ARRIVAL, source: str = "127.0.0.1") -> Decoded:
        return self.decode(Datagrams.of(list(datagrams), source), arrival, self.gate)

    def outcome(self, datagram: bytes, arrival: int = ARRIVAL, source: str = "127.0.0.1") -> str:
        """The reason, or whose readings came in."""
        found = self.take(datagram, arrival=arrival, source=source)
        if found.tally.refused:
            ((reason, count),) = found.tally.refused.items()
            assert count == 1
            assert not found.tally.accepted
            return str(reason.value)
        assert found.tally.accepted == len(found.envelopes) == 1
        return meter_of(found)


def meter_of(found: Decoded) -> str:
    envelopes = found.envelopes
    return to_name(from_halves(int(envelopes.key_high[0]), int(envelopes.key_low[0])))


def told(found: Decoded) -> dict[str, str]:
    """Names of registers with their values in the register's unit."""
    readings = found.readings
    return {
        BY_CODE[code].name: f"{BY_CODE[code].value(raw):f}"
        for code, raw in zip(readings.register.tolist(), readings.value.tolist(), strict=True)
    }


@pytest.mark.parametrize("push", PUSHES, ids=[push["id"] for push in PUSHES])
def test_a_vector_is_read_exactly(push: dict[str, Any]) -> None:
    expected = push["expected"]
    (frame,) = dlms_apdu.frames(bytes.fromhex(push["udp4059_hex"]))
    assert frame.apdu.hex() == push["apdu_hex"]
    apdu = frame.apdu
    if expected["crypto"]:
        found = dlms_apdu.sealed(apdu)
        assert found.title.hex() == expected["crypto"]["system_title"]
        assert found.control == expected["crypto"]["security_control"]
        assert found.counter == expected["crypto"]["invocation_counter"]
        keys = (bytes.fromhex(push["key_ek"]), bytes.fromhex(push["key_ak"]))
        clear = dlms_apdu.opened(found, *keys)
        assert clear is not None
        apdu = clear
    assert apdu.hex() == expected["plain_apdu_hex"]
    read = dlms_apdu.notification(apdu)
    assert read.invoke_id == expected["long_invoke_id"]
    assert shown(read.date_time) == expected["header_datetime"]
    assert [
        {
            "obis": item.obis,
            "type": item.type,
            "value": item.value.hex() if isinstance(item.value, bytes) else item.value,
            "scaler": item.scaler,
            "unit": item.unit,
            "datetime": shown(item.value) if isinstance(item.value, bytes) else None,
        }
        for item in items(read.body)
    ] == [
        {"scaler": None, "unit": None, "datetime": None}
        | {name: value for name, value in item.items() if name not in ("scaled", "ascii")}
        for item in expected["items"]
    ]


def shown(octets: bytes) -> dict[str, Any] | None:
    found = clock(octets)
    if found is None:
        return None
    return {
        "local": found.local.isoformat(),
        "hundredths": found.hundredths,
        "deviation_min": found.deviation,
        "status": found.status,
    }


def test_the_examples_of_the_green_book() -> None:
    first, second = CRYPTO
    found = dlms_apdu.Sealed(
        bytes.fromhex(first["system_title"]),
        0x30,
        int(first["invocation_counter"], 16),
        bytes.fromhex(first["cipher_and_tag"]),
    )
    keys = bytes.fromhex(first["ek"]), bytes.fromhex(first["ak"])
    clear = dlms_apdu.opened(found, *keys)
    assert clear is not None
    assert clear.hex() == first["plain"]
    assert dlms_apdu.opened(found._replace(counter=found.counter + 1), *keys) is None
    found = dlms_apdu.Sealed(
        bytes.fromhex(second["system_title"]),
        0x10,
        int(second["invocation_counter"], 16),
        bytes.fromhex(second["aad_extra"] + second["tag"]),
    )
    clear = dlms_apdu.opened(found, *keys)
    assert clear is not None
    assert clear.hex() == second["aad_extra"]


@pytest.mark.parametrize("case", OTHERS, ids=[case["id"] for case in OTHERS])
def test_lists_of_other_models(case: dict[str, Any]) -> None:
    listener = Listener(zone=case.get("time_zone", "UTC"))
    datagrams = [wrapped(bytes.fromhex(apdu)) for apdu in case["apdus"]]
    sent = datetime.fromisoformat(case["time"])
    if case.get("unnamed"):  # it never tells whose it is
        listener.take(wrapped(power(1, case["meter"])))
    found = listener.take(*datagrams, arrival=int(sent.timestamp() * 1000) + 4_000)
    assert meter_of(found) == case["meter"]
    assert told(found) == case["registers"]
    if case.get("no_clock"):
        assert set(found.readings.status.tolist()) == {ARRIVED}
        return
    assert set(found.readings.status.tolist()) == {0}
    at = datetime.fromtimestamp(int(found.readings.time[0]) / 1000, UTC)
    assert at == sent


def test_the_captured_pushes_are_opened_but_tell_no_register() -> None:
    captured = [bytes.fromhex(push["udp4059_hex"]) for push in PUSHES[:7]]
    listener = Listener(gate(("2f19229199164103", 1, CAPTURED_EK, CAPTURED_EK, None)))
    assert [listener.outcome(datagram) for datagram in captured] == ["no_reading"] * 7
    assert listener.outcome(captured[-1]) == "duplicate"


def test_who_a_ciphered_push_is_of_and_its_number() -> None:
    found = Listener(BOTH).take(wrapped(sealed(power(500, "somebody-else"), 77)))
    assert meter_of(found) == METER
    assert told(found) == {"power_import": "500.0"}
    assert found.envelopes.epoch.tolist() == [(ARRIVAL - 10**9 + 60_000) // 1000]
    assert found.envelopes.sequence.tolist() == [77]
    assert found.envelopes.marks.tolist() == [Mark.NUMBERED | Mark.SIGNED]


@pytest.mark.parametrize(
    ("keys", "push", "outcome"),
    [
        (gate(), sealed(power(1), 1), "unknown_key"),
        (gate(("other", 1, EK, AK, None)), sealed(power(1), 1), "unknown_key"),
        (BOTH, sealed(power(1), 1), METER),
        (BOTH, sealed(power(1), 1, control=0x10), METER),
        (BOTH, sealed(power(1), 1, control=0x20), "unsigned"),
        (BOTH, sealed(power(1), 1, control=0x00), "flags"),
        (BOTH, sealed(power(1), 1, control=0x31), "flags"),
        (BOTH, sealed(power(1), 1, control=0x70), "flags"),
        (BOTH, sealed(power(1), 1, control=0xB0), "flags"),
        (BOTH, sealed(power(1), 1, key=SECOND), "forged"),
        (BOTH, sealed(power(1), 1, half=SECOND), "forged"),
        (BOTH, sealed(power(1), 1, control=0x10, half=SECOND), "forged"),
        (BOTH, sealed(power(1), 1)[:-1] + b"\0", "malformed_or_forged"),
        (BOTH, power(1, METER), "unsigned"),
        (gate((METER, 1, EK, None, None)), sealed(power(1), 1, control=0x20), METER),
        (gate((METER, 1, SECOND, None, None)), sealed(power(1), 1, control=0x20), "forged"),
        (gate((METER, 1, EK, None, None)), sealed(power(1), 1), "unknown_key"),
        (gate((METER, 1, EK, AK, ARRIVAL)), sealed(power(1), 1), "expired"),
        (gate((METER, 1, EK, AK, 5), (METER, 2, SECOND, AK, None)), sealed(power(1), 1), "expired"),
        (gate((METER, 1, EK, AK, ARRIVAL + 1)), sealed(power(1), 1), METER),
        (BOTH, b"\xdd" + sealed(power(1), 1)[1:], "flags"),
        (BOTH, bytes.fromhex("6001a1"), "foreign"),
        (BOTH, sealed(bytes.fromhex("c001c100"), 1), "foreign"),
        (BOTH, sealed(sealed(power(1), 1), 2), "foreign"),
    ],
)
def test_what_opens_a_push(keys: Gate, push: bytes, outcome: str) -> None:
    assert Listener(keys).outcome(wrapped(push)) in outcome.split("_or_")


def test_during_a_rotation_both_keys_open() -> None:
    keys = gate((METER, 1, EK, AK, ARRIVAL + 10), (METER, 2, SECOND, SECOND, None))
    listener = Listener(keys)
    assert listener.outcome(wrapped(sealed(power(1), 900))) == METER
    new = listener.take(wrapped(sealed(power(2), 0, key=SECOND, half=SECOND)))
    assert new.envelopes.epoch.tolist() == [(ARRIVAL - 10**9 + 120_000) // 1000]
    assert listener.outcome(wrapped(sealed(power(1), 901)), ARRIVAL + 10) == "expired"


def test_the_counter_must_rise_and_only_a_proven_one_moves_it() -> None:
    listener = Listener(BOTH)
    assert listener.outcome(wrapped(sealed(power(1), 10))) == METER
    assert listener.outcome(wrapped(sealed(power(1), 10))) == "duplicate"
    assert listener.outcome(wrapped(sealed(power(2), 9))) == "replayed"
    assert listener.outcome(wrapped(sealed(power(2), 4_000_000_000, key=SECOND))) == "forged"
    assert listener.outcome(wrapped(sealed(power(2), 11))) == METER
    found = listener.take(wrapped(sealed(power(2), 3)))
    assert found.tally.meters == {(*halves(to_octets(METER)), Reason.REPLAYED): 1}


def test_counters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlms_proof, "MOST_COUNTERS", 3)
    counters = dlms_proof.Counters()
    for meter in "abcda":
        counters.rise(meter, 1, 7)
        assert len(counters) <= 3
    with pytest.raises(RejectedError):
        counters.rise("d", 1, 7)


def test_a_message_without_a_name_is_of_whom_the_address_told_last() -> None:
    listener = Listener()
    assert listener.outcome(wrapped(power(1))) == "meter_id"
    assert listener.outcome(wrapped(power(1, "hall")), source="192.0.2.1") == "hall"
    assert listener.outcome(wrapped(power(1, "attic")), source="192.0.2.2") == "attic"
    assert listener.outcome(wrapped(power(2)), source="192.0.2.1") == "hall"
    assert listener.outcome(wrapped(power(2)), source="192.0.2.3") == "meter_id"
    # A ciphered push says nothing about what else comes from its address.
    listener.gate = BOTH
    assert listener.outcome(wrapped(sealed(power(3), 1)), source="192.0.2.3") == METER
    assert listener.outcome(wrapped(power(2)), source="192.0.2.3") == "meter_id"


def test_the_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlms, "MOST_SOURCES", 2)
    listener = Listener()
    for number in range(1, 4):
        listener.outcome(wrapped(power(1, f"m{number}")), source=f"192.0.2.{number}")
    assert listener.outcome(wrapped(power(1)), source="192.0.2.1") == "meter_id"
    assert listener.outcome(wrapped(power(1)), source="192.0.2.3") == "m3"


def test_several_frames_in_a_datagram_count_each() -> None:
    frames = wrapped(power(1, "a")) + wrapped(bytes.fromhex("6001a1")) + wrapped(power(2, "b"))
    found = Listener().take(frames)
    assert found.tally.accepted == 2
    assert found.tally.refused == {Reason.FOREIGN: 1}
    assert found.rows.tolist() == [0, 0]
    found = Listener().take(wrapped(power(1, "a")) + b"\0\1\0")
    assert (found.tally.accepted, found.tally.refused) == (0, {Reason.MALFORMED: 1})


@pytest.mark.parametrize("inside", [False, True])
def test_blocks_over_several_datagrams(inside: bool) -> None:
    listener = Listener(BOTH)
    if inside:  # each block ciphered
        parts = [sealed(part, at) for at, part in enumerate(blocks(power(7), 9))]
    else:  # a cipher in blocks
        parts = blocks(sealed(power(7), 5), 20)
    outcomes = [listener.outcome(wrapped(part)) for part in parts]
    assert len(parts) > 2
    assert outcomes == ["block"] * (len(parts) - 1) + [METER]


def test_blocks_that_do_not_belong_together() -> None:
    listener = Listener()
    first, second, third = (wrapped(part) for part in blocks(power(7, "hall"), 20))
    assert listener.outcome(second) == "malformed"
    assert listener.outcome(first) == "block"
    assert listener.outcome(third) == "malformed"
    assert listener.outcome(first) == "block"
    assert listener.outcome(second, ARRIVAL + dlms_blocks.LONGEST_GAP + 1) == "malformed"
    assert listener.outcome(first) == "block"
    assert listener.outcome(second, source="192.0.2.9") == "malformed"
    assert listener.outcome(second) == "block"
    assert listener.outcome(second) == "duplicate"
    assert listener.outcome(third) == "hall"
    assert listener.outcome(third) == "malformed"


def test_a_block_that_is_missing_is_not_left_out() -> None:
    pending = dlms_blocks.Blocks()
    for number, last, reason in ((1, False, Reason.BLOCK), (3, True, Reason.MALFORMED)):
        with pytest.raises(RejectedError) as caught:
            pending.add("hall", dlms_apdu.Block(number, last, b"x"), ARRIVAL)
        assert caught.value.reason == reason


def test_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = dlms_blocks.Blocks()
    for sender in range(dlms_blocks.MOST_TRANSFERS + 5):
        with pytest.raises(RejectedError):
            pending.add(sender, dlms_apdu.Block(1, False, b"x"), ARRIVAL)
    assert len(pending) == dlms_blocks.MOST_TRANSFERS
    monkeypatch.setattr(dlms_blocks, "LONGEST", 1_500)
    listener, long = Listener(), blocks(power(1, "a") + bytes(3_000), 1_000)
    outcomes = [listener.outcome(wrapped(part)) for part in long]
    assert outcomes == ["block", "malformed", "malformed", "malformed"]


def at(listener: Listener, date_time: str, arrival: str) -> tuple[str, int]:
    """Which instant a push with this clock gets, and the status of its reading."""
    apdu = power(1, "hall")
    apdu = apdu[:5] + b"\x0c" + bytes.fromhex(date_time) + apdu[6:]
    when = datetime.fromisoformat(arrival)
    found = listener.take(wrapped(apdu), arrival=int(when.timestamp() * 1000))
    said = datetime.fromtimestamp(int(found.readings.time[0]) / 1000, UTC)
    return f"{said:%H:%M:%S}", int(found.readings.status[0])


NOW = "2026-11-23T10:15:00+00:00"
SUMMER = "2026-07-23T10:15:00+00:00"
ARRIVED = int(Status.ARRIVAL_TIME)


@pytest.mark.parametrize(
    ("date_time", "arrival", "expected"),
    [
        ("07ea0b17010b0eff00ffc400", NOW, ("10:14:00", ARRIVED)),  # no second: see below
        ("07ea0b17010b0e3200ffc400", NOW, ("10:14:50", 0)),  # UTC = local + deviation
        ("07ea0b17010b0e3200003c00", NOW, ("10:14:50", 0)),  # told with the other sign
        ("07ea0b17010b0e3200000000", NOW, ("10:14:50", 0)),  # 0 told, the zone meant
        ("07ea0b17010b0e3200800000", NOW, ("10:14:50", 0)),  # unknown: the zone
        ("07ea0b17010b0e32ff8000ff", NOW, ("10:14:50", 0)),
        ("07ea0717040c0e32008000ff", SUMMER, ("10:14:50", 0)),
        ("07ea0717040c0e3200ff8880", SUMMER, ("10:14:50", 0)),  # daylight saving in it
        ("07ea0717040c0e3200ffc480", SUMMER, ("10:14:50", 0)),  # and left out of it
        ("07ea0717040b0e3200800080", SUMMER, ("10:14:50", 0)),  # standard time in summer
        ("07ea0717040b0e3200800000", SUMMER, ("10:14:50", 0)),
        ("07ea0a1907021e0000800080", "2026-10-25T00:30:05+00:00", ("00:30:00", 0)),
        ("07ea0a1907021e0000800000", "2026-10-25T01:30:05+00:00", ("01:30:00", 0)),
        # Told late, so that only the daylight bit says which of two hours it was.
        ("07ea0a1907021e0000800080", "2026-10-25T06:00:00+00:00", ("00:30:00", 0)),
        ("07ea0a1907021e0000800000", "2026-10-25T06:00:00+00:00", ("01:30:00", 0)),
        ("07ea0b16010b0e3200ffc400", NOW, ("10:14:50", 0)),  # yesterday's, told late
        ("07ea0b17010b0e3200ffc401", NOW, ("10:15:00", ARRIVED)),  # invalid by its own status
        ("ffff0b17010b0e3200ffc400", NOW, ("10:15:00", ARRIVED)),
        ("07eaff17010b0e3200ffc400", NOW, ("10:15:00", ARRIVED)),
        ("07ea0b1f010b0e3200ffc400", NOW, ("10:15:00", ARRIVED)),
        ("07ea0b17010d0e3200ffc400", "2026-11-23T08:15:00+00:00", ("08:15:00", ARRIVED)),
        ("076c0101010b0e3200ffc400", NOW, ("10:15:00", ARRIVED)),
        ("ffffffffffffffffff8000ff", NOW, ("10:15:00", ARRIVED)),
    ],
)
def test_which_instant_a_clock_means(
    date_time: str, arrival: str, expected: tuple[str, int]
) -> None:
    if date_time[14:16] == "ff" and date_time[:4] == "07ea":
        expected = ("10:14:00", 0)  # an unspecified second is its first
    assert at(Listener(zone="Europe/Berlin"), date_time, arrival) == expected


def test_a_deviation_with_the_other_sign_needs_no_zone() -> None:
    assert at(Listener(), "07ea0b17010b0e3200003c00", NOW) == ("10:14:50", 0)
    assert at(Listener(), "07ea0b17010b0e3200ffc400", NOW) == ("10:14:50", 0)


def list_of(*elements: str) -> bytes:
    return bytes.fromhex("0f00000000000" + "2" + f"{len(elements):02x}" + "".join(elements))


NAME = "09060000600100ff0a0468616c6c"
VALUE = "09060100010800ff"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ((VALUE, "06000003e8"), "1000"),
        ((VALUE, "06000003e8", "02020f01161e"), "10000"),
        ((VALUE, "06000003e8", "02020fff161e"), "100"),
        ((VALUE, "060000000f", "02020fff161e"), "2"),  # 1.5 and 2.5: half to even
        ((VALUE, "0600000019", "02020fff161e"), "2"),
        ((VALUE, "15000000000000000a", "02020f00161e"), "10"),
        (("0202" + VALUE + "020206000003e802020f03161e",), "1000000"),
        (("0101" + "0203" + VALUE + "06000003e802020f00161e",), "1000"),
        ((VALUE, "1742c80000", "02020f01161e"), "1000"),  # 100.0
        ((VALUE, "06000003e8", "02020f00161b"), None),  # watts are no watt-hours
        ((VALUE, "06000003e8", "02020f001605"), None),
        ((VALUE, "00"), None),
        ((VALUE, "0a0131"), None),
        (("09060100010801ff", "06000003e8"), None),  # a tariff's
        (("0906010001080001", "06000003e8"), None),  # a month's
        (("09060200010800ff", "06000003e8"), None),
        (("00", "00", VALUE, "06000003e8"), "1000"),
        ((VALUE, "06000003e8", VALUE, "06000003e9"), "1000"),
        ((VALUE, "17ff800000"), None),
        ((VALUE, "177fc00000"), None),
        ((VALUE, "06000003e8", "02020f7f161e"), "value"),
        ((VALUE, "05ffffffff"), "value"),
    ],
)
def test_values_and_their_units(elements: tuple[str, ...], expected: str | None) -> None:
    found = Listener().take(wrapped(list_of(*elements, *NAME_ELEMENTS)))
    refused = {None: Reason.NO_READING, "value": Reason.VALUE}.get(expected)
    if refused:
        assert found.tally.refused == {refused: 1}
    else:
        assert told(found) == {"energy_import": expected}


NAME_ELEMENTS = ("09060000600100ff", "0a0468616c6c")


def test_a_compact_array_and_what_is_too_deep_or_too_long() -> None:
    # Two structures of a code and a u32, the type told once.
    described = "02020906"
    contents = "060100010800ff000003e8" + "060100020800ff00000007"
    compact = "13" + described + f"{len(contents) // 2:02x}" + contents
    found = Listener().take(wrapped(list_of(compact, *NAME_ELEMENTS)))
    assert told(found) == {"energy_import": "1000", "energy_export": "7"}
    deep = bytes.fromhex("0f0000000000" + "0201" * 9 + "00")
    assert Listener().outcome(wrapped(deep)) == "malformed"
    assert Listener().outcome(wrapped(bytes.fromhex("0f0000000000" + "0182ffff") + bytes(900)))
    two = bytes.fromhex("0f00000000000202") + 2 * (bytes.fromhex("0182012c") + bytes(300))
    assert Listener().outcome(wrapped(two)) == "malformed"
    many = bytes.fromhex("0f00000000000182") + (600).to_bytes(2) + bytes(600)
    assert Listener().outcome(wrapped(many)) == "malformed"
    for hollow in ("1302000100", "130100000000", "13010002000100", "1302010000010100"):
        assert Listener().outcome(wrapped(list_of(hollow))) in ("malformed", "no_reading")


def test_a_serial_number_is_read_off_before_a_device_name() -> None:
    both = list_of(
        VALUE, "0600000001", "090600002a0000ff", "0a036c646e", "09060000600100ff", "0a03736572"
    )
    assert Listener().outcome(wrapped(both)) == "ser"
    filled = list_of(VALUE, "0600000001", "09060000600100ff", "0a0868616c6c00000000")
    assert Listener().outcome(wrapped(filled)) == "hall"
    spaced = list_of(VALUE, "0600000001", "09060000600100ff", "0a04" + b"a  b".hex())
    assert Listener().outcome(wrapped(spaced)) == "meter_id"


def test_a_serial_number_of_six_octets_is_no_code() -> None:
    values = ["1200e6"] * 6 + ["0600000001"] * 4
    assert Listener().outcome(wrapped(list_of(*values, "0906363036313039"))) == "606109"


def test_an_auto_listener_knows_the_wrapper() -> None:
    decode = FORMATS["auto"].decoder(Options())
    mixed = [wrapped(power(1, "hall")), b'{"meter":"x"}', b"\0\2" + bytes(9)]
    found = decode(Datagrams.of(mixed), ARRIVAL, gate())
    assert found.tally.accepted == 1
    assert found.tally.refused[Reason.FOREIGN] == 1
    assert meter_of(found) == "hall"


def test_a_datagram_is_cut_nowhere_without_being_refused() -> None:
    for push in (wrapped(sealed(power(1), 1)), *(wrapped(p) for p in blocks(power(1, "a"), 12))):
        for end in range(len(push)):
            found = Listener(BOTH).take(push[:end])
            assert found.tally.refused.total() == 1
            assert not found.tally.accepted


def test_too_long() -> None:
    long = wrapped(bytes(dlms.LONGEST))
    assert Listener().outcome(long) == "oversized"
    assert Listener().outcome(b"x" * (dlms.LONGEST + 1)) == "foreign"
    assert Listener().outcome(b"") == "foreign"


WHOLE = [bytes.fromhex(push["udp4059_hex"]) for push in PUSHES] + [
    wrapped(bytes.fromhex(apdu)) for case in OTHERS for apdu in case["apdus"]
]


@settings(max_examples=examples(400), deadline=None)
@given(st.data())
def test_any_bytes_are_taken_or_counted(data: st.DataObject) -> None:
    made = bytearray(data.draw(st.sampled_from(WHOLE) | st.binary(max_size=300)))
    for _ in range(data.draw(st.integers(0, 4))):
        if made:
            at = data.draw(st.integers(0, len(made) - 1))
            made[at] = data.draw(st.integers(0, 255))
    behind = data.draw(st.binary(min_size=64, max_size=64))
    alone = Datagrams.of([bytes(made)])
    octets = np.concatenate([alone.octets, np.frombuffer(behind, np.uint8)[None]], axis=1)
    octets[0, len(made) : len(made) + 64] = np.frombuffer(behind, np.uint8)
    followed = Datagrams(octets, alone.lengths, alone.sources)
    one, other = (
        FORMATS["dlms"].decoder(Options())(each, ARRIVAL, BOTH) for each in (alone, followed)
    )
    assert one.tally.accepted + one.tally.refused.total() >= 1
    assert one.tally == other.tally
    assert one.readings.value.tolist() == other.readings.value.tolist()
    assert len(one.envelopes) == one.tally.accepted


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=200))
def test_the_cursor_reads_or_refuses(octets: bytes) -> None:
    cursor = Cursor(octets)
    try:
        cursor.datum()
    except RejectedError as error:
        if error.reason != Reason.MALFORMED:
            raise
    assert 0 <= cursor.at <= len(octets)


PAGE = (ROOT / "docs" / "formats.md").read_text("utf-8")
SECTION = PAGE.split("## DLMS/COSEM push")[1].split("\n## ")[0]


def test_the_document_says_every_reason() -> None:
    named = set(re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE))
    sources = [
        (ROOT / "telemetry" / "formats" / f"{name}.py").read_text("utf-8")
        for name in ("dlms", "dlms_apdu", "dlms_axdr", "dlms_blocks", "dlms_proof", "gather")
    ]
    raised = {Reason[name].value for name in re.findall(r"Reason\.([A-Z_]+)", "".join(sources))}
    assert raised == REASONS
    assert raised <= named


REASONS = {
    *("foreign", "oversized", "malformed", "flags", "unknown_key", "expired", "forged", "unsigned"),
    *("duplicate", "replayed", "block", "no_reading", "meter_id", "not_allowed", "value"),
}


def test_the_document_has_the_lists_and_units() -> None:
    rows = dict(re.findall(r"^\| `([ouh.]+)` \| ([^|]+) \|", SECTION, re.MULTILINE))
    words = {dlms_models.SERIAL: "serial", dlms_models.TIME: "time", "": "-"}
    assert rows.keys() == {layout.types for layout in dlms_models.LAYOUTS}
    for layout in dlms_models.LAYOUTS:
        names = [words.get(name, name[4:-4]) for name in layout.names]
        assert rows[layout.types].strip() == " ".join(names)
    units = dict(re.findall(r"^\| (\d+) \| (\S*) *\|", SECTION, re.MULTILINE))
    assert {int(code): unit.strip("`") for code, unit in units.items()} == {
        code: unit or "-" for code, unit in UNITS.items()
    }
