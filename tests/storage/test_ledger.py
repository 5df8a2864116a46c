"""The ledger over random commits, folds, kills and restarts: as if one datagram came at a time."""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import accounts, deletion, deliveries, ledger, loss, meters, schema
from storage.columns import DamagedError
from storage.deliveries import COUNTS, Delivery
from storage.engine import Database, close_writer, open_writer
from storage.judged import Judged
from storage.ledger import Ledger
from telemetry import meter_id
from telemetry.counts import Counts, ListenerCounts
from telemetry.datagrams import Envelopes, Mark
from telemetry.formats.ack import WINDOW
from telemetry.windows import LATE, Verdict
from tests.examples import examples
from tests.storage.conftest import MakeDatabase
from tests.telemetry.test_windows import EPOCHS, NEAR, Meter
from tests.waiting import undisturbed

NOW = 1_760_000_000_000
PLAIN, ASKING, SIGNED = Mark.NUMBERED, Mark.NUMBERED | Mark.ACKNOWLEDGE, Mark.NUMBERED | Mark.SIGNED
JSON = Mark(0)
METERS = 4
Came = tuple[int, int, int, Mark, bool]  # meter, epoch, sequence, marks, late


def octets(number: int) -> bytes:
    return f"meter-{number}".encode().ljust(16, b"\0")


def envelopes(came: list[Came]) -> Envelopes:
    halves = [meter_id.halves(octets(number)) for number, *_ in came]
    high, low = (np.array([pair[at] for pair in halves], np.uint64) for at in (0, 1))
    epoch, sequence = (np.array([each[at] for each in came], np.uint32) for at in (1, 2))
    marks = np.array([each[3] for each in came], np.uint8)
    return Envelopes(high, low, epoch, sequence, np.ones(len(came), np.uint16), marks)


@dataclass
class Book:
    """What the ledger should say: docs/delivery.md, one datagram after the other."""

    meters: dict[int, Meter] = field(default_factory=lambda: defaultdict(Meter))
    counts: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def take(self, came: Came) -> bool:
        """Whether its readings are stored."""
        number, epoch, sequence, marks, is_late = came
        meter, counts = self.meters[number], self.counts[number]
        before = meter.counts["out_of_order"], meter.lost
        verdict = meter.judge(epoch, sequence) if marks & Mark.NUMBERED else Verdict.UNIQUE
        names = {Verdict.UNIQUE: "uniques", Verdict.DUPLICATE: "duplicates", Verdict.STALE: "stale"}
        counts[names[verdict]] += 1
        counts["out_of_order"] += meter.counts["out_of_order"] - before[0]
        counts["lost"] += meter.lost - before[1]
        counts["late"] += is_late and verdict is Verdict.UNIQUE
        return verdict is Verdict.UNIQUE or not marks & (Mark.SIGNED | Mark.ACKNOWLEDGE)

    def expected(self, number: int) -> list[int]:
        return [self.counts[number][name] for name in COUNTS]

    @property
    def totals(self) -> list[int]:
        return [sum(self.expected(number)[at] for number in self.counts) for at in range(6)]


