"""Every request of the query bus with its reply (docs/bus-protocol.md, which came first).

Instants are milliseconds of Unix time, UTC; a reply names the meter's zone beside them. Energies
are whole watt-hours, money and prices are decimal text: no number here was ever a binary float.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from storage.changes import (
    AddMeters,
    ChangeMeter,
    DeleteMeter,
    RegisterMeter,
    ReplaceMeter,
    RevokeKeys,
    RotateKey,
)

PROTOCOL = 1
MOST_ROWS = 10_000  # a page of anything has at most so many
MOST_TOP = 1000
ENERGY = "1-0:1.8.0"  # active energy import: what history, totals and bills are made of


class Reply(msgspec.Struct, frozen=True):
    """The base of replies."""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """The base of requests; ``reply`` is the type that answers it."""

    reply: ClassVar[type[Reply]]


class Pong(Reply, tag="pong", frozen=True):
    """The service is there."""

    version: str
    protocol: int


class Ping(Request, tag="ping", frozen=True):
    """Is the service there, and which version is it?"""

    reply = Pong


class ListenerStatus(Reply, frozen=True):
    """One listener of a receiver, counted since that receiver started."""

    address: str
    format: str
    accepted: int
    refused: dict[str, int]
    kernel_drops: int
    buffer_octets: int
    buffer_seconds: float | None  # at the highest rate seen; None before any traffic


class ReceiverStatus(Reply, frozen=True):
    """A receiver process as it last reported itself."""

    started_ms: int
    reported_ms: int
    waiting: int  # readings handed to the writer and not yet durable
    listeners: list[ListenerStatus]


class LossTotals(Reply, frozen=True):
    """What came of all datagrams, since counting began (docs/delivery.md)."""

    received: int
    unique: int
    duplicate: int
    stale: int
    out_of_order: int
    late: int
    lost: int
    rejected: dict[str, int]
    kernel_drops: int
    back_pressure_drops: int


class WriterStatus(Reply, frozen=True):
    """The writing process, counted since it started."""

    started_ms: int
    readings: int
    commits: int
    commit_ms: float  # the median duration of the latest commits
    receivers: list[ReceiverStatus]
    spooling: bool = False  # the database's server is away
    spooled: int = 0  # readings on the writer's disk that are not in the database yet
    trouble: str | None = None  # what keeps it from writing
    loss: LossTotals | None = None


class Status(Reply, tag="status", frozen=True):
    """How the whole collector is; ``writer`` is None while it is away."""

    version: str
    now_ms: int
    started_ms: int  # this query service
    meters: int
    readings: int  # values stored, repeats among them
    database_octets: int
    writer: WriterStatus | None
    away: str | None = None  # why the database cannot be read; the figures are the last known
    damaged_rows: int = 0  # of the journal; left out of all answers


class GetStatus(Request, tag="get_status", frozen=True):
    """How is the collector?"""

    reply = Status


class MeterInfo(Reply, tag="meter", frozen=True):
    """A registered meter. A setting that is None leaves ``…_in_force`` to the default."""

    id: str
    name: str | None
    time_zone: str | None
    limit_wh: int | None
    reported_limit_wh: int | None
    price: Decimal | None
    modulus_wh: int | None
    max_power_w: int | None
    created_ms: int
    time_zone_in_force: str
    limit_wh_in_force: int
    price_in_force: Decimal


class MeterPage(Reply, tag="meters", frozen=True):
    """Meters by id; ``next`` is what to send as ``after`` for more, None at the end."""

    meters: list[MeterInfo]
    next: str | None


class ListMeters(Request, tag="list_meters", frozen=True):
    """Which meters are there, whose ids start with ``prefix``?"""

    reply = MeterPage
    prefix: str = ""
    after: str = ""
    most: int = 100


class GetMeter(Request, tag="get_meter", frozen=True):
    """What is registered of this meter?"""

    reply = MeterInfo
    id: str


class LatestValue(Reply, frozen=True):
    """The newest reading of one register; its value is raw × 10^scaler in ``unit``."""

    obis: str
    name: str
    unit: str
    raw: int
    scaler: int
    time_ms: int
    flags: list[str]

    @property
    def value(self) -> Decimal:
        """The value in ``unit``, exact."""
        return Decimal(self.raw).scaleb(self.scaler)


class Latest(Reply, tag="latest", frozen=True):
    """The newest reading of each register, by OBIS code."""

    id: str
    time_zone: str
    registers: list[LatestValue]


class GetLatest(Request, tag="get_latest", frozen=True):
    """What does the meter show now?"""

    reply = Latest
    id: str


class History(Reply, tag="history", frozen=True):
    """Energy slot by slot, as columns of one length: [start, end) and the Wh in it.

    Slots without any data are left out. ``next`` is what to send as ``start_ms`` for more, None at
    the end. Flags are those of ``telemetry.intervals``, by name.
    """

    id: str
    time_zone: str
    step: str
    start_ms: list[int]
    end_ms: list[int]
    wh: list[int]
    flags: list[list[str]]
    next: int | None


class GetHistory(Request, tag="get_history", frozen=True):
    """How much was consumed, slot by slot?

    ``step`` is raw (between readings), 15m, hour, day or month in the meter's zone; without a start
    or an end, from the first or to the last reading.
    """

    reply = History
    id: str
    step: str = "day"
    start_ms: int | None = None
    end_ms: int | None = None
    most: int = 1000


class Values(Reply, tag="values", frozen=True):
    """Raw readings of a register, by time, as columns; ``next`` as in History."""

    id: str
    time_zone: str
    obis: str
    unit: str
    scaler: int
    time_ms: list[int]
    raw: list[int]
    status: list[int]
    epoch: list[int]
    next: int | None


class GetReadings(Request, tag="get_readings", frozen=True):
    """What did a register (by name or OBIS code) show, reading by reading?"""

    reply = Values
    id: str
    register: str = ENERGY
    start_ms: int | None = None
    end_ms: int | None = None
    most: int = 1000


class Total(Reply, tag="total", frozen=True):
    """Energy in [start, end); both None when the meter has no readings in the range."""

    id: str
    time_zone: str
    wh: int
    start_ms: int | None
    end_ms: int | None
    flags: list[str]


class GetTotal(Request, tag="get_total", frozen=True):
    """How much was consumed in all, or in a range?"""

    reply = Total
    id: str
    start_ms: int | None = None
    end_ms: int | None = None


class Alert(Reply, frozen=True):
    """The limit was crossed at ``time_ms``, when the billing period's energy was ``energy_wh``."""

    number: int
    id: str
    time_zone: str
    kind: str
    time_ms: int
    period_start_ms: int
    energy_wh: int
    limit_wh: int
    late: bool  # the crossing's reading came after newer ones
    raised_ms: int


