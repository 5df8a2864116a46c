"""What rules where a meter has no setting of its own."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from telemetry.calendar import Period, billing_period

if TYPE_CHECKING:  # what serves starts without SQL
    from storage.meters import Meter


@dataclass(frozen=True, slots=True)
class Defaults:
    """The collector's own settings, and what rules for a meter under them."""

    time_zone: str = "UTC"
    limit_wh: int = 500_000
    price: Decimal = Decimal("0.50")
    currency: str = "R$"
    billing_day: int = 1

    @property
    def own_zone(self) -> ZoneInfo:
        """The zone of the collector itself."""
        return ZoneInfo(self.time_zone)

    def zone(self, meter: Meter) -> ZoneInfo:
        """The zone whose days and months are the meter's."""
        return ZoneInfo(meter.time_zone or self.time_zone)

    def limit(self, meter: Meter) -> int:
        """The alert limit of a billing period, Wh: the operator's, the meter's own, the default."""
        for limit in (meter.limit_wh, meter.reported_limit_wh):
            if limit is not None:
                return limit
        return self.limit_wh

    def price_of(self, meter: Meter) -> Decimal:
        """The price of a kWh."""
        return self.price if meter.price is None else meter.price

    def default_period(self, instant_ms: int) -> Period:
        """The billing period with the instant, of a meter without settings."""
        return billing_period(ZoneInfo(self.time_zone), self.billing_day, instant_ms)

    def period(self, meter: Meter, instant_ms: int) -> Period:
        """The billing period with the instant."""
        return billing_period(self.zone(meter), self.billing_day, instant_ms)
