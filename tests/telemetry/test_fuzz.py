"""Mutated datagrams of each format: only the documented reasons, none out of proportion in time.

None takes ten times as long as an ordinary one takes here and now, of whatever length they are, and
none takes more than 64 KiB. Memory is measured of the first of each length and outcome, time
of all. The long form
(WATTBUS_LONG=1) takes 5 million of each format, about half an hour on two cores.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import struct
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from telemetry.admission import LOOPBACK, Allowed, Gate
from telemetry.datagrams import Datagrams
from telemetry.formats import line, native, shelly_status
from telemetry.formats.options import Options
from telemetry.formats.table import FORMATS
from telemetry.rejects import Reason
from telemetry.security import seal
from tests.telemetry import test_dlms
from tests.telemetry.rings import KEYS, MASTER, ring_of
from tests.telemetry.test_line import LINE_REASONS
from tests.telemetry.test_shelly import REASONS as SHELLY_REASONS
from tests.telemetry.test_speedwire import GOOD, SPEEDWIRE_REASONS, octets_of
from tests.telemetry.test_wire_format import JSON_REASONS, NATIVE_REASONS

LONG = bool(os.environ.get("WATTBUS_LONG"))
TOTAL = 5_000_000 if LONG else 3_000
PARTS = 10 if LONG else 2  # so that several workers share them
MOST_TIMES = 10  # what an ordinary one takes; 27 objects of DLMS, one by one, take some 6 of it
MOST_OCTETS = 65_536
ARRIVAL = 1_795_428_900_000
# The vectors' keys, and one of a meter that sends another format.
OTHER_KEY = (b"349-1".ljust(16, b"\0"), 1, None, bytes(16))
GATE = Gate(Allowed(LOOPBACK), ring_of([*KEYS, OTHER_KEY], MASTER))
CIPHERS = {(octets, key_id): GATE.ring.cipher(row) for row, (octets, key_id, *_) in enumerate(KEYS)}
OWNERS = [b"kitchen".ljust(16, b"\0"), *sorted({octets for octets, *_ in KEYS})]
STRANGER = AESGCM(bytes(16))
SOURCES = ["127.0.0.1", "127.0.0.2", "::1", "192.0.2.1"]
ODD = [0, 1, 2, 3, 0x7F, 0x80, 0xF5, 0xFF]


def mutate(rng: random.Random, datagram: bytearray) -> None:
    """Octets changed, inserted, removed, doubled; most often none or few."""
    for _ in range(rng.choice((0, 0, 1, 1, 2, 8))):
        at = rng.randrange(len(datagram) + 1)
        how = rng.random()
        if how < 0.7 and at < len(datagram):
            datagram[at] = rng.choice(ODD) if how < 0.35 else rng.randrange(256)
        elif how < 0.8:
            datagram[at:at] = rng.randbytes(rng.choice((1, 2, 16, 40)))
        elif how < 0.9:
            del datagram[at : at + rng.choice((1, 2, 16, 400))]
        else:
            datagram[at:at] = datagram[at : at + rng.choice((1, 16, 64))]


def of_native(rng: random.Random) -> bytes:
    records = [
        native.Record(
            rng.choice((1, 2, 3, 5, 13, 35, 30)),
            ARRIVAL + rng.choice((0, -1000, 10**7)),
            rng.choice((0, 5, 10**15, -1, rng.getrandbits(40))),
            rng.getrandbits(2),
        )
        for _ in range(rng.choice((1, 1, 2, 3, 73)))
    ]
    octets, numbers = rng.choice(OWNERS), (rng.getrandbits(32), rng.getrandbits(32))
    datagram = bytearray(native.encode(octets, *numbers, records, acknowledge=rng.random() < 0.5))
    if rng.random() < 0.5:
        mutate(rng, datagram)
    if rng.random() < 0.7:
        key_id = rng.choice((1, 2, 7, 255, 99))
        datagram = datagram.ljust(40, b"\0")
        cipher = CIPHERS.get((bytes(datagram[4:20]), key_id), STRANGER)
        datagram = bytearray(seal(bytes(datagram), key_id, cipher, encrypt=rng.random() < 0.5))
    if rng.random() < 0.5:
        mutate(rng, datagram)
    return bytes(datagram)


NAMES = [
    "kitchen",
    "kitchen",
    "cellar-1",
    "boiler",
    "attic",
    "",
    "a" * 40,
    "0190163d-8694-739b-aea5-966c26f8ad91",
]
VALUES: list[object] = [
    0,
    1,
    5,
    230,
    12.5,
    -1,
    1.5,
    10**15,
    10**40,
    -0.0,
    1e300,
    None,
    True,
    "5",
    [],
    {},
]
REGISTERS = [
    "energy_export",
    "power_export",
    "voltage_l1",
    "energy_import",
    "1-0:1.8.0",
    "1.8.0",
    "power",
    "frequency",
    "colour",
    "",
]
TIMES: list[object] = [
    None,
    0,
    ARRIVAL / 1000,
    "2026-11-23T10:15:00Z",
    "2026-11-23",
    1e300,
    -1,
    "x",
    True,
]


def of_json(rng: random.Random) -> bytes:
    body: dict[str, object] = {
        "meter": rng.choice(NAMES),
        "registers": {
            rng.choice(REGISTERS): rng.choice(VALUES) for _ in range(rng.choice((1, 1, 2, 30)))
        },
    }
    if rng.random() < 0.5:
        body["time"] = rng.choice(TIMES)
    if rng.random() < 0.3:
        body["epoch"] = rng.choice((0, 2**32 - 1, 2**32, -1, 1.0, None))
    datagram = bytearray(json.dumps(body).encode())
    if rng.random() < 0.02:
        datagram += b" " * rng.choice((500, 1200))
    if rng.random() < 0.6:
        mutate(rng, datagram)
    return bytes(datagram)


STATUS_FIELDS = sorted(shelly_status.METER | shelly_status.COUNTERS | shelly_status.LOAD)


def of_shelly(rng: random.Random) -> bytes:
    components: dict[str, object] = {}
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        said: dict[str, object] = {"id": 0, "a_errors": rng.choice(([], ["power_meter_failure"]))}
        for field in rng.sample(STATUS_FIELDS, rng.choice((0, 1, 4, len(STATUS_FIELDS)))):
            value = rng.choice((0, 1, 0.5, 0.93, 1e-9, rng.choice(VALUES)))
            said[field] = {"total": value} if field.endswith("aenergy") else value
        components[f"{rng.choice((*shelly_status.KINDS, 'sys'))}:{rng.randrange(3)}"] = said
    if rng.random() < 0.7:
        components["ts"] = rng.choice((ARRIVAL / 1000, 1.61, None, 1e300, ARRIVAL, "x"))
    frame = {
        "src": rng.choice(("shellypro4pm-30c6f784e78c", "plug", "", "a" * 70)),
        "dst": "*",
        "method": rng.choice(("NotifyStatus", "NotifyStatus", "NotifyFullStatus", "NotifyEvent")),
        "params": components,
    }
    datagram = bytearray(json.dumps(frame, separators=(",", ":")).encode())
    if rng.random() < 0.02:
        datagram += b" " * rng.choice((500, 4000))
    if rng.random() < 0.4:
        mutate(rng, datagram)
    return bytes(datagram)


SPEEDWIRE = [octets_of(vector) for vector in GOOD]


def of_speedwire(rng: random.Random) -> bytes:
    datagram = bytearray(rng.choice(SPEEDWIRE))
    head = datagram.find(b"\x60\x69") + 2
    # One of the meters has a key; what came already, values that nobody has, other protocols.
    numbers = (rng.choice((349, 372)), rng.randrange(5), rng.getrandbits(32))
    if rng.random() < 0.8 and head > 1:
        datagram[head : head + 10] = struct.pack(">HII", *numbers)
    if rng.random() < 0.1:
        datagram[head - 2 : head] = rng.choice((b"\x60\x65", b"\x60\x75", b"\x60\x81"))
    if rng.random() < 0.2:
        at = datagram.find(b"\x00\x0d\x04\x00")
        datagram[at + 4 : at + 8] = rng.choice((b"\0\0\x0f\xff", b"\xff" * 4, bytes(4)))
    if rng.random() < 0.02:
        datagram += bytes(rng.choice((500, 700)))
    if rng.random() < 0.1:  # no entries but the first
        del datagram[head + 18 : -4]
        datagram[12:14] = struct.pack(">H", max(len(datagram) - 20, 0))
        datagram[head + 14 : head + 18] = rng.choice((b"\xff" * 4, bytes(4)))
    if rng.random() < 0.4:
        mutate(rng, datagram)
    return bytes(datagram)


DLMS_PLAIN = [bytes.fromhex(push["udp4059_hex"]) for push in test_dlms.PUSHES[7:]]
DLMS_OTHERS = [test_dlms.wrapped(bytes.fromhex(case["apdus"][0])) for case in test_dlms.OTHERS]
DLMS_GATE = Gate(
    Allowed(("127.0.0.0/8",), ("*[!w]",)),
    test_dlms.ring(
        (test_dlms.METER, 1, test_dlms.EK, test_dlms.AK, None),
        (bytes(range(8)).hex(), 1, test_dlms.SECOND, test_dlms.AK, 5),
    ),
)
DLMS_COUNTERS = itertools.count(2)
GATES = {"dlms": DLMS_GATE}


def of_dlms(rng: random.Random) -> bytes:
    counter = next(DLMS_COUNTERS) - rng.choice((0, 0, 0, 0, 1, 2))
    name = rng.choice(("hall", "attic", "hallow", "", test_dlms.METER, "no id"))
    made = test_dlms.power(rng.getrandbits(16), name)
    if rng.random() < 0.3:
        plain = rng.choice((*DLMS_PLAIN, *DLMS_OTHERS))[8:]
    elif rng.random() < 0.05:
        plain = test_dlms.list_of(test_dlms.VALUE, "05ffffffff", *test_dlms.NAME_ELEMENTS)
    else:
        plain = made
    octets = bytearray(plain)
    if rng.random() < 0.5:
        mutate(rng, octets)
    if rng.random() < 0.6:
        octets = bytearray(
            test_dlms.sealed(
                bytes(octets) or b"x",
                counter,
                control=rng.choice((0x30, 0x30, 0x30, 0x10, 0x20, 0x40)),
                half=rng.choice((test_dlms.AK, test_dlms.AK, test_dlms.EK)),
                key=rng.choice((test_dlms.EK, test_dlms.EK, test_dlms.SECOND)),
                title=rng.choice((test_dlms.TITLE, test_dlms.TITLE, bytes(range(8)), bytes(8))),
            )
        )
    if rng.random() < 0.1:
        octets = bytearray(rng.choice(test_dlms.blocks(bytes(octets), 40)))
    datagram = bytearray(test_dlms.wrapped(bytes(octets)))
    if rng.random() < 0.02:
        datagram += bytes(rng.choice((500, 2_100)))
    if rng.random() < 0.2:
        mutate(rng, datagram)
    return bytes(datagram)


LINE_NAMES = ["kitchen", "attic", "349-1", "", "a b", "x" * 40, "x" * 70, "é"]
LINE_FIELDS = ["power", "energy_import_kWh", "pf", "colour", "voltage", ""]
LINE_VALUES = [
    "230",
    "230",
    "5i",
    "-1u",
    "true",
    '"on"',
    '"a\nb"',
    '"',
    "1e300",
    "1e400",
    ".5",
    "0" * 30,
]
LINE_TIMES = ["", "", f" {ARRIVAL}000000", " 0", f" {2**63}", " now"]


def of_line(rng: random.Random) -> bytes:
    lines = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice(LINE_NAMES[:2]) if rng.random() < 0.7 else rng.choice(LINE_NAMES)
        tag = rng.choice((",id=", ",meter=", ",room=hall,host=", ",room="))
        fields = [
            f"{rng.choice(LINE_FIELDS)}={rng.choice(LINE_VALUES[: rng.choice((3, 12))])}"
            for _ in range(rng.choice((1, 1, 2, 4)))
        ]
        lines.append(f"m{tag}{name} {','.join(fields)}{rng.choice(LINE_TIMES)}")
    datagram = bytearray(rng.choice(("\n", "\n", "\r\n", "\n# a comment\n")).join(lines).encode())
    if rng.random() < 0.01:
        return rng.choice((b"", b"\n", b"# nothing", b" " * (line.LONGEST + 1)))
    if rng.random() < 0.4:
        mutate(rng, datagram)
    return bytes(datagram)


# Formats whose datagrams carry messages of several meters, each of which is counted.
SEVERAL = {"shelly", "line", "auto"}


@pytest.fixture
def without_collection() -> Iterator[None]:
    """The garbage of the test's own is nothing that a datagram costs."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.usefixtures("without_collection")
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(
    ("name", "made", "reasons"),
    [
        ("native", of_native, set(NATIVE_REASONS)),
        ("json", of_json, set(JSON_REASONS)),
        # No key is of a meter with a name like these.
        ("shelly", of_shelly, set(SHELLY_REASONS) - {"unsigned"}),
        ("speedwire", of_speedwire, set(SPEEDWIRE_REASONS)),
        ("dlms", of_dlms, test_dlms.REASONS),
        ("line", of_line, LINE_REASONS),
        # What starts with a letter by chance is a line, or several.
        ("auto", of_native, {*NATIVE_REASONS, *JSON_REASONS, "no_reading"}),
    ],
)
def test_a_mutated_datagram_is_taken_or_counted_at_once(
    name: str, made: Callable[[random.Random], bytes], reasons: set[str], part: int
) -> None:
    if name == "auto" and LONG:
        pytest.skip("the other formats take their part of it")
    decode, gate = FORMATS[name].decoder(Options()), GATES.get(name, GATE)
    rng = random.Random(f"{name} {part}")
    usual = ordinary([Datagrams.of([made(rng)]) for _ in range(51)], decode, gate)
    most = MOST_TIMES * seconds(decode, usual, gate)
    accepted, refused = 0, Counter[Reason]()
    seen: set[tuple[object, ...]] = set()
    for _ in range(TOTAL // PARTS):
        datagrams = Datagrams.of([made(rng)], rng.choice(SOURCES))
        began = time.thread_time()
        decoded = decode(datagrams, ARRIVAL, gate)
        took = time.thread_time() - began
        if took > most:  # the machine may be slower now than it was: both again
            took, most = seconds(decode, datagrams, gate), MOST_TIMES * seconds(decode, usual, gate)
        assert took <= most, datagrams.each()[0].hex()
        kind = int(datagrams.lengths[0]), *decoded.tally.refused
        if kind not in seen:
            seen.add(kind)
            assert octets(decode, datagrams, gate) <= MOST_OCTETS, datagrams.each()[0].hex()
        counted = decoded.tally.accepted + decoded.tally.refused.total()
        assert counted == 1 or (counted > 1 and name in SEVERAL)
        assert len(decoded.envelopes) == decoded.tally.accepted
        assert bool(len(decoded.readings)) == bool(decoded.tally.accepted)
        accepted += decoded.tally.accepted
        refused += decoded.tally.refused
    # All that is documented does happen, and much is right in spite of all.
    assert {*refused} <= reasons
    assert TOTAL // PARTS // 100 < accepted < TOTAL // PARTS // 2
    if name != "auto":
        assert {*refused} == reasons


def ordinary(some: list[Datagrams], decode: Callable[..., object], gate: Gate) -> Datagrams:
    """Of several the one in the middle, by what they take."""
    return sorted(some, key=lambda one: seconds(decode, one, gate))[len(some) // 2]


def seconds(decode: Callable[..., object], datagrams: Datagrams, gate: Gate) -> float:
    """Of the processor, the shortest of five: what else this machine does is left out."""
    took = []
    for _ in range(5):
        began = time.thread_time()
        decode(datagrams, ARRIVAL, gate)
        took.append(time.thread_time() - began)
    return min(took)


def octets(decode: Callable[..., object], datagrams: Datagrams, gate: Gate) -> int:
    tracemalloc.start()
    decode(datagrams, ARRIVAL, gate)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most
