"""With keys in the ring the decoders agree on any bytes, changed before and after signing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry import meter_id
from telemetry.admission import Allowed, Gate
from telemetry.datagrams import Datagrams, Decoded, Mark, halves_of
from telemetry.formats import dlms, native, native_bulk
from telemetry.formats.options import Options
from telemetry.formats.table import FORMATS
from telemetry.readings import COLUMNS
from telemetry.registers import BY_CODE
from telemetry.rejects import Reason, RejectedError
from telemetry.security import seal
from tests.examples import examples
from tests.telemetry.rings import KEYS, MASTER, ring_of, vector_gate

ARRIVAL = 1_795_428_900_000  # the end of one of the ring's keys
GATE = vector_gate()
TEXT = (*FORMATS["json"].starts, *FORMATS["line"].starts)  # first octets of other formats
SECRETS = {(octets, key_id): GATE.ring.secret(row) for row, (octets, key_id, *_) in enumerate(KEYS)}
KITCHEN = b"kitchen".ljust(16, b"\0")
OWNERS = [KITCHEN, bytes(16), *sorted({octets for octets, *_ in KEYS})]
HOME, AWAY = "127.0.0.1", "192.0.2.1"


@dataclass(frozen=True)
class Case:
    datagram: bytes
    source: str


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A datagram, perhaps changed, then perhaps signed, perhaps changed again, perhaps cut."""
    octets = draw(st.sampled_from(OWNERS))
    codes = st.sampled_from([*sorted(BY_CODE), 0, 30, 36, 0xFFFF]) | st.just(1)
    values = st.integers(0, 500) | st.sampled_from([-1, 10**15, 10**15 + 1, -(2**63)])
    record = st.builds(native.Record, codes, st.just(ARRIVAL), values, st.integers(0, 3))
    records = draw(st.lists(record, min_size=1, max_size=4))
    numbers = [draw(st.sampled_from([0, 1, 2**32 - 1])) for _ in range(2)]
    datagram = bytearray(
        native.encode(octets, numbers[0], numbers[1], records, acknowledge=draw(st.booleans()))
    )
    change(draw, datagram)
    if draw(st.integers(0, 3)):
        key_id = draw(st.sampled_from([1, 2, 7, 255, 9, 0]))
        secret = SECRETS.get((bytes(datagram[4:20]), key_id)) or draw(
            st.binary(min_size=16, max_size=16)
        )
        datagram = bytearray(
            seal(bytes(datagram), key_id, AESGCM(secret), encrypt=draw(st.booleans()))
        )
    change(draw, datagram)
    if not draw(st.integers(0, 9)):
        del datagram[draw(st.integers(0, len(datagram))) :]
    return Case(bytes(datagram), draw(st.sampled_from([HOME, HOME, AWAY])))


def change(draw: st.DrawFn, datagram: bytearray) -> None:
    if not draw(st.integers(0, 2)):
        place = draw(st.integers(0, 39) | st.integers(0, len(datagram) - 1))
        datagram[place] = draw(st.sampled_from([0, 1, 2, 3, 255]) | st.integers(0, 255))


def one_by_one(cases: list[Case], gate: Gate) -> tuple[list[object], list[object], Counter[Reason]]:
    """Readings, envelopes and refusals as the scalar decoder has them."""
    readings: list[object] = []
    envelopes: list[object] = []
    refused: Counter[Reason] = Counter()
    for place, case in enumerate(cases):
        try:
            one = native.decode(case.datagram, ARRIVAL, gate, case.source)
        except RejectedError as rejected:
            refused[rejected.reason] += 1
            continue
        halves = meter_id.halves(one.octets)
        marks = Mark.NUMBERED | (Mark.ACKNOWLEDGE if one.acknowledge else 0)
        marks |= Mark.SIGNED if one.key_id else 0
        envelopes.append((place, *halves, one.epoch, one.sequence, len(one.records), marks))
        readings += [
            (*halves, one.epoch, each.register, each.status, each.time, each.value)
            for each in one.records
        ]
    return readings, envelopes, refused


def in_columns(decoded: Decoded) -> tuple[list[object], list[object]]:
    readings = zip(*(getattr(decoded.readings, name).tolist() for name in COLUMNS), strict=True)
    own = decoded.envelopes
    columns = (own.key_high, own.key_low, own.epoch, own.sequence, own.count, own.marks)
    envelopes = zip(decoded.rows.tolist(), *(one.tolist() for one in columns), strict=True)
    return list(readings), list(envelopes)


def batch(cases: list[Case]) -> Datagrams:
    plain = Datagrams.of([case.datagram for case in cases])
    sources = np.stack([halves_of(case.source) for case in cases])
    return Datagrams(plain.octets, plain.lengths, sources)