class Office:
    """A ledger on a real database, that may be killed."""

    def __init__(self, database: Database, count: int = METERS) -> None:
        self.engine = open_writer(database)
        with self.engine.begin() as connection:
            meters.add_all(connection, 1, [octets(n) for n in range(1, count + 1)], NOW)
        self.book = Book()
        self.clock = NOW
        self.restart()

    def restart(self) -> None:
        """As after a kill: nothing but what is committed is known."""
        self.ledger = Ledger(self.engine.begin)
        with self.engine.begin() as connection:
            self.ledger.learn(connection)

    def judge(self, connection: sa.Connection | None, came: list[Came]) -> Judged:
        self.clock += 50
        numbers = np.array([number for number, *_ in came], np.int64)
        if connection is None:
            numbers[:] = -1
        newest = np.array([self.clock - (LATE + 1) * each[4] for each in came], np.int64)
        return self.ledger.judge(connection, numbers, envelopes(came), newest, self.clock)

    def commit(self, came: list[Came]) -> Judged:
        with self.engine.begin() as connection:
            judged = self.judge(connection, came)
        self.ledger.committed()
        assert judged.stored.tolist() == [self.book.take(each) for each in came]
        return judged

    def count(self, *counts: Counts) -> None:
        with self.engine.begin() as connection:
            self.ledger.count(connection, list(counts))
        self.ledger.committed()

    def refuse(self, came: list[Came]) -> None:
        """A transaction that is taken back."""
        with self.engine.connect() as connection:
            self.judge(connection, came)
            self.ledger.count(connection, [Counts([ListenerCounts("udp", 1)])])
            connection.rollback()
        with self.engine.begin() as connection:
            self.ledger.learn(connection)

    def answer(self, number: int | None = None, most: int = 10, skip: int = 0) -> dict[str, Any]:
        body = msgspec.json.encode(loss.Question(number, most, skip))
        answer = self.ledger.loss(body, self.clock)
        with self.engine.connect() as connection:
            told = loss.from_tables(connection, loss.Question(number, most, skip))
        same = ("totals", "listeners", *(("meters", "more") if number is not None else ()))
        for name in same:
            assert told[name] == answer[name]
        return answer

    def check(self) -> None:
        """Memory, tables and the book say the same of every meter and of all."""
        with self.engine.connect() as connection:
            stored = accounts.load(connection)
        for held in (stored, self.ledger._accounts):
            assert held.totals.tolist() == self.book.totals
            assert held.counts.sum(axis=0).tolist() == self.book.totals
            for number, meter in self.book.meters.items():
                assert held.of(number).tolist() == self.book.expected(number)
                if meter.epoch >= 0:
                    window = held.windows.take(np.array([number]))
                    assert window.epoch.tolist() == [meter.epoch]
                    assert window.highest.tolist() == [meter.highest]
                    assert int(window.bitmap[0]) == sum(
                        1 << meter.highest - n
                        for n in range(max(0, meter.highest - WINDOW + 1), meter.highest + 1)
                        if (meter.epoch, n) in meter.seen
                    )
                elif number < len(held):
                    assert held.windows.bitmap[number] == 0

    def check_kept(self, gone: set[int]) -> None:
        """What deleted meters had is in the totals, theirs no more."""
        held = self.ledger._accounts
        assert held.totals.tolist() == held.counts.sum(axis=0).tolist() == self.book.totals
        for number in gone:
            assert not held.of(number).any()
        for number in self.book.meters:
            assert held.of(number).tolist() == self.book.expected(number)

    def wipe(self) -> None:
        """As new."""
        with self.engine.begin() as connection:
            for name in ("ledger", "deliveries", "meters", "info"):
                table = schema.metadata.tables[name]
                connection.execute(table.delete())
            meters.add_all(connection, 1, [octets(n) for n in range(1, METERS + 1)], NOW)
        self.book = Book()
        self.restart()

    def rows(self, table: sa.Table) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            order = list(table.primary_key)
            return [tuple(row) for row in connection.execute(sa.select(table).order_by(*order))]

    def close(self) -> None:
        close_writer(self.engine)


@pytest.fixture
def make_office(make_database: MakeDatabase) -> Iterator[Callable[[], Office]]:
    made: list[Office] = []

    def make() -> Office:
        made.append(Office(make_database()))
        return made[-1]

    yield make
    for office in made:
        office.close()


@pytest.fixture
def office(make_office: Callable[[], Office]) -> Office:
    return make_office()


CAME = st.tuples(
    st.integers(1, METERS),
    EPOCHS,
    st.one_of(st.integers(0, 200), NEAR),
    st.sampled_from([JSON, PLAIN, ASKING, SIGNED, ASKING | SIGNED]),
    st.booleans(),
)
STEPS = st.lists(
    st.one_of(
        st.lists(CAME, min_size=1, max_size=40).map(lambda came: ("commit", came)),
        st.lists(CAME, min_size=1, max_size=5).map(lambda came: ("refuse", came)),
        st.integers(1, 6).map(lambda count: ("step", count)),
        st.just(("kill", None)),
        st.just(("fold", None)),
        st.integers(1, METERS).map(lambda number: ("delete", number)),
    ),
    min_size=1,
    max_size=15,
)