class AlertPage(Reply, tag="alerts", frozen=True):
    """Alerts, the last raised first; ``next`` is what to send as ``before`` for more."""

    alerts: list[Alert]
    next: int | None


class ListAlerts(Request, tag="list_alerts", frozen=True):
    """Which alerts were raised, of one meter or of all?"""

    reply = AlertPage
    id: str | None = None
    before: int | None = None
    most: int = 100


class Bill(Reply, tag="bill", frozen=True):
    """One billing period: its energy at its price, rounded once, half up.

    ``complete`` says that the readings cover the whole period; ``estimated_wh`` is what was
    interpolated over gaps of more than a quarter of an hour at the period's ends.
    """

    id: str
    time_zone: str
    start_ms: int
    end_ms: int
    wh: int
    estimated_wh: int
    complete: bool
    price: Decimal
    currency: str
    amount: Decimal
    flags: list[str]


class GetBill(Request, tag="get_bill", frozen=True):
    """What does a billing period cost: the one with the instant, else with the last reading?"""

    reply = Bill
    id: str
    at_ms: int | None = None


class Fleet(Reply, tag="fleet", frozen=True):
    """Energy of many meters together, by local day or month, as columns of one length.

    ``period`` is 2026-01-31 or 2026-01. ``next`` is what to send as ``first`` for more.
    """

    by: str
    period: list[str]
    wh: list[int]
    meters: list[int]
    flags: list[list[str]]
    next: str | None


class GetFleet(Request, tag="get_fleet", frozen=True):
    """How much did all meters consume, by day or month, from ``first`` to ``last`` included?"""

    reply = Fleet
    by: str = "day"
    first: str | None = None
    last: str | None = None
    prefix: str = ""
    most: int = 1000


class TopMeter(Reply, frozen=True):
    """A meter's energy, and its share of that of all meters."""

    id: str
    name: str | None
    wh: int
    share_ppm: int


class Top(Reply, tag="top", frozen=True):
    """The meters with the most energy in [first, last]; ``wh`` and ``meters`` are of all."""

    first: str
    last: str
    wh: int
    meters: int
    top: list[TopMeter]


class GetTop(Request, tag="get_top", frozen=True):
    """Which meters consumed the most from ``first`` to ``last``?"""

    reply = Top
    most: int = 10
    first: str | None = None
    last: str | None = None
    prefix: str = ""


