# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of the database while others work with it, and the proof that it is whole.

SQLite copies page by page and begins anew what others change meanwhile, so that the copy is the state of
one moment. It is made beside its place and moved there once it is synced: a copy that was cut off is
none. To verify opens it read-only and believes nothing in it: the file itself, the version, the chain of
the audit, and each held message by its SHA-256.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from gateway.store import audit, held, migrations, schema
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

_PAGES: Final = 2_000  # copied in one step, between which others write
_PAUSE: Final = 0.005
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Found:
    """What a copy has; `problems` is empty if it is whole."""

    version: str
    messages: int  # held ones whose octets were compared
    records: int  # of the journal
    audit: int  # rows
    problems: tuple[str, ...]


def copy(database: Path, target: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Copy the SQLite database at `database` to the new file `target`; its octets. Raises StoreError.

    `progress` is told the pages that are left, and of how many.
    """
    with beside(target) as unfinished:
        try:
            with closing(_opened(database)) as source, closing(sqlite3.connect(unfinished)) as copied:

                def told(_status: int, left: int, total: int) -> None:
                    if progress is not None:
                        progress(left, total)

                source.backup(copied, pages=_PAGES, progress=told, sleep=_PAUSE)
                # One file, without a log beside it.
                copied.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as error:
            raise StoreError(f"{target}: {error}") from error
    return target.stat().st_size


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A new file beside `target`, synced and moved there in the end; gone on failure. Raises StoreError."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.exists():
            raise StoreError(f"{target} is there already")
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
        try:
            yield unfinished
            descriptor = os.open(unfinished, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            os.link(unfinished, target)  # fails where somebody else was faster
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{target}: {error}") from error


def verify(path: Path, progress: Callable[[int], None] | None = None) -> Found:
    """Read a copy from end to end. Raises StoreError for what is no database of ours at all."""
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    engine = create_engine("sqlite://", creator=lambda: _opened(path), poolclass=NullPool)
    problems: list[str] = []
    try:
        with engine.connect() as connection:
            if (said := connection.exec_driver_sql("PRAGMA integrity_check(5)").scalars().all()) != ["ok"]:
                problems += [f"the file is damaged: {line}" for line in said]
            version = str(connection.execute(select(schema.alembic_version.c.version_num)).scalar() or "")
            if not "0001" <= version <= migrations.HEAD:
                problems.append(f"schema version {version}, this program knows up to {migrations.HEAD}")
            if (row := audit.verify(connection)) is not None:
                problems.append(f"the audit does not fit from row {row} on")
            messages = _messages(connection, problems, progress)
            records = connection.execute(select(func.count()).select_from(schema.journal)).scalar_one()
            rows = connection.execute(select(func.count()).select_from(schema.audit)).scalar_one()
            return Found(version, messages, records, rows, tuple(problems[:20]))
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"{path}: {cause}") from error
    finally:
        engine.dispose()


def _messages(connection: Connection, problems: list[str], progress: Callable[[int], None] | None) -> int:
    """Compare all held messages with their SHA-256; how many are whole."""
    table = schema.quarantine
    last, whole, seen = "", 0, 0
    page = select(table.c.id).where(table.c.content == 1).order_by(table.c.id).limit(_BATCH)
    while ids := connection.execute(page.where(table.c.id > last)).scalars().all():
        for item in ids:
            try:
                held.bytes_of(connection, item)
                whole += 1
            except StoreError as error:
                problems.append(str(error))
        seen += len(ids)
        if progress is not None:
            progress(seen)
        last = ids[-1]
    return whole


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=30.0)
