"""Acknowledgements as they arrive at a fleet, decoded and verified many at once."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from telemetry.datagrams import Datagrams
from telemetry.formats.ack import MAGIC, VERSION
from telemetry.meter_index import UNKNOWN, MeterIndex
from telemetry.readings import Int64s, UInt64s
from telemetry.security import TAG, sign_acknowledgement

_ACK = np.dtype(
    [
        ("magic", "u1"),
        ("version", "u1"),
        ("zero", "u1"),
        ("key_id", "u1"),
        ("key_high", "<u8"),
        ("key_low", "<u8"),
        ("epoch", "<u4"),
        ("next", "<u4"),
        ("bitmap", "<u8"),
    ]
)
LONGEST = _ACK.itemsize + TAG


@dataclass(frozen=True, slots=True)
class Acks:
    """Of meters of a fleet; columns of shape (n,). A meter is its place; it may occur again."""

    meter: Int64s
    epoch: Int64s
    next: Int64s
    bitmap: UInt64s

    def __len__(self) -> int:
        return len(self.meter)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Acks:
        """Those that are chosen."""
        return Acks(self.meter[chosen], self.epoch[chosen], self.next[chosen], self.bitmap[chosen])


def decode(datagrams: Datagrams, meters: MeterIndex, keys: Mapping[int, bytes]) -> Acks:
    """What acknowledges anything to the meters; everything else is left out.

    ``keys`` are acknowledgement keys by place. A meter with a key takes what is signed with it, and
    one without takes what is not signed. The rows of ``datagrams`` must hold LONGEST octets.
    """
    octets = np.ascontiguousarray(datagrams.octets[:, : _ACK.itemsize])
    fields = octets.view(_ACK).ravel()
    signed = fields["key_id"] != 0
    meter = meters.find(fields["key_high"], fields["key_low"])
    has_key = np.isin(meter, np.fromiter(keys, np.int64, len(keys)))
    chosen = (
        (datagrams.lengths == _ACK.itemsize + TAG * signed)
        & (fields["magic"] == MAGIC)
        & (fields["version"] == VERSION)
        & (fields["zero"] == 0)
        & (meter != UNKNOWN)
        & (has_key == signed)
    )
    for row in np.flatnonzero(chosen & signed).tolist():
        whole = datagrams.octets[row, :LONGEST].tobytes()
        tag = sign_acknowledgement(whole[:-TAG], keys[int(meter[row])])
        chosen[row] = hmac.compare_digest(tag, whole[-TAG:])
    return Acks(
        meter[chosen],
        fields["epoch"][chosen].astype(np.int64),
        fields["next"][chosen].astype(np.int64),
        fields["bitmap"][chosen],
    )
