"""What was lost, asked of the writer, which knows it to the last commit; else of the tables."""

from __future__ import annotations

from typing import Any

import msgspec

from query import messages as m
from query.asking import page_size
from query.transport import BusError
from storage import intake, loss, meters
from storage.loss import Question
from storage.queries import Reader, UnknownMeterError

_FARTHEST = 2**31  # no more meters have numbers


def question(request: m.GetLoss, reader: Reader | None) -> Question:
    """What to ask the writer; ``reader`` finds the meter. Raises BusError."""
    most = page_size(request.most, m.MOST_TOP)
    if not 0 <= request.skip < _FARTHEST:
        raise BusError("bad_request", f"skip is 0 or more, not {request.skip}")
    number = None
    if request.id is not None:
        assert reader is not None
        try:
            number = reader.meter(request.id).number
        except UnknownMeterError as error:
            raise BusError("unknown_meter", str(error)) from None
        except ValueError as error:
            raise BusError("bad_request", str(error)) from None
    return Question(number, most, request.skip)


def reply(request: m.GetLoss, told: dict[str, Any], reader: Reader) -> m.Loss:
    """The reply made of what the writer, or the tables, told; its meters get their names."""
    names = meters.named(reader.connection, [meter["number"] for meter in told["meters"]])
    named = [
        meter
        | dict(zip(("id", "name"), names[meter["number"]], strict=True))
        | {"rejected": intake.rejected(reader.connection, meter["number"])}
        for meter in told["meters"]
        if meter["number"] in names  # else it was deleted a moment ago
    ]
    following = request.skip + len(told["meters"]) if told["more"] else None
    return msgspec.convert(told | {"meters": named, "next": following, "type": "loss"}, m.Loss)


def unnamed(told: dict[str, Any]) -> m.Loss:
    """The reply while nobody can tell what meters are called: only what is of all of them."""
    return msgspec.convert(told | {"meters": [], "next": None, "type": "loss"}, m.Loss)


def from_tables(request: m.GetLoss, reader: Reader) -> m.Loss:
    """The reply while the writer is away."""
    told = loss.from_tables(reader.connection, question(request, reader))
    return reply(request, told, reader)
