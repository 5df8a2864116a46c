"""What a reading costs the writer in SQLite and in PostgreSQL, and to read back, in one run."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from storage import journal, schema
from storage.engine import Database, close_writer, octets, open_reader, open_writer
from telemetry.registers import ENERGY_IMPORT
from tests.postgresql import PostgresServer


def run(arguments: argparse.Namespace) -> None:
    """Write the same batches to each, one durable commit each, in turns; then read them."""
    server = PostgresServer()
    try:
        server.start()
        with tempfile.TemporaryDirectory(prefix="wattbus-bench-") as directory:
            data = Path(directory)
            _run(
                {
                    "SQLite": Database(data / "sqlite"),
                    "PostgreSQL": Database(data / "postgresql", server.url(server.create())),
                },
                arguments,
            )
    finally:
        server.remove()


def _run(databases: dict[str, Database], arguments: argparse.Namespace) -> None:
    batches, size = arguments.batches, arguments.readings
    body = journal.encode(_batch(size))
    print(f"{batches} batches of {size:,} readings, {len(body) / 2**20:.2f} MiB each")
    print("database      write us a reading   ms a commit   read us a reading   octets a reading")
    writers = {name: open_writer(database) for name, database in databases.items()}
    took: dict[str, list[float]] = {name: [] for name in databases}
    for number in range(1, batches + 1):
        for name, engine in writers.items():
            began = time.perf_counter()
            with engine.begin() as connection:
                connection.execute(
                    schema.journal.insert().values(
                        id=number,
                        committed_ms=number,
                        first_ms=0,
                        last_ms=size,
                        readings=size,
                        body=body,
                    )
                )
            took[name].append(time.perf_counter() - began)
    for name, database in databases.items():
        engine = open_reader(database)
        with engine.connect() as connection:
            began = time.perf_counter()
            for number in range(1, batches + 1):
                found = sa.select(schema.journal.c.body).where(schema.journal.c.id == number)
                assert connection.scalar(found) == body
            read = time.perf_counter() - began
            size_each = octets(database, connection) / batches / size
        engine.dispose()
        median = float(np.median(took[name]))
        print(
            f"{name:12} {median / size * 1e6:>20.3f} {median * 1000:>13.1f} "
            f"{read / batches / size * 1e6:>19.3f} {size_each:>18.1f}"
        )
        close_writer(writers[name])


def _batch(size: int) -> journal.Batch:
    """A reading each of many meters: values as a fleet's registers are."""
    rng = np.random.default_rng(1)
    return journal.Batch(
        meter=np.arange(size, dtype=np.uint32),
        register=np.full(size, ENERGY_IMPORT, np.uint16),
        status=np.zeros(size, np.uint16),
        epoch=np.ones(size, np.uint32),
        time=1_760_000_000_000 + rng.integers(0, 900_000, size),
        value=rng.integers(0, 50_000_000, size),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--readings", type=int, default=65_536, help="a batch")
