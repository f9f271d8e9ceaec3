# SPDX-License-Identifier: GPL-2.0-or-later
"""How the tables are made, and how those of an older program are brought forward: alembic runs `versions/`.

Reads no hostile input. A script adds what its version brought, in the transaction that opens the database,
so that a start that dies leaves the schema as it was. Scripts are never changed once they are released;
they look before they add, since the tables of a script may have come with a later version of theirs.
Alembic is loaded only where there is something to do. There is no way back but a backup.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, func, insert, inspect, select, text

from gateway.store import schema

FOLDER: Final = Path(__file__).resolve().parent
HEAD: Final = "0012"  # the newest script
BEFORE_ALEMBIC: Final = 8  # the last version that stands in `schema_version` alone

_SQLITE_APPEND_ONLY = (
    (
        "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
    ),
    (
        "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
    ),
)
_POSTGRESQL_APPEND_ONLY = (
    (
        "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$"
    ),
    (
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
    ),
)


class NewerSchemaError(Exception):
    """The database was written by a later program than this one."""


def prepare(connection: Connection) -> None:
    """Create the tables, or bring an older schema forward, within the caller's transaction."""
    postgresql = connection.dialect.name == "postgresql"
    if postgresql:  # two nodes starting at once
        connection.execute(text("SELECT pg_advisory_xact_lock(6245190)"))
    there = inspect(connection)
    before, now = schema.schema_version, schema.alembic_version
    if not there.has_table(before.name):
        schema.metadata.create_all(connection, checkfirst=False)
        for statement in _POSTGRESQL_APPEND_ONLY if postgresql else _SQLITE_APPEND_ONLY:
            connection.exec_driver_sql(statement)
        connection.execute(insert(before).values(version=BEFORE_ALEMBIC + 1, applied=time.time()))
        connection.execute(insert(now).values(version_num=HEAD))
        return
    if there.has_table(now.name):
        found = connection.execute(select(now.c.version_num)).scalar() or ""
    else:
        found = f"{connection.execute(select(func.max(before.c.version))).scalar() or 0:04}"
    if found == HEAD:
        return
    if not "0001" <= found < HEAD:
        raise NewerSchemaError(f"schema version {found}, this program knows up to {HEAD}")
    upgrade(connection, found)
    if found <= f"{BEFORE_ALEMBIC:04}":  # a program from before must not take it for its own
        connection.execute(insert(before).values(version=BEFORE_ALEMBIC + 1, applied=time.time()))


def upgrade(connection: Connection, found: str) -> None:
    """Run all scripts after the revision `found`, within the caller's transaction."""
    from alembic.config import Config  # noqa: PLC0415  # only an older schema needs it
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415  # as above
    from alembic.script import ScriptDirectory  # noqa: PLC0415  # as above

    scripts = ScriptDirectory(str(FOLDER))

    def steps(current: object, _context: object) -> object:
        return scripts._upgrade_revs(HEAD, current or found)  # type: ignore[arg-type]  # noqa: SLF001  # what `alembic upgrade` calls

    with EnvironmentContext(Config(), scripts, fn=steps, destination_rev=HEAD) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
