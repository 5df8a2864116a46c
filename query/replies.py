"""Replies made once and sent again, as long as nothing is committed that could change them."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from query import messages as m
from storage.queries import Reader
from storage.standing import Standing

Asked = tuple[bytes, bytes]  # a request's header and body

_MOST_OCTETS = 16 << 20
_ENTRY = 400  # octets, some, of what is remembered beside request and reply


_ABOUT_A_METER = m.GetMeter | m.GetLatest | m.GetHistory | m.GetReadings | m.GetTotal | m.GetBill


class _Kept(NamedTuple):
    """A reply, how often there had been news when it was true, and of a meter's what it is of."""

    reply: bytes
    news: int
    standing: Standing | None


class Replies:
    """What one reader's answers were, encoded, by the request; those asked for last."""

    def __init__(self, most: int = _MOST_OCTETS) -> None:
        """``most`` octets are kept, more or less."""
        self._most, self.octets = most, 0
        self._kept: OrderedDict[Asked, _Kept] = OrderedDict()

    def find(self, reader: Reader, request: m.AnyRequest, asked: Asked) -> bytes | None:
        """The reply to a request, if one that is remembered is true in the reader's snapshot."""
        found = self._kept.get(asked)
        if found is None:
            return None
        if found.news != reader.news:
            standing = found.standing
            if standing is None or not isinstance(request, _ABOUT_A_METER):
                return None
            if not reader.stands(request.id, standing):
                return None
            self._kept[asked] = _Kept(found.reply, reader.news, reader.standing(request.id))
        self._kept.move_to_end(asked)
        return found.reply

    def keep(self, reader: Reader, request: m.AnyRequest, asked: Asked, reply: bytes) -> None:
        """Remember what was answered from the reader's snapshot, and nothing else."""
        replaced = self._kept.pop(asked, None)
        if replaced is not None:
            self.octets -= _size(asked, replaced)
        standing = reader.standing(request.id) if isinstance(request, _ABOUT_A_METER) else None
        kept = self._kept[asked] = _Kept(reply, reader.news, standing)
        self.octets += _size(asked, kept)
        while self.octets > self._most:
            self.octets -= _size(*self._kept.popitem(last=False))


def _size(asked: Asked, kept: _Kept) -> int:
    return len(asked[1]) + len(kept.reply) + _ENTRY
