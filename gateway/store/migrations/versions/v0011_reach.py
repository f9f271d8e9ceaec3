# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose mail an item is, and its state beside what people search by; filled from what is held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alembic import op
from sqlalchemy import func, insert, select, update

from gateway.store import schema
from gateway.store.migrations.columns import add_columns
from gateway.store.reach import keys_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

revision = "0011"
down_revision = "0010"

_PAGE: Final = 5_000


def upgrade() -> None:
    """Add the column and the table, and fill them."""
    connection = op.get_bind()
    add_columns(connection, schema.quarantine_words, "state")
    table, words = schema.quarantine, schema.quarantine_words
    state = select(table.c.state).where(table.c.id == words.c.item).scalar_subquery()
    connection.execute(update(words).values(state=func.coalesce(state, words.c.state)))
    schema.quarantine_reach.create(connection, checkfirst=True)
    _fill(connection)


def _fill(connection: Connection) -> None:
    table, people = schema.quarantine, schema.quarantine_recipients
    page = select(table.c.id).order_by(table.c.id).limit(_PAGE)
    last = ""
    while ids := list(connection.execute(page.where(table.c.id > last)).scalars()):
        last = ids[-1]
        of_items: dict[str, list[str]] = {}
        those = select(people.c.item, people.c.address).where(people.c.item.between(ids[0], last))
        for item, address in connection.execute(those):
            of_items.setdefault(item, []).append(address)
        rows = [{"key": key, "item": item} for item, some in of_items.items() for key in keys_of(some)]
        if rows:
            connection.execute(insert(schema.quarantine_reach), rows)
