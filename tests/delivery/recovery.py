"""A data directory after a cut: opened by the real writer, verified, and asked for everything."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from storage.defaults import Defaults
from storage.engine import Database, database_path
from storage.queries import Reader, UnknownMeterError
from storage.verify import Report, verify
from storage.writer import Writer
from telemetry.registers import BY_CODE, ENERGY_IMPORT
from tests.delivery.feed import Stored
from tests.delivery.launch import Nobody

_DRAINED_WITHIN = 60.0


def recover(data: Path, then: Callable[[Path], None] = lambda _endpoint: None) -> None:
    """Start a writer on what is there, let it drain its spool, and stop it.

    ``then`` may hand it more meanwhile.
    """
    stop, failures = threading.Event(), list[BaseException]()
    endpoint = data.with_name(f"{data.name}.writer")
    writer = Writer(Database(data), f"ipc://{endpoint}", Defaults(), Nobody())

    def run() -> None:
        try:
            writer.run(stop)
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + _DRAINED_WITHIN
    while writer._spooling.spool.waiting and thread.is_alive():
        assert time.monotonic() < deadline, "the spool was not drained"
        time.sleep(0.005)
    try:
        if thread.is_alive():
            then(endpoint)
    finally:
        stop.set()
        thread.join(_DRAINED_WITHIN)
        endpoint.unlink(missing_ok=True)
    assert not failures, failures
    assert not thread.is_alive()


def wrong(data: Path, confirmed: Stored, sent: Stored) -> list[str]:
    """What is wrong with a database that a writer has recovered; nothing where all is right.

    All of ``confirmed`` must be there, once; of what was only ``sent`` anything may be.
    """
    found = []
    with closing(sqlite3.connect(database_path(data))) as plain:
        checked = [line for (line,) in plain.execute("PRAGMA integrity_check")]
    if checked != ["ok"]:
        found.append(f"integrity_check: {checked[:3]}")
    differences: list[str] = []
    totals = verify(
        Database(data), Defaults(), Report(lambda difference: differences.append(str(difference)))
    )
    found += [f"verify: {difference}" for difference in differences[:3]]
    values = 0
    reader = Reader(Database(data))
    try:
        with reader.snapshot():
            for meter, wanted in sent.items():
                stored = _stored(reader, meter)
                values += len(stored)
                missing = set(confirmed.get(meter, [])) - set(stored)
                if missing:
                    found.append(f"{meter}: {len(missing)} confirmed readings are lost")
                if len(set(stored)) != len(stored) or not set(stored) <= set(wanted):
                    found.append(f"{meter}: something is there twice, or was never sent")
    finally:
        reader.close()
    if totals.values != values:
        found.append(f"{totals.values} values are stored for {values} readings")
    return found


def _stored(reader: Reader, meter: str) -> list[tuple[int, int]]:
    try:
        number = reader.meter(meter)
    except UnknownMeterError:
        return []
    series = reader.series(number, BY_CODE[ENERGY_IMPORT])
    return list(zip(series.time.tolist(), series.value.tolist(), strict=True))
