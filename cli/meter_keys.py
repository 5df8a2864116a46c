"""``wattbus meters add`` and ``wattbus meters key``: meters with their keys, one or many."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from urllib.parse import urlsplit

from msgspec import UNSET
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli import actions, key_answers, values
from cli.actions import Context
from cli.render import Answer
from query import messages as m
from query.client import Client
from query.transport import BusError
from storage.changes import MOST_ADDED, OVERLAP_MS, KeyWish

_WILDCARDS = ("0.0.0.0", "::")
_DLMS = (
    "From now on only what these keys open is taken as this meter's. It pushes to a listener whose "
    'format is "dlms" or "auto".'
)
_NATIVE = ("auto", "native")  # formats of listeners that take signed datagrams
_REPORTED_WITHIN, _ASK_AGAIN = 1.5, 0.05  # seconds


def add(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """Register a meter, or set what is given of one that is there; or register many."""
    wishes = [bool(arguments.unsigned), arguments.key is not None, bool(arguments.new_key)]
    if sum(wishes) > 1:
        raise values.InputError("--unsigned, --key and --new-key exclude each other: keep one")
    half = arguments.authentication_key
    if half and not arguments.key:
        raise values.InputError("--authentication-key goes with --key: give both")
    wish = arguments.key or _wish(arguments)
    given = actions.settings(arguments)
    if arguments.file is not None:
        if arguments.id or arguments.key or any(value is not UNSET for value in given.values()):
            raise values.InputError(
                "--file registers many meters: leave out ID, --key and the settings"
            )
        return key_answers.made_keys(_added(client, _ids(arguments.file), wish))
    if not arguments.id:
        raise values.InputError("which meter? Give its ID, or --file FILE for many")
    meter, made = client.register_with_key(arguments.id, wish, half or "", **given)
    note = _DLMS if half else _note(client, made, wish, arguments.id)
    return key_answers.registered(meter, made, note)


def key(client: Client, arguments: argparse.Namespace, _: Context) -> Answer:
    """List a meter's keys; or make the next one, or end them."""
    if arguments.rotate and arguments.revoke:
        raise values.InputError("--rotate and --revoke exclude each other: keep one")
    if arguments.overlap is not None and not arguments.rotate:
        raise values.InputError("--overlap goes with --rotate")
    if arguments.rotate:
        overlap_ms = OVERLAP_MS if arguments.overlap is None else arguments.overlap
        made = client.rotate_key(arguments.id, overlap_ms=overlap_ms)
        return key_answers.made_key(made, _note(client, made, "", arguments.id))
    name = shlex.quote(arguments.id)
    if arguments.revoke:
        ended = client.revoke_keys(arguments.id)
        note = (
            "It is locked out: what it sends is refused, signed or not. "
            f"`wattbus meters key {name} --rotate` makes a new key, "
            f"`wattbus meters add {name} --unsigned` lets it send without."
        )
        return key_answers.keys(ended, _zone(client, arguments.id), "", note)
    empty = f"{arguments.id} has no key: `wattbus meters add {name} --new-key` makes one"
    return key_answers.keys(client.keys(arguments.id), _zone(client, arguments.id), empty)


def _wish(arguments: argparse.Namespace) -> KeyWish:
    if arguments.unsigned:
        return KeyWish.NONE
    return KeyWish.MISSING if arguments.new_key else KeyWish.FIRST


def _zone(client: Client, id: str) -> str:
    """The zone of a meter's times; one with keys need not be registered."""
    with suppress(BusError):
        return client.meter(id).time_zone_in_force
    return "UTC"


def _note(client: Client, made: m.MadeKey, wish: str, id: str) -> str:
    """What a person is to do with the key, or why there is none."""
    name = shlex.quote(id)
    if made.key:
        which = f" --key-id {made.key_id}" if made.key_id != 1 else ""
        return (
            "Give the key to the meter: in a minute nobody can show it any more. "
            "A simulated one is started with\n"
            f"wattbus meter --id {name} --key {made.key}{which} --to {_collector(client)}"
        )
    if made.key_id:
        return (
            f"It has key {made.key_id} already, which is never shown again: "
            f"`wattbus meters key {name} --rotate` makes the next one."
        )
    if wish == KeyWish.NONE:
        return "It has no key: what it sends unsigned is taken, where the listener allows that."
    return f"It was there already, and has no key: `wattbus meters add {name} --new-key` makes one."


def _collector(client: Client) -> str:
    """HOST:PORT of the first listener that takes native datagrams, as far as the service says."""
    with suppress(BusError):
        for listener in chain.from_iterable(each.listeners for each in _receivers(client)):
            if listener.format in _NATIVE:
                host, _, port = listener.address.rpartition(":")
                host = urlsplit(client.endpoint).hostname or host if host in _WILDCARDS else host
                return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "HOST:PORT"


def _receivers(client: Client) -> list[m.ReceiverStatus]:
    """The receivers; those of a collector that has just begun report within a second."""
    deadline = time.monotonic() + _REPORTED_WITHIN
    while True:
        writer = client.status().writer
        if writer is None or writer.receivers or time.monotonic() >= deadline:
            return writer.receivers if writer else []
        time.sleep(_ASK_AGAIN)


def _ids(file: str) -> list[str]:
    """The ids of a file, all of them checked before the first is registered."""
    try:
        with open(0 if file == "-" else file, encoding="utf-8", closefd=file != "-") as lines:
            found = [line.strip() for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise values.InputError(f"cannot read {file}: {said}") from None
    numbers = {text: number for number, text in reversed(list(enumerate(found, 1))) if text}
    for text, number in numbers.items():
        try:
            values.meter(text)
        except values.InputError as error:
            raise values.InputError(f"{file}:{number}: {error}") from None
    ids = sorted(numbers, key=numbers.__getitem__)
    if not ids:
        raise values.InputError(f"{file} names no meter: write one id a line")
    return ids


def _added(client: Client, ids: list[str], wish: str) -> Iterator[m.MadeKey]:
    """The keys, page by page; each is written before the next is asked for."""
    console = Console(stderr=True)
    quiet = sys.stdout.isatty() or not console.is_terminal
    columns = (TextColumn("meters"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=len(ids))
        for first in range(0, len(ids), MOST_ADDED):
            page = client.register_many(ids[first : first + MOST_ADDED], wish)
            yield from page
            sys.stdout.flush()
            bar.advance(task, len(page))