def run(office: Office, steps: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_LEAST", 1)
    monkeypatch.setattr(ledger, "_MOST", 2)
    monkeypatch.setattr(ledger, "_EVERY", 0)
    monkeypatch.setattr(ledger, "_OCTETS_A_SLICE", 150)
    gone: set[int] = set()
    for what, argument in steps:
        if what == "kill":
            office.restart()
        elif what == "fold":
            office.ledger.fold()
            assert not office.ledger.step(office.clock)
            assert len(office.rows(schema.deliveries)) <= 1
        elif what == "step":
            for _ in range(argument):
                office.ledger.step(office.clock)
        elif what == "delete":
            if argument in gone:
                continue
            gone.add(argument)
            with office.engine.begin() as connection:
                deletion.delete(connection, argument, METERS)
            if argument % 2:  # else the writer is killed before it says so
                office.ledger.deleted(argument)
            else:
                office.restart()
            office.book.counts[0].update(office.book.counts.pop(argument, Counter()))
            office.book.meters.pop(argument, None)
        elif came := [each for each in argument if each[0] not in gone]:
            (office.commit if what == "commit" else office.refuse)(came)
        if what != "delete":
            office.check_kept(gone)


@given(STEPS)
@settings(
    max_examples=examples(80),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_commits_folds_kills_and_deletions(
    office: Office, steps: list[tuple[str, Any]]
) -> None:
    office.wipe()
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(office, steps, monkeypatch)
        if not any(what == "delete" for what, _ in steps):
            office.check()
        office.restart()
        office.ledger.fold()
        office.restart()
        assert office.ledger._accounts.totals.tolist() == office.book.totals
        registered = {number for number, *_ in office.rows(schema.meters)}
        assert {row[0] for row in office.rows(schema.ledger)} <= registered | {accounts.DELETED}


def test_a_fold_amid_a_pass_leaves_no_delivery(office: Office) -> None:
    """Found by chance among any steps: all rows were written, and the deliveries stayed."""
    office.commit([(1, 5, 0, JSON, False)])
    office.commit([(1, 5, 1, JSON, False)])
    assert office.ledger.step(NOW + 100_000)
    office.ledger.fold()
    assert len(office.rows(schema.deliveries)) <= 1
    office.check()


def test_a_kill_between_commit_and_fold(office: Office) -> None:
    office.commit([(1, 5, n, ASKING, False) for n in range(10)])
    office.commit([(1, 5, 12, ASKING, True), (2, 1, 3, JSON, False)])
    office.restart()
    office.check()
    assert office.commit([(1, 5, 12, ASKING, False)]).stored.tolist() == [False]
    # Some of the rows are written, and then it is killed.
    assert office.ledger.step(office.clock)
    assert len(office.rows(schema.ledger)) == 2
    office.commit([(1, 5, 11, SIGNED, False)])
    office.restart()
    office.check()
    office.ledger.fold()
    office.restart()
    office.check()
    assert office.commit([(1, 5, 3, SIGNED, False)]).stored.tolist() == [False]


def test_readings_that_are_replayed_are_not_stored(office: Office) -> None:
    recorded: list[Came] = [(n % METERS + 1, 7, n // METERS, SIGNED, False) for n in range(2000)]
    first = office.commit(recorded)
    assert first.stored.all()
    assert not len(first.acknowledgements)
    random = np.random.default_rng(3)
    for again in range(3):
        shuffled = [recorded[at] for at in random.permutation(len(recorded))]
        assert not office.commit(shuffled).stored.any()
        if again == 1:
            office.ledger.fold()
            office.restart()
    answer = office.answer()["totals"]
    assert (answer["received"], answer["unique"], answer["lost"]) == (8000, 2000, 0)
    # What is neither signed nor wants to know is stored, whatever its numbers.
    assert office.commit([(1, 7, 3, PLAIN, False), (1, 7, 400, PLAIN, False)]).stored.all()


def test_who_asks_is_answered(office: Office) -> None:
    judged = office.commit(
        [
            (3, 9, 0, ASKING, False),
            (1, 5, 0, ASKING, False),
            (2, 5, 0, PLAIN, False),
            (1, 5, 2, ASKING | SIGNED, False),
            (4, 1, 1, JSON | Mark.ACKNOWLEDGE, False),
        ]
    )
    told = {
        meter_id.from_halves(int(row["key_high"]), int(row["key_low"])): tuple(row.tolist()[2:])
        for row in judged.acknowledgements
    }
    assert told == {octets(3): (9, 1, 0), octets(1): (5, 1, 1)}
    rows = [octets(3), octets(1), None, octets(1), None]
    keys = [bytes(row.tobytes()[:16]) for row in judged.acknowledgements]
    assert [None if at < 0 else keys[at] for at in judged.answers.tolist()] == rows
    # A duplicate is answered again; what is stale alone is not.
    assert len(office.commit([(1, 5, 2, ASKING, False)]).acknowledgements) == 1
    stale = office.commit([(1, 4, 2, ASKING, False)])
    assert (len(stale.acknowledgements), stale.answers.tolist()) == (0, [-1])
    # Of two epochs in a commit the newer is answered.
    both = office.commit([(1, 5, 1, ASKING, False), (1, 6, 0, ASKING, False)])
    assert both.acknowledgements["epoch"].tolist() == [6]
    assert both.answers.tolist() == [-1, 0]


def test_nothing_is_true_before_the_commit(office: Office) -> None:
    office.commit([(1, 5, 0, ASKING, False)])
    office.refuse([(1, 5, n, ASKING, False) for n in range(1, 50)])
    office.check()
    assert office.answer()["listeners"] == []
    judged = office.commit([(1, 5, 1, ASKING, False)])
    assert judged.stored.all()
    assert judged.acknowledgements["next"].tolist() == [2]


def test_a_commit_that_was_made_though_the_database_refused(office: Office) -> None:
    """The connection broke between the commit and its answer."""
    with office.engine.begin() as connection:
        office.judge(connection, [(1, 5, 0, ASKING, False)])
        office.ledger.count(connection, [Counts([ListenerCounts("udp", 1)])])
    office.book.take((1, 5, 0, ASKING, False))
    with office.engine.begin() as connection:
        office.ledger.learn(connection)
    office.check()
    assert office.answer()["listeners"][0]["accepted"] == 1


def test_what_goes_to_the_spool_counts_once(office: Office) -> None:
    office.commit([(1, 5, n, ASKING, False) for n in range(3)])
    batches: list[list[Came]] = [
        [(1, 5, 2, ASKING, False), (1, 5, 3, ASKING, False), (2, 1, 0, ASKING, False)],
        [(1, 5, 5, ASKING, False), (1, 5, 3, ASKING, False), (2, 1, 2, ASKING, False)],
    ]
    before = office.ledger._accounts.totals.tolist()
    spooled = [office.judge(None, came) for came in batches]
    assert office.ledger._accounts.totals.tolist() == before
    # Without their numbers meters have no window from before; what they are told is true still.
    (first, second) = ({row["epoch"]: row for row in judged.acknowledgements} for judged in spooled)
    assert [(int(row["next"]), int(row["bitmap"])) for row in first.values()] == [(0, 6), (1, 0)]
    assert [(int(row["next"]), int(row["bitmap"])) for row in second.values()] == [
        (0, 0b10110),
        (1, 1),
    ]
    for came in batches:
        office.commit(came)
    office.ledger.drained()
    assert len(office.ledger._ahead.windows) == 0
    office.check()


def test_what_comes_from_a_file_is_not_counted(office: Office) -> None:
    """Beside datagrams of the same commit, and alone."""
    office.commit([(1, 5, 0, ASKING, False)])
    before = office.ledger._accounts.totals.copy()
    came: list[Came] = [
        (1, 0, 0, Mark.UNCOUNTED, False),
        (1, 5, 0, ASKING, False),
        (2, 0, 0, Mark.UNCOUNTED, False),
    ]
    with office.engine.begin() as connection:
        judged = office.ledger.judge(
            connection, np.array([1, 1, 2]), envelopes(came), np.full(3, NOW), NOW
        )
    office.ledger.committed()
    assert judged.stored.tolist() == [True, False, True]
    assert judged.answers.tolist() == [-1, 0, -1]
    grown = dict(zip(COUNTS, (office.ledger._accounts.totals - before).tolist(), strict=True))
    assert {name: count for name, count in grown.items() if count} == {"duplicates": 1}


def test_windows_go_on_in_the_spool(office: Office) -> None:
    """With their numbers meters have the windows that they have in the database."""
    office.commit([(1, 5, n, ASKING, False) for n in range(3)])
    came: list[Came] = [(1, 5, n, SIGNED, False) for n in (1, 3)]
    judged = office.ledger.judge(None, np.array([1, 1]), envelopes(came), np.array([NOW, NOW]), NOW)
    assert judged.stored.tolist() == [False, True]
    again = office.ledger.judge(None, np.array([1, 1]), envelopes(came), np.array([NOW, NOW]), NOW)
    assert not again.stored.any()
    assert office.ledger._accounts.of(1).tolist() == office.book.expected(1)


def test_the_worst_meters(make_office: Callable[[], Office]) -> None:
    office = make_office()
    lost = {1: 4, 2: 0, 3: 9, 4: 4}
    office.commit([(number, 1, many, PLAIN, False) for number, many in lost.items()])
    pages = [office.answer(most=2, skip=skip) for skip in (0, 2, 4)]
    assert [[row["number"] for row in page["meters"]] for page in pages] == [[3, 1], [4], []]
    assert [page["more"] for page in pages] == [True, False, False]
    assert office.answer(3)["meters"][0]["lost"] == 9
    assert office.answer(4)["meters"][0]["received"] == 1
    assert office.answer(99)["meters"][0]["received"] == 0
    office.ledger.fold()
    with office.engine.connect() as connection:
        told = [loss.from_tables(connection, loss.Question(None, 2, skip)) for skip in (0, 2, 4)]
    for page, there in zip(pages, told, strict=True):
        assert (there["meters"], there["more"]) == (page["meters"], page["more"])


# What listeners count


def listener(**counts: Any) -> Counts:
    return Counts([ListenerCounts("udp 127.0.0.1:5001", **counts)])


def test_counts_of_listeners(office: Office) -> None:
    key = meter_id.halves(octets(2))
    for restart in (False, True):
        office.count(
            listener(accepted=5, refused={"type": 2}),
            Counts(
                [ListenerCounts("udp 127.0.0.1:5002", accepted=1, refused={"type": 1, "short": 1})],
                [(*key, "security", 3), (1, 2, "security", 9), (*key, "security", 1)],
            ),
        )
        if restart:
            office.restart()
    answer = office.answer(2)
    assert answer["totals"]["rejected"] == {"short": 2, "type": 6}
    assert [each["accepted"] for each in answer["listeners"]] == [10, 2]
    assert answer["listeners"][0]["rejected"] == {"type": 4}
    assert office.rows(schema.rejections) == [(2, "security", 8)]


def drops(office: Office) -> tuple[int, int]:
    totals = office.answer()["totals"]
    return totals["kernel_drops"], totals["back_pressure_drops"]


def test_the_kernels_count_wraps_and_sockets_are_handed_on(office: Office) -> None:
    office.count(listener(socket="a", drops=10))
    assert drops(office) == (10, 0)
    office.restart()  # a new receiver, with the same socket and with another one
    office.count(listener(socket="a", drops=10), listener(socket="b", drops=4))
    assert drops(office) == (14, 0)
    office.count(listener(socket="b", drops=2**32 - 1_000_000_000))
    assert drops(office) == (14, 0)  # half the circle ahead: of an earlier moment
    for count in (2**31, 2**32 - 3, 5, 5):
        office.count(listener(socket="b", drops=count))
    assert drops(office) == (10 + 2**32 + 5, 0)
    office.count(listener(socket="a", drops=9))  # said by who had handed it on
    assert drops(office) == (10 + 2**32 + 5, 0)
    office.restart()
    office.count(listener(socket="a", drops=15, back_pressure=3))
    assert drops(office) == (10 + 2**32 + 5 + 2, 3)


def test_old_sockets_are_forgotten(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.intake._MOST_SOCKETS", 3)
    for number in range(6):
        office.count(listener(socket=f"s{number}", drops=1), listener(socket="kept", drops=number))
    assert sorted(row[0] for row in office.rows(schema.sockets)) == ["kept", "s4", "s5"]
    office.count(listener(socket="kept", drops=7))
    assert drops(office) == (13, 0)


# The log of deliveries


def test_a_damaged_delivery_is_left_out(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.commit([(1, 5, 0, PLAIN, False)])
    office.commit([(1, 5, 1, PLAIN, False)])
    office.commit([(1, 5, 2, PLAIN, False)])
    table = schema.deliveries
    with office.engine.begin() as connection:
        body = connection.execute(sa.select(table.c.body).where(table.c.id == 2)).scalar_one()
        damaged = bytes(body[:-1]) + bytes([body[-1] ^ 1])
        connection.execute(table.update().where(table.c.id == 2).values(body=damaged))
    office.restart()
    assert "delivery 2 is damaged" in caplog.text
    assert office.ledger._accounts.of(1).tolist() == [2, 0, 0, 0, 0, 1]
    office.ledger.fold()
    assert len(office.rows(table)) == 1


@given(st.lists(CAME, max_size=50), st.lists(st.integers(0, 2**63 - 1), min_size=6, max_size=6))
@settings(deadline=None)
def test_deliveries_as_octets(came: list[Came], totals: list[int]) -> None:
    came = sorted(came, key=lambda each: each[0])
    meter, epoch, sequence = (np.array([each[at] for each in came], np.uint32) for at in (0, 1, 2))
    marks = np.array([each[3] & Mark.NUMBERED for each in came], np.uint8)
    delivery = Delivery(meter, epoch, sequence, marks)
    body = deliveries.encode(delivery, np.array(totals, np.int64))
    again, counts = deliveries.decode(body)
    assert counts.tolist() == totals
    for name in Delivery.__slots__:
        assert getattr(again, name).tolist() == getattr(delivery, name).tolist()
        assert getattr(again, name).dtype == getattr(delivery, name).dtype
    for bit in range(0, 8 * len(body), 7):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError):
            deliveries.decode(bytes(damaged))


def test_a_slice_is_short(office: Office) -> None:
    """Whatever there is to fold, a commit need not wait for long."""
    count = 20_000
    numbers = np.arange(10, 10 + count)
    with office.engine.begin() as connection:
        own = [f"m-{n}".encode().ljust(16, b"\0") for n in numbers]
        meters.add_all(connection, 10, own, NOW)
    one = np.ones(count, np.uint32)
    keys = np.zeros(count, np.uint64)
    rounds = itertools.count(1)

    def longest() -> float:
        """Seconds of CPU that the longest slice takes when each meter has changed."""
        at = next(rounds)
        sent = Envelopes(keys, keys, one, at * one, one.astype(np.uint16), one.astype(np.uint8))
        with office.engine.begin() as connection:
            office.ledger.judge(connection, numbers, sent, np.full(count, NOW), NOW)
        office.ledger.committed()
        took = [0.0]
        more = True
        while more:
            began = time.thread_time()
            more = office.ledger.step(NOW + at * 100_000)
            took.append(time.thread_time() - began)
        assert len(office.rows(schema.ledger)) == count
        assert len(took) > 3
        return max(took)

    undisturbed(0.1, longest)  # 50 ms on a machine that has nothing else to do
