# SPDX-License-Identifier: GPL-2.0-or-later
"""Columns that a later version of a table has, added where they are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import inspect
from sqlalchemy.schema import CreateColumn

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table


def add_columns(connection: Connection, table: Table, *names: str) -> None:
    """Add those columns of `table`, by name, that the database does not have; each needs a default."""
    known = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for name in names:
        if name not in known:
            column = CreateColumn(table.c[name]).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
