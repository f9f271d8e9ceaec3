# SPDX-License-Identifier: GPL-2.0-or-later
"""Databases of all earlier versions become today's, with all that is in them."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import func, inspect, select

from gateway.store import migrations, schema
from gateway.store.database import Database, StoreError, StoreSettings, open_database
from gateway.store.journal import Filter, Journal
from gateway.store.quarantine import Quarantine
from gateway.store.reach import Reach
from gateway.store.search import Search
from gateway.store.states import OPEN, Actor, State
from tests.stored import POSTGRESQL, execute, settings_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"
EARLIER = sorted(int(path.name[1:].partition(".")[0]) for path in SCHEMAS.glob("v*.sqlite.sql"))
HELD, PARTLY, DELETED = (f"1KTK3PV1R000000{n}" for n in range(3))


def old_database(folder: Path, version: int) -> StoreSettings:
    """A database as the program of that version left it."""
    settings = settings_for(folder)
    if POSTGRESQL:
        from sqlalchemy import create_engine

        engine = create_engine(POSTGRESQL.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            connection.exec_driver_sql((SCHEMAS / f"v{version}.postgresql.sql").read_text("utf-8"))
        engine.dispose()
        return settings
    path = Path(settings.database.removeprefix("sqlite:///"))
    path.parent.mkdir(mode=0o700, parents=True)
    plain = sqlite3.connect(path)
    plain.executescript((SCHEMAS / f"v{version}.sqlite.sql").read_text("utf-8"))
    plain.close()
    return settings


def shape(connection: Connection) -> dict[str, Any]:
    """Tables with their columns and indexes."""
    there = inspect(connection)
    return {
        table: (
            {c["name"]: (str(c["type"]), c["nullable"]) for c in there.get_columns(table)},
            {i["name"]: i["column_names"] for i in there.get_indexes(table)},
            there.get_pk_constraint(table)["constrained_columns"],
        )
        for table in there.get_table_names()
    }


def check(database: Database) -> None:
    """What the earlier program wrote is there, and can be worked with."""
    quarantine = Quarantine(database)
    assert quarantine.verify_audit() is None
    states = {name: item.state for name, item in quarantine.known([HELD, PARTLY, DELETED]).items()}
    assert states == {HELD: State.HELD, PARTLY: State.HELD, DELETED: State.DELETED}
    assert quarantine.raw(HELD).startswith(b"From: Alice")
    assert quarantine.judgements(HELD)[0].verdict.score == 9.5
    found = [item.id for item in quarantine.search(Search(subject="CHANCE", recipient="CAROL"))]
    assert found == [PARTLY, HELD]
    within = [Reach(("carol@EXAMPLE.com",)), Reach(domains=("example.com",)), Reach(domains=(".com",))]
    for reach in within:
        assert [item.id for item in quarantine.search(Search(within=reach, state=OPEN))] == [PARTLY, HELD]
    assert quarantine.count(Search(state=State.DELETED)) == 1
    assert quarantine.count(Search(within=Reach(("dora@example.com",)))) == 0
    assert len(Journal(database).search(Filter())) == 3
    assert quarantine.delete(HELD, Actor("cli:eve"))
    assert quarantine.expire(4e9) == 1
    assert quarantine.verify_audit() is None


def test_the_scripts_are_one_line_that_ends_at_the_head() -> None:
    scripts = ScriptDirectory(str(migrations.FOLDER))
    known = [script.revision for script in scripts.walk_revisions()]
    assert scripts.get_heads() == [migrations.HEAD]
    assert sorted(known, reverse=True) == known
    assert len(known) == int(migrations.HEAD)
    assert [*range(1, len(EARLIER) + 1)] == EARLIER
    assert EARLIER[-1] == int(migrations.HEAD) - 1


@pytest.mark.parametrize("version", EARLIER)
def test_an_earlier_database_becomes_todays(tmp_path: Path, version: int) -> None:
    settings = old_database(tmp_path / "old", version)
    database = open_database(settings)
    assert database.read(lambda c: c.execute(select(schema.alembic_version)).scalars().all()) == [
        migrations.HEAD
    ]
    made = database.read(shape)
    check(database)
    database.close()
    open_database(settings).close()  # and again: nothing is left to do
    fresh = open_database(settings_for(tmp_path / "fresh"))
    assert made == fresh.read(shape)
    fresh.close()


@pytest.mark.parametrize("version", [1, EARLIER[-1]])
def test_two_nodes_that_start_at_once(tmp_path: Path, version: int) -> None:
    settings = old_database(tmp_path, version)
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: open_database(settings), range(4)))
    check(opened[0])
    for database in opened:
        database.close()


def test_a_script_that_fails_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = old_database(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "upgrade", _half)
        with pytest.raises(StoreError):
            open_database(settings)
    database = open_database(settings)
    check(database)
    database.close()


def _half(connection: Connection, found: str, upgrade: Callable[..., None] = migrations.upgrade) -> None:
    """Do all of the upgrade, and then fail."""
    upgrade(connection, found)
    connection.exec_driver_sql("SELECT * FROM no_such_table")


@pytest.mark.parametrize("made_by", [0, 6])
def test_programs_from_before_alembic_refuse_it(tmp_path: Path, made_by: int) -> None:
    database = open_database(old_database(tmp_path, made_by) if made_by else settings_for(tmp_path))
    newest = select(func.max(schema.schema_version.c.version))
    assert database.read(lambda c: c.execute(newest).scalar_one()) > migrations.BEFORE_ALEMBIC
    database.close()


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    database = open_database(settings)
    execute(database, "UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(StoreError, match="schema version 9999"):
        open_database(settings)
