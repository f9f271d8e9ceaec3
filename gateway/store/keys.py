# SPDX-License-Identifier: GPL-2.0-or-later
"""Random keys that all nodes share, made when one is first asked for. They never leave the database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select

from gateway.store import schema

if TYPE_CHECKING:
    from gateway.store.database import Database

KEY_BYTES = 32


def shared_key(database: Database, name: str) -> bytes:
    """The key called `name`. Raises StoreError."""
    table = schema.secrets

    def look(connection: Connection) -> bytes | None:
        return connection.execute(select(table.c.value).where(table.c.name == name)).scalar()

    def work(connection: Connection) -> bytes:
        found = look(connection)
        if found is None:
            found = os.urandom(KEY_BYTES)
            connection.execute(insert(table).values(name=name, value=found))
        return bytes(found)

    return bytes(database.read(look) or b"") or database.write(work)