class Thinning(Reply, frozen=True):
    """A step of the ladder of ages: what it keeps of older readings, and what it will do next."""

    keep: str
    age_ms: int
    meters: int
    waiting: int
    from_ms: int | None
    next_ms: int | None


class Storage(Reply, tag="storage", frozen=True):
    """What is stored, and how large it is."""

    octets: int
    meters: int
    sealed: int  # values in blocks
    unsealed: int  # values in the journal
    octets_a_value: float | None
    journal_rows: int
    blocks: int
    oldest_ms: int | None
    newest_ms: int | None
    retention: list[Thinning]


class GetStorage(Request, tag="get_storage", frozen=True):
    """What is stored, and what will be thinned next?"""

    reply = Storage


class MeterLoss(Reply, frozen=True):
    """What came of the datagrams of one meter."""

    id: str
    name: str | None
    received: int
    unique: int
    duplicate: int
    stale: int
    out_of_order: int
    late: int
    lost: int
    rejected: dict[str, int]


class ListenerLoss(Reply, frozen=True):
    """What came of the datagrams at one listener."""

    listener: str
    accepted: int
    rejected: dict[str, int]
    kernel_drops: int
    back_pressure_drops: int


class Loss(Reply, tag="loss", frozen=True):
    """What was lost, as of ``as_of_ms``; None where nothing was ever counted.

    ``meters`` is the one that was asked for, or those that lost most, the worst first; ``next`` is
    what to send as ``skip`` for more of them.
    """

    as_of_ms: int | None
    totals: LossTotals
    listeners: list[ListenerLoss]
    meters: list[MeterLoss]
    next: int | None


class GetLoss(Request, tag="get_loss", frozen=True):
    """What was received, lost and refused: of one meter, or of all?"""

    reply = Loss
    id: str | None = None
    skip: int = 0
    most: int = 10


class Deleted(Reply, tag="deleted", frozen=True):
    """No meter has this id any more; ``found`` says whether one had it just now."""

    id: str
    found: bool


class MadeKey(Reply, tag="made_key", frozen=True):
    """A meter's newest key, None if it has none; the secret only where it was just made."""

    id: str
    key_id: int | None
    key: str | None  # 32 hex digits, told for a minute after the key was made, and never again

    def __repr__(self) -> str:
        """Without the secret: what is printed may end up in a log."""
        return f"MadeKey(id={self.id!r}, key_id={self.key_id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id), ("key_id", self.key_id)]


class Registered(Reply, tag="registered", frozen=True):
    """A meter with its newest key: the answer to a RegisterMeter."""

    meter: MeterInfo
    made: MadeKey


class MadeKeys(Reply, tag="made_keys", frozen=True):
    """The newest keys of many meters, in the order of the ids that were asked for."""

    keys: list[MadeKey]


class KeyInfo(Reply, frozen=True):
    """A key without its secret; ``until_ms`` is None for one that does not end."""

    key_id: int
    derived: bool
    created_ms: int
    until_ms: int | None

    def valid(self, now_ms: int) -> bool:
        """Whether datagrams signed with it are taken."""
        return self.until_ms is None or now_ms < self.until_ms


class Keys(Reply, tag="keys", frozen=True):
    """The keys of a meter, the oldest first, those that have ended among them."""

    id: str
    now_ms: int
    keys: list[KeyInfo]


class ListKeys(Request, tag="list_keys", frozen=True):
    """Which keys has the meter, since when and until when?"""

    reply = Keys
    id: str


class Change(Request, tag="change", frozen=True):
    """Change the registry; each kind of change has its reply (docs/bus-protocol.md)."""

    reply = MeterInfo
    change: (
        ChangeMeter
        | RegisterMeter
        | ReplaceMeter
        | DeleteMeter
        | AddMeters
        | RotateKey
        | RevokeKeys
    )


class Failure(Reply, tag="error", frozen=True):
    """What went wrong: a code of the protocol's table, and a sentence for people."""

    code: str
    message: str


AnyRequest = (
    Ping
    | GetStatus
    | ListMeters
    | GetMeter
    | GetLatest
    | GetHistory
    | GetReadings
    | GetTotal
    | ListAlerts
    | GetBill
    | GetFleet
    | GetTop
    | GetStorage
    | ListKeys
    | GetLoss
    | Change
)
AnyReply = (
    Pong
    | Status
    | MeterPage
    | MeterInfo
    | Latest
    | History
    | Values
    | Total
    | AlertPage
    | Bill
    | Fleet
    | Top
    | Storage
    | Loss
    | Deleted
    | Registered
    | MadeKey
    | MadeKeys
    | Keys
    | Failure
)
