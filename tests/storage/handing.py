"""Readings on their way to the writer, as datagrams that carried no numbers."""

from __future__ import annotations

from storage.group import envelope_starts
from storage.handover import Handover
from telemetry.datagrams import Envelopes
from telemetry.readings import Readings


def enveloped(readings: Readings) -> Envelopes:
    """An envelope for each run of a meter's readings."""
    return Envelopes.unnumbered(readings, envelope_starts(readings))


def put(receiver: Handover, readings: Readings) -> None:
    """Hand readings over."""
    receiver.put(enveloped(readings), readings)
