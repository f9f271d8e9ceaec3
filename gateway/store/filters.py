# SPDX-License-Identifier: GPL-2.0-or-later
"""Searches of the quarantine under a name, as the options that somebody wrote; shared by all reviewers."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, insert, select

from gateway.mail.headers import printable
from gateway.store import held, schema
from gateway.store.database import StoreError
from gateway.store.encoding import to_json

if TYPE_CHECKING:
    from gateway.store.database import Database

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Filters:
    """The saved filters of one database. Thread-safe; raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, dict[str, str]]:
        """The options of each filter, by name."""
        table = schema.quarantine_filters
        chosen = select(table.c.name, table.c.options).order_by(table.c.name)
        rows = self._database.read(lambda connection: connection.execute(chosen).all())
        return {row.name: held.decode(row.options, dict[str, str]) for row in rows}

    def save(self, name: str, options: dict[str, str], who: str) -> None:
        """Keep `options` under `name`, in place of what was there."""
        if not NAME.fullmatch(name):
            raise StoreError("a filter's name has letters, digits, dots, - and _, 64 at most")
        table = schema.quarantine_filters
        values = {"who": printable(who, 100), "changed": time.time(), "options": to_json(options)}

        def work(connection: Connection) -> None:
            connection.execute(delete(table).where(table.c.name == name))
            connection.execute(insert(table).values(name=name, **values))

        self._database.write(work)

    def remove(self, name: str) -> bool:
        """Forget a filter; whether there was one."""
        table = schema.quarantine_filters
        gone = delete(table).where(table.c.name == name)
        return bool(self._database.write(lambda connection: connection.execute(gone).rowcount))
