"""``wattbus verify`` and the ledger: sound after anything, and each damage named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from storage.engine import Database, close_writer
from tests.storage.test_ledger import ASKING, JSON, SIGNED, Came, Office
from tests.storage.test_verify import differences


@pytest.fixture
def office(database: Database) -> Iterator[Office]:
    """Three meters with gaps, repeats and what comes without numbers; a part is in rows."""
    made = Office(database)
    for start in (0, 40):
        came: list[Came] = [(1, 7, start + n, ASKING, False) for n in range(0, 40, 3)]
        came += [(1, 7, start, ASKING, False), (2, 9, start + 5, SIGNED, True)]
        came += [(3, 0, 0, JSON, False)]
        made.commit(came)
        if not start:
            made.ledger.fold()
    yield made
    close_writer(made.engine)


def test_a_sound_ledger(office: Office, database: Database) -> None:
    assert differences(database)[0] == []
    office.ledger.fold()
    assert differences(database)[0] == []
    office.restart()
    office.commit([(2, 9, 46, SIGNED, False), (4, 1, 0, ASKING, False)])
    assert differences(database)[0] == []


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE ledger SET uniques = uniques + 1 WHERE meter = 1", "ledger.uniques"),
        ("UPDATE ledger SET duplicates = duplicates - 1 WHERE meter = 1", "ledger.duplicates"),
        ("UPDATE ledger SET lost = 0 WHERE meter = 1", "ledger.lost"),
        ("UPDATE ledger SET late = 5 WHERE meter = 1", "ledger.late"),
        ("UPDATE ledger SET bitmap = 2 WHERE meter = 1", "ledger.bitmap"),
        ("UPDATE ledger SET delivery = 99 WHERE meter = 1", "ledger.delivery"),
        ("UPDATE ledger SET meter = 77 WHERE meter = 1", "ledger.meter"),
        ("DELETE FROM ledger WHERE meter = 1", "ledger.uniques"),
        ("UPDATE deliveries SET id = id + 1 WHERE id = 2", "deliveries.id"),
        ("INSERT INTO rejections VALUES (77, 'forged', 1)", "rejections.meter"),
    ],
)
def test_damage_is_named(office: Office, database: Database, statement: str, what: str) -> None:
    with office.engine.begin() as connection:
        assert connection.execute(sa.text(statement)).rowcount == 1
    assert what in {difference.what for difference in differences(database)[0]}


def test_a_delivery_that_cannot_be_read(office: Office, database: Database) -> None:
    with office.engine.begin() as connection:
        query = sa.text("SELECT body FROM deliveries WHERE id = 2")
        body = bytes(connection.execute(query).scalar_one())
        damaged = body[:-1] + bytes([body[-1] ^ 1])
        update = sa.text("UPDATE deliveries SET body = :body WHERE id = 2")
        connection.execute(update, {"body": damaged})
    found = {difference.what for difference in differences(database)[0]}
    assert "deliveries.body" in found
