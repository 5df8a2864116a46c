"""The Python client: one typed method per request of the bus.

>>> with Client("tcp://127.0.0.1:5002") as client:
...     print(client.total("kitchen").wh)
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TypeVar

from msgspec import UNSET, UnsetType

from query import credentials
from query import messages as m
from query.connection import Connection
from query.transport import BusError
from storage.changes import (
    OVERLAP_MS,
    AddMeters,
    ChangeMeter,
    DeleteMeter,
    RegisterMeter,
    ReplaceMeter,
    RevokeKeys,
    RotateKey,
)

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5002"
Expected = TypeVar("Expected", bound=m.Reply)


class Client:
    """Asks one query service. Every method may raise BusError; not to be shared between threads."""

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        timeout: float = 2.0,
        tries: int = 3,
        key_file: str | Path | None = None,
    ) -> None:
        """``timeout`` is how many seconds one try waits, ``tries`` how often it is sent again.

        ``key_file`` is what ``wattbus keys add`` made, for a service that wants one.
        """
        me = credentials.read(key_file) if key_file else None
        self._connection = Connection(endpoint, timeout, tries, me)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @property
    def endpoint(self) -> str:
        """Where the service is."""
        return self._connection.endpoint

    def _ask(self, request: m.AnyRequest, expected: type[Expected]) -> Expected:
        reply = self._connection.ask(request)
        if not isinstance(reply, expected):
            raise BusError("bad_reply", f"{type(request).__name__} got {type(reply).__name__}")
        return reply

    def ping(self) -> m.Pong:
        """Whether the service is there, and its version."""
        return self._ask(m.Ping(), m.Pong)

    def status(self) -> m.Status:
        """How the collector is: listeners, counters, storage."""
        return self._ask(m.GetStatus(), m.Status)

    def meters(self, prefix: str = "", *, after: str = "", most: int = 100) -> m.MeterPage:
        """One page of the meters whose ids start with ``prefix``, by id."""
        return self._ask(m.ListMeters(prefix=prefix, after=after, most=most), m.MeterPage)

    def all_meters(self, prefix: str = "") -> Iterator[m.MeterInfo]:
        """Every meter whose id starts with ``prefix``, page by page."""
        after: str | None = ""
        while after is not None:
            page = self.meters(prefix, after=after, most=1000)
            yield from page.meters
            after = page.next

    def meter(self, id: str) -> m.MeterInfo:
        """What is registered of a meter."""
        return self._ask(m.GetMeter(id=id), m.MeterInfo)

    def latest(self, id: str) -> m.Latest:
        """The newest reading of each register."""
        return self._ask(m.GetLatest(id=id), m.Latest)

    def history(
        self,
        id: str,
        step: str = "day",
        *,
        start_ms: int | None = None,
        end_ms: int | None = None,
        most: int = 1000,
    ) -> m.History:
        """One page of energy by slot (raw, 15m, hour, day or month in the meter's zone)."""
        return self._ask(
            m.GetHistory(id=id, step=step, start_ms=start_ms, end_ms=end_ms, most=most), m.History
        )

    def readings(
        self,
        id: str,
        register: str = m.ENERGY,
        *,
        start_ms: int | None = None,
        end_ms: int | None = None,
        most: int = 1000,
    ) -> m.Values:
        """One page of a register's readings, by time."""
        return self._ask(
            m.GetReadings(id=id, register=register, start_ms=start_ms, end_ms=end_ms, most=most),
            m.Values,
        )

    def total(
        self,
        id: str,
        *,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> m.Total:
        """The energy in [start, end), without them in all."""
        return self._ask(m.GetTotal(id=id, start_ms=start_ms, end_ms=end_ms), m.Total)

    def alerts(
        self,
        id: str | None = None,
        *,
        before: int | None = None,
        most: int = 100,
    ) -> m.AlertPage:
        """One page of alerts, of one meter or of all, the last raised first."""
        return self._ask(m.ListAlerts(id=id, before=before, most=most), m.AlertPage)

    def bill(self, id: str, *, at_ms: int | None = None) -> m.Bill:
        """The bill of the period with the instant, without one that with the last reading."""
        return self._ask(m.GetBill(id=id, at_ms=at_ms), m.Bill)

    def fleet(
        self,
        by: str = "day",
        *,
        first: str | None = None,
        last: str | None = None,
        prefix: str = "",
        most: int = 1000,
    ) -> m.Fleet:
        """One page of the energy of all meters together, by day or month.

        ``first`` and ``last`` (included) are days such as 2026-01-31; without them it is the
        current month. ``prefix`` is how the meters' ids start.
        """
        return self._ask(
            m.GetFleet(by=by, first=first, last=last, prefix=prefix, most=most), m.Fleet
        )

    def top(
        self,
        most: int = 10,
        *,
        first: str | None = None,
        last: str | None = None,
        prefix: str = "",
    ) -> m.Top:
        """The meters with the most energy in a range of days, as in ``fleet``."""
        return self._ask(m.GetTop(most=most, first=first, last=last, prefix=prefix), m.Top)

    def storage(self) -> m.Storage:
        """What is stored, how large it is, and what will be thinned next."""
        return self._ask(m.GetStorage(), m.Storage)

    def loss(self, id: str | None = None, *, skip: int = 0, most: int = 10) -> m.Loss:
        """What was received, lost and refused: of one meter, or in all and of the worst meters."""
        return self._ask(m.GetLoss(id=id, skip=skip, most=most), m.Loss)

    def register(
        self,
        id: str,
        *,
        name: str | UnsetType | None = UNSET,
        time_zone: str | UnsetType | None = UNSET,
        limit_wh: int | UnsetType | None = UNSET,
        price: Decimal | UnsetType | None = UNSET,
        modulus_wh: int | UnsetType | None = UNSET,
        max_power_w: int | UnsetType | None = UNSET,
    ) -> m.MeterInfo:
        """Register a meter, or set what is given of one that is registered already.

        It has no key then, and sends unsigned; ``register_with_key`` makes one.
        """
        change = ChangeMeter(
            id=id,
            add=True,
            name=name,
            time_zone=time_zone,
            limit_wh=limit_wh,
            price=price,
            modulus_wh=modulus_wh,
            max_power_w=max_power_w,
        )
        return self._change(change)

    def set_name(self, id: str, name: str | None) -> m.MeterInfo:
        """Give a registered meter a name; None takes it away."""
        return self._change(ChangeMeter(id=id, name=name))

    def set_zone(self, id: str, time_zone: str | None) -> m.MeterInfo:
        """Set the IANA time zone of a registered meter; None: the collector's default."""
        return self._change(ChangeMeter(id=id, time_zone=time_zone))

    def set_limit(self, id: str, limit_wh: int | None) -> m.MeterInfo:
        """Set the alert limit of a billing period, Wh; None: the meter's own, or the default."""
        return self._change(ChangeMeter(id=id, limit_wh=limit_wh))

    def set_price(self, id: str, price: Decimal | None) -> m.MeterInfo:
        """Set the price of a kWh; None: the collector's default."""
        return self._change(ChangeMeter(id=id, price=price))

    def set_bounds(
        self,
        id: str,
        *,
        modulus_wh: int | UnsetType | None = UNSET,
        max_power_w: int | UnsetType | None = UNSET,
    ) -> m.MeterInfo:
        """Set where the energy register rolls over, and the most power the meter can carry."""
        return self._change(ChangeMeter(id=id, modulus_wh=modulus_wh, max_power_w=max_power_w))

    def replace(
        self,
        id: str,
        *,
        time_ms: int,
        final_wh: int,
        initial_wh: int,
    ) -> m.MeterInfo:
        """Say that the device was exchanged: the old one's last register, the new one's first."""
        return self._change(
            ReplaceMeter(id=id, time_ms=time_ms, final_wh=final_wh, initial_wh=initial_wh)
        )

    def register_with_key(
        self, id: str, key: str = "first", authentication_key: str = "", **settings: Any
    ) -> tuple[m.MeterInfo, m.MadeKey]:
        """Register a meter as ``register`` does, and say something of its keys.

        ``key`` is "first" (make one if the meter is new), "missing" (make one if it has none),
        "none" (forget its keys) or 32 hex digits, the key itself. The secret is in the answer for
        a minute after it was made, and can never be asked for again. ``authentication_key`` is the
        second half of a DLMS meter's key, 32 hex digits too.
        """
        change = RegisterMeter(id=id, key=key, authentication_key=authentication_key, **settings)
        reply = self._ask(m.Change(change=change), m.Registered)
        return reply.meter, reply.made

    def register_many(self, ids: list[str], key: str = "first") -> list[m.MadeKey]:
        """Register at most 500 meters, with ``key`` as above but for hex digits; their keys."""
        return self._ask(m.Change(change=AddMeters(ids=ids, key=key)), m.MadeKeys).keys

    def keys(self, id: str) -> m.Keys:
        """The keys of a meter, without their secrets, the oldest first."""
        return self._ask(m.ListKeys(id=id), m.Keys)

    def rotate_key(self, id: str, *, overlap_ms: int = OVERLAP_MS) -> m.MadeKey:
        """Make the next key of a meter; those before it end after the overlap, ms."""
        listed = self.keys(id)
        valid = [key.key_id for key in listed.keys if key.valid(listed.now_ms)]
        replaces = valid[-1] if valid else 0
        change = RotateKey(id=id, replaces=replaces, overlap_ms=overlap_ms)
        return self._ask(m.Change(change=change), m.MadeKey)

    def revoke_keys(self, id: str) -> m.Keys:
        """End all keys of a meter at once: what it sends is refused, signed or not."""
        return self._ask(m.Change(change=RevokeKeys(id=id)), m.Keys)

    def delete(self, id: str) -> m.Deleted:
        """Remove a meter and everything that is stored of it; that there is none is no error."""
        return self._ask(m.Change(change=DeleteMeter(id=id)), m.Deleted)

    def _change(self, change: ChangeMeter | ReplaceMeter) -> m.MeterInfo:
        return self._ask(m.Change(change=change), m.MeterInfo)
