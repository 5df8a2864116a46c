"""The receiver as a part of the collector: its listeners, their keys, and what it reports."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from cli.config import Config
from cli.sockets import open_all
from query.messages import ListenerStatus, ReceiverStatus
from storage.errors import StorageError
from storage.handover import Handover
from storage.meter_keys import Keys
from telemetry.admission import Allowed
from telemetry.formats.table import FORMATS
from telemetry.keys import KeyRing
from telemetry.listener import Listener, describe
from telemetry.receiver import receive

log = logging.getLogger("receiver")


def take_in(settings: Config, stop: threading.Event, say_ready: Callable[[], None]) -> None:
    """Take in datagrams and hand their readings to the writer."""
    keys = Keys(settings.directory)
    ring = _lasting(keys.ring)
    listeners = [
        Listener(
            sock,
            FORMATS[wanted.format],
            Allowed(wanted.networks, wanted.meters),
            options=wanted.options(settings.defaults.time_zone),
            interval_ms=wanted.interval_s * 1000,
        )
        for wanted, sock in zip(settings.listeners, open_all(settings.listeners), strict=True)
    ]
    for listener in listeners:
        log.info(describe(listener))
    started = int(time.time() * 1000)
    sink = Handover(
        settings.writer_endpoint,
        lambda waiting: msgspec.json.encode(_report(started, waiting, listeners)),
    )
    say_ready()
    receive(listeners, sink, stop, ring)
    keys.close()
    for listener in listeners:
        listener.sock.close()
    if sink.undelivered:
        log.error("stopped with %d readings that the writer did not confirm", sink.undelivered)


def _lasting(read: Callable[[], KeyRing]) -> Callable[[], KeyRing]:
    """Reads the keys; while they cannot be read again those that were read last stay.

    The first time is now, and raises what reading raises.
    """
    last, trouble = read(), ""

    def lasting() -> KeyRing:
        nonlocal last, trouble
        try:
            last, said = read(), ""
        except StorageError as error:
            said = str(error)
        if said and said != trouble:
            log.error("going on with the keys read before: %s", said)
        trouble = said
        return last

    return lasting


def _report(started: int, waiting: int, listeners: list[Listener]) -> ReceiverStatus:
    return ReceiverStatus(
        started_ms=started,
        reported_ms=int(time.time() * 1000),
        waiting=waiting,
        listeners=[
            ListenerStatus(
                address="{}:{}".format(*listener.sock.getsockname()[:2]),
                format=listener.format.name,
                accepted=listener.tally.accepted,
                refused={reason.value: n for reason, n in sorted(listener.tally.refused.items())},
                kernel_drops=listener.dropped,
                buffer_octets=listener.buffer,
                buffer_seconds=listener.holds / listener.busiest if listener.busiest else None,
            )
            for listener in listeners
        ],
    )
