"""A spool without a database beside it, as with PostgreSQL: says each batch that it has kept."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

from storage.spool import Spool
from tests.delivery.launch import FAULTS

BATCHES = 40


def body(number: int) -> bytes:
    """Octets that begin with their number of readings, as the handover's do; some hundred more."""
    return struct.pack("<I", 1) + bytes([number]) * (37 * number)


def main() -> None:
    """Keep batches, twice as many writers' lives."""
    FAULTS[sys.argv[1]]()
    told = 0
    for _ in range(2):
        spool = Spool(Path(sys.argv[2]), "postgresql+psycopg://u@h/d")
        for _ in range(BATCHES // 2):
            told += 1
            spool.append(spool.number(), body(told), 1)
            os.write(1, b"%d\n" % told)
        spool.close()


if __name__ == "__main__":
    main()
