# SPDX-License-Identifier: GPL-2.0-or-later
"""The configured database, for the time of one command."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.cli.main import EX_UNAVAILABLE, Failure
from gateway.mail.headers import printable
from gateway.store.database import StoreError, open_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config import Config
    from gateway.store.database import Database


@contextmanager
def opened(config: Config) -> Iterator[Database]:
    """The database, closed at the end; a StoreError of the block, too, is a Failure with EX_UNAVAILABLE."""
    try:
        database = open_database(config.store)
        try:
            yield database
        finally:
            database.close()
    except StoreError as error:
        raise Failure(printable(str(error), 500), EX_UNAVAILABLE) from error
