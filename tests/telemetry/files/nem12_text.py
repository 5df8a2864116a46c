"""NEM12 files for tests, as text."""

from __future__ import annotations

from collections.abc import Sequence


def channel(
    nmi: str = "NMI0000001", suffix: str = "E1", unit: str = "kWh", minutes: int = 30
) -> str:
    return f"200,{nmi},{suffix},1,{suffix},N1,METER1,{unit},{minutes},\r\n"


def day(date: str, values: Sequence[str], quality: str = "A") -> str:
    return f"300,{date},{','.join(values)},{quality},,,20240401000000,\r\n"


def file(*records: str) -> str:
    return "".join(["100,NEM12,202404010000,MDP1,Ret1\r\n", *records, "900\r\n"])


def days(month: str, count: int, value: str = "0.5") -> str:
    """A file of a month's first days, the same energy in every half hour."""
    return file(channel(), *(day(f"{month}{n:02}", [value] * 48) for n in range(1, count + 1)))
