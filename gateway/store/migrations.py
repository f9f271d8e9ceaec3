# SPDX-License-Identifier: GPL-2.0-or-later
"""How the tables are made, and how those of an older program are brought forward."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, insert, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

from gateway.store import schema

if TYPE_CHECKING:
    from collections.abc import Callable

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


def _add_dmarc(connection: Connection) -> None:
    """Add what aggregate reports are made of."""
    for table in (schema.dmarc_observations, schema.dmarc_policies, schema.dmarc_reports):
        table.create(connection)


def _add_samples(connection: Connection) -> None:
    """Add what the site's model learns from."""
    schema.samples.create(connection)


def _add_queue(connection: Connection) -> None:
    """Add what the smart host's queue is made of."""
    for table in (schema.queue_messages, schema.queue_bytes, schema.queue_recipients, schema.queue_owners):
        table.create(connection)


def _add_review(connection: Connection) -> None:
    """Add what reviews are made of, and fill it from what is held."""
    q, words, people, issued = (
        schema.quarantine,
        schema.quarantine_words,
        schema.quarantine_recipients,
        schema.release_tokens,
    )
    for table in (words, schema.quarantine_orders, schema.quarantine_filters, schema.senders):
        table.create(connection)
    for table, names in (
        (q, ("content", "judged_by")),
        (schema.quarantine_reasons, ("answered", "answered_by", "answer")),
        (issued, ("sha256", "size")),
    ):
        known = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for name in names:
            if name not in known:
                column = CreateColumn(table.c[name]).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
    connection.exec_driver_sql("DROP INDEX IF EXISTS quarantine_held_at")
    for index in q.indexes:
        index.create(connection, checkfirst=True)
    there = select(schema.quarantine_bytes.c.item).where(schema.quarantine_bytes.c.item == q.c.id).exists()
    connection.execute(update(q).where(~there).values(content=0))
    listed = (
        select(func.aggregate_strings(func.lower(people.c.address), "\n"))
        .where(people.c.item == q.c.id)
        .scalar_subquery()
    )
    texts = (func.lower(q.c.sender), func.coalesce(listed, ""), func.lower(q.c.subject))
    columns = [c.name for c in words.c]
    known_texts = select(q.c.id, q.c.held_at, q.c.score, q.c.size, *texts)
    connection.execute(insert(words).from_select(columns, known_texts))
    for name in ("sha256", "size"):
        of_item = select(q.c[name]).where(q.c.id == issued.c.item).scalar_subquery()
        value = func.coalesce(of_item, issued.c[name])
        connection.execute(update(issued).values({name: value}))


def _add_owner(connection: Connection) -> None:
    """Add whose mail a sample is."""
    if "owner" not in {column["name"] for column in inspect(connection).get_columns(schema.samples.name)}:
        column = CreateColumn(schema.samples.c.owner).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {schema.samples.name} ADD COLUMN {column}")
    for index in schema.samples.indexes:
        index.create(connection, checkfirst=True)


def _add_tls(connection: Connection) -> None:
    """Add what is known of TLS towards next hops."""
    for table in (schema.mta_sts, schema.tls_hosts, schema.tls_results, schema.tls_reports):
        table.create(connection)


def _add_people(connection: Connection) -> None:
    """Add who may review, and their logins."""
    for table in (schema.people, schema.logins):
        table.create(connection)


# From version n to n + 1, each within the transaction that opens the database.
MIGRATIONS: dict[int, Callable[[Connection], None]] = {
    1: _add_dmarc,
    2: _add_samples,
    3: _add_queue,
    4: _add_review,
    5: _add_owner,
    6: _add_tls,
    7: _add_people,
}


class NewerSchemaError(Exception):
    """The database was written by a later program than this one."""


def prepare(connection: Connection) -> None:
    """Create the tables, or bring an older schema forward, within the caller's transaction."""
    postgresql = connection.dialect.name == "postgresql"
    if postgresql:  # two nodes starting at once
        connection.execute(text("SELECT pg_advisory_xact_lock(6245190)"))
    if not inspect(connection).has_table(schema.schema_version.name):
        schema.metadata.create_all(connection, checkfirst=False)
        for statement in _POSTGRESQL_APPEND_ONLY if postgresql else _SQLITE_APPEND_ONLY:
            connection.exec_driver_sql(statement)
        connection.execute(insert(schema.schema_version).values(version=schema.VERSION, applied=time.time()))
        return
    found = connection.execute(select(func.max(schema.schema_version.c.version))).scalar() or 0
    if found > schema.VERSION:
        raise NewerSchemaError(f"schema version {found}, this program knows up to {schema.VERSION}")
    for version in range(found, schema.VERSION):
        MIGRATIONS[version](connection)
        connection.execute(insert(schema.schema_version).values(version=version + 1, applied=time.time()))
