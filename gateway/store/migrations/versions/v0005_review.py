# SPDX-License-Identifier: GPL-2.0-or-later
"""What reviews are made of, filled from what is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import op
from sqlalchemy import func, insert, select, update

from gateway.store import schema
from gateway.store.migrations.columns import add_columns

if TYPE_CHECKING:
    from sqlalchemy import Connection

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add tables and columns, and fill them."""
    connection = op.get_bind()
    for table in (
        schema.quarantine_words,
        schema.quarantine_orders,
        schema.quarantine_filters,
        schema.senders,
    ):
        table.create(connection, checkfirst=True)
    add_columns(connection, schema.quarantine, "content", "judged_by")
    add_columns(connection, schema.quarantine_reasons, "answered", "answered_by", "answer")
    add_columns(connection, schema.release_tokens, "sha256", "size")
    connection.exec_driver_sql("DROP INDEX IF EXISTS quarantine_held_at")
    for index in schema.quarantine.indexes:
        index.create(connection, checkfirst=True)
    _fill(connection)


def _fill(connection: Connection) -> None:
    q, words, people = schema.quarantine, schema.quarantine_words, schema.quarantine_recipients
    there = select(schema.quarantine_bytes.c.item).where(schema.quarantine_bytes.c.item == q.c.id).exists()
    connection.execute(update(q).where(~there).values(content=0))
    listed = (
        select(func.aggregate_strings(func.lower(people.c.address), "\n"))
        .where(people.c.item == q.c.id)
        .scalar_subquery()
    )
    texts = (func.lower(q.c.sender), func.coalesce(listed, ""), func.lower(q.c.subject))
    columns = ["item", "held_at", "score", "size", "sender", "people", "subject"]
    known_texts = select(q.c.id, q.c.held_at, q.c.score, q.c.size, *texts)
    connection.execute(insert(words).from_select(columns, known_texts))
    issued = schema.release_tokens
    for name in ("sha256", "size"):
        of_item = select(q.c[name]).where(q.c.id == issued.c.item).scalar_subquery()
        value = func.coalesce(of_item, issued.c[name])
        connection.execute(update(issued).values({name: value}))
