# SPDX-License-Identifier: GPL-2.0-or-later
"""All rows of one database written to another of today's schema: a PostgreSQL to a file, and back.

Reads rows that strangers' mail is in, and believes nothing of them: they are parameters. What is read is the
state of one moment; what is written is there as a whole, or not at all. A file so made is verified like
every other copy (`backup.py`).
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import LargeBinary, create_engine, exists, func, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from gateway.store import backup, migrations, schema
from gateway.store.database import StoreError, StoreSettings, open_database

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine, Table

    from gateway.store.database import Database

    Progress = Callable[[int, int], None]  # told the rows that are left, and of how many

_BATCH: Final = 1_000
_HEAVY: Final = 10  # rows at once where each may be a message
_TABLES: Final = tuple(
    table
    for table in schema.metadata.sorted_tables
    if table.name not in (schema.alembic_version.name, schema.schema_version.name)
)


def copy(database: Database, target: Path, progress: Progress | None = None) -> int:
    """Write all of `database` to the new SQLite file `target`; its octets. Raises StoreError.

    Others write meanwhile; nobody waits.
    """
    with backup.beside(target) as unfinished:
        engine = _file(unfinished)
        try:
            # What is cut off is thrown away: it needs no log of its own, and one sync at its end.
            with engine.connect() as written:
                for pragma in ("journal_mode=OFF", "synchronous=OFF"):
                    written.exec_driver_sql(f"PRAGMA {pragma}")
                written.commit()
                with written.begin():
                    migrations.prepare(written)
                    database.snapshot(lambda read: _pour(read, written, progress))
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(f"{target}: {getattr(error, 'orig', None) or error}") from error
        finally:
            engine.dispose()
    return target.stat().st_size


def restore(file: Path, database: Database, progress: Progress | None = None) -> int:
    """Write all of a copy to `database`, which has nothing in it; the rows. Raises StoreError.

    A copy of an earlier schema is brought forward beside, in the folder of `file`, which stays as it is.
    """
    if not file.is_file():
        raise StoreError(f"{file}: no such file")
    try:
        if (version := _version(file)) == migrations.HEAD:
            return _read(file, database, progress)
        if version > migrations.HEAD:
            raise StoreError(f"{file}: schema version {version}, this program knows up to {migrations.HEAD}")
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".restore-") as folder:
            forward = Path(folder) / "copy.db"
            shutil.copyfile(file, forward)
            open_database(StoreSettings(database=f"sqlite:///{forward.absolute()}")).close()
            return _read(forward, database, progress)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{file}: {error}") from error


def _read(file: Path, database: Database, progress: Progress | None) -> int:
    engine = _file(file)

    def work(written: Connection) -> int:
        if any(written.execute(select(exists().select_from(table))).scalar() for table in _TABLES):
            raise StoreError("the database that [store] names has something in it already")
        with engine.connect() as read:
            return _pour(read, written, progress)

    try:
        return database.write(work)
    finally:
        engine.dispose()


def _pour(read: Connection, written: Connection, progress: Progress | None) -> int:
    """Write all rows of one connection to the other; how many."""
    total = done = 0
    if progress is not None:
        counts = (read.execute(select(func.count()).select_from(table)).scalar_one() for table in _TABLES)
        total = sum(counts)
    for table in _TABLES:
        heavy = any(isinstance(column.type, LargeBinary) for column in table.c)
        rows = read.execute(select(table), execution_options={"yield_per": _HEAVY if heavy else _BATCH})
        for part in rows.mappings().partitions():
            written.execute(insert(table), [dict(row) for row in part])
            done += len(part)
            if progress is not None:
                progress(max(total - done, 0), total)
        if written.dialect.name == "postgresql":
            _count_on(written, table)
    return done


def _count_on(written: Connection, table: Table) -> None:
    """Let numbers go on where those that were written end."""
    counted = table.autoincrement_column
    if counted is None:
        return
    sequence = func.pg_get_serial_sequence(table.name, counted.name)
    last = select(func.max(counted)).scalar_subquery()
    written.execute(select(func.setval(sequence, func.coalesce(last, 1), last.is_not(None))))


def _version(file: Path) -> str:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:  # from before alembic
            row = connection.execute("SELECT printf('%04d', max(version)) FROM schema_version").fetchone()
    return str(row[0]) if row else ""


def _file(path: Path) -> Engine:
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(path), poolclass=NullPool)
