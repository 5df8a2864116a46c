"""Commands about all meters at once and about the storage: what they ask, and their answers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

from cli import values
from cli.actions import Context, follow
from cli.answers import kwh_text, moment, thousands, time_text, words_text
from cli.render import Answer, Column, Record
from query import messages as m
from query.client import Client
from telemetry.calendar import DAY_MS

_MEBI = 1 << 20


def fleet(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """The energy of all meters together, by day or month."""
    days = _days(arguments)

    def ask(first: str | None) -> m.Fleet:
        return client.fleet(arguments.by, **days | {"first": first}, most=m.MOST_ROWS)

    columns = (
        Column("period", arguments.by),
        Column("kwh", "kWh", thousands, right=True),
        Column("meters", "meters", thousands, right=True),
        Column("flags", "notes", words_text, drop=1),
    )
    records = _fleet_records(follow(ask, days["first"]))
    return Answer(columns, records, empty="no meter consumed anything on these days")


def _fleet_records(pages: Iterable[m.Fleet]) -> Iterator[Record]:
    for page in pages:
        columns = zip(page.period, page.wh, page.meters, page.flags, strict=True)
        for period, wh, meters, flags in columns:
            yield {"period": period, "kwh": kwh_text(wh), "meters": meters, "flags": flags}


_TOP = (
    Column("rank", "no.", right=True, drop=2),
    Column("id", "meter"),
    Column("name", "name", drop=1),
    Column("kwh", "kWh", thousands, right=True),
    Column("share_percent", "share", lambda text: f"{text} %", right=True),
)


def top(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """The meters with the most energy; the document tells the energy of all beside them."""
    reply = client.top(arguments.n, **_days(arguments))
    records = [
        {
            "rank": rank,
            "id": meter.id,
            "name": meter.name,
            "kwh": kwh_text(meter.wh),
            "share_percent": f"{Decimal(meter.share_ppm).scaleb(-4):.2f}",
        }
        for rank, meter in enumerate(reply.top, 1)
    ]
    document = {
        "first": reply.first,
        "last": reply.last,
        "kwh": kwh_text(reply.wh),
        "meters": reply.meters,
        "top": records,
    }
    return Answer(_TOP, records, document, empty="no meter consumed anything on these days")


_STORAGE = (
    Column("octets", "on disk", lambda octets: f"{octets / _MEBI:,.1f} MiB"),
    Column("values", "values stored", thousands),
    Column("octets_a_value", "octets a value", lambda octets: f"{octets:.2f}"),
    Column("sealed", "of them packed", thousands),
    Column("blocks", "in blocks", thousands),
    Column("unsealed", "not packed yet", thousands),
    Column("journal_rows", "in batches", thousands),
    Column("oldest", "oldest reading", moment),
    Column("newest", "newest reading", moment),
    Column("meters", "meters", thousands),
    Column("retention", "will be thinned", "; ".join),
)


def storage(client: Client, _: argparse.Namespace, __: Context) -> Answer:
    """What is stored, and what will be thinned next."""
    return storage_answer(client.storage())


def storage_answer(reply: m.Storage) -> Answer:
    """The storage; the document has the next thinnings as objects."""
    record = {
        "octets": reply.octets,
        "values": reply.sealed + reply.unsealed,
        "octets_a_value": reply.octets_a_value,
        "sealed": reply.sealed,
        "blocks": reply.blocks,
        "unsealed": reply.unsealed,
        "journal_rows": reply.journal_rows,
        "oldest": time_text(reply.oldest_ms, "UTC"),
        "newest": time_text(reply.newest_ms, "UTC"),
        "meters": reply.meters,
    }
    thinnings = [
        {
            "keep": thinning.keep,
            "age_days": thinning.age_ms // DAY_MS,
            "meters": thinning.meters,
            "waiting": thinning.waiting,
            "from": time_text(thinning.from_ms, "UTC"),
            "next": time_text(thinning.next_ms, "UTC"),
        }
        for thinning in reply.retention
    ]
    shown = record | {"retention": [_thinning_text(thinning) for thinning in thinnings]}
    return Answer(_STORAGE, [shown], record | {"retention": thinnings}, card=True)


def _thinning_text(thinning: Record) -> str:
    what = "nothing" if thinning["keep"] == "nothing" else f"one reading a {thinning['keep']}"
    text = f"after {thinning['age_days']} days {what}, of {thousands(thinning['meters'])} meters"
    if thinning["waiting"]:
        return f"{text}: now, of {thousands(thinning['waiting'])} of them"
    return f"{text}: next on {moment(thinning['next'])}" if thinning["next"] else text


def _days(arguments: argparse.Namespace) -> dict[str, Any]:
    """The range of days as the bus has it, both ends included, and the prefix."""
    first, end = getattr(arguments, "from"), arguments.to
    if first is not None and end is not None and first >= end:
        raise values.InputError("--to must be later than --from: the day it names is not included")
    return {
        "first": None if first is None else str(first),
        "last": None if end is None else str(end - timedelta(days=1)),
        "prefix": arguments.prefix,
    }