def agree(cases: list[Case], gate: Gate = GATE) -> Decoded:
    datagrams = batch(cases)
    before = datagrams.octets.copy()
    decoded = native_bulk.decode(datagrams, ARRIVAL, gate)
    readings, envelopes, refused = one_by_one(cases, gate)
    assert in_columns(decoded) == (readings, envelopes)
    assert (decoded.tally.accepted, decoded.tally.refused) == (len(envelopes), refused)
    assert decoded.tally.meters.total() <= refused.total()
    assert (datagrams.octets == before).all()
    return decoded


@settings(deadline=None, max_examples=examples(400))
@given(st.lists(cases(), min_size=1, max_size=6))
def test_on_mutated_datagrams(cases: list[Case]) -> None:
    agree(cases)


@settings(deadline=None, max_examples=examples(150))
@given(st.lists(cases(), min_size=2, max_size=6))
def test_on_datagrams_of_one_length(cases: list[Case]) -> None:
    """Signed ones of n records are as long as unsigned ones of one more."""
    length = max(len(case.datagram) for case in cases)
    agree([Case((case.datagram or b"\xf5").ljust(length, b"\0"), case.source) for case in cases])
    agree([case for case in cases if len(case.datagram) == length])


@settings(deadline=None)
@given(st.lists(cases(), min_size=1, max_size=4), st.sampled_from([["kit*"], [], ["boiler", "?*"]]))
def test_where_only_some_meters_may_send_unsigned(cases: list[Case], meters: list[str]) -> None:
    agree(cases, Gate(Allowed(["127.0.0.0/8"], meters), ring_of(KEYS, MASTER)))


@settings(deadline=None)
@given(st.lists(cases(), min_size=1, max_size=4))
def test_a_listener_of_both_formats_does_the_same(cases: list[Case]) -> None:
    # What begins as another format's is that format's: text, and DLMS, which has two octets.
    cases = [
        case
        for case in cases
        if case.datagram[:1] not in TEXT and not case.datagram.startswith(dlms.STARTS)
    ]
    if not cases:
        return
    decoded = FORMATS["auto"].decoder(Options())(batch(cases), ARRIVAL, GATE)
    readings, envelopes, refused = one_by_one(cases, GATE)
    assert in_columns(decoded) == (readings, envelopes)
    assert decoded.tally.refused == refused


def signed(encrypt: bool, count: int = 2, octets: bytes = KEYS[0][0]) -> bytes:
    records = [native.Record(1, ARRIVAL, number) for number in range(count)]
    datagram = native.encode(octets, 7, 42, records)
    return seal(datagram, 1, AESGCM(SECRETS[octets, 1]), encrypt=encrypt)


def test_on_every_truncation() -> None:
    for encrypt in (False, True):
        whole = signed(encrypt, 3)
        decoded = agree([Case(whole[:length], HOME) for length in range(len(whole) + 1)])
        assert decoded.tally.accepted == 1
        for length in range(len(whole)):
            assert not agree([Case(whole[:length], HOME)]).tally.accepted


def test_on_every_bit_of_a_signed_datagram() -> None:
    for encrypt in (False, True):
        whole = signed(encrypt)
        changed = []
        for bit in range(8 * len(whole)):
            one = bytearray(whole)
            one[bit // 8] ^= 1 << bit % 8
            changed.append(Case(bytes(one), HOME))
        decoded = agree([*changed, Case(whole, HOME)])
        assert decoded.tally.accepted == 1
        # Nothing of a datagram can be changed, not what is about the others either.
        assert decoded.rows.tolist() == [len(changed)]
        assert decoded.tally.refused[Reason.FORGED] > 8 * 60


def test_on_a_large_batch_of_one_length() -> None:
    boiler, attic = KEYS[0][0], KEYS[2][0]
    plain = native.encode(KITCHEN, 1, 2, [native.Record(1, ARRIVAL, n) for n in range(3)])
    some = [
        Case(signed(True), AWAY),
        Case(plain, HOME),
        Case(signed(False), HOME),
        Case(plain, AWAY),
        Case(signed(True)[:-1] + b"\0", HOME),
        Case(plain.replace(KITCHEN, boiler), HOME),
        Case(signed(False).replace(boiler, attic), HOME),
        Case(signed(False).replace(boiler, KITCHEN), HOME),
    ]
    assert {len(case.datagram) for case in some} == {88}
    decoded = agree(some * 500)
    assert decoded.tally.accepted == 1500
    assert decoded.tally.meters == {
        (*meter_id.halves(boiler), Reason.FORGED): 500,
        (*meter_id.halves(boiler), Reason.UNSIGNED): 500,
        (*meter_id.halves(attic), Reason.UNKNOWN_KEY): 500,
    }
