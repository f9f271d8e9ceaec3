# SPDX-License-Identifier: GPL-2.0-or-later
"""One database for journal and quarantine: SQLite by default, PostgreSQL for several nodes.

SQLAlchemy Core, no ORM: imports stay cheap and each statement is visible. What is guarded for SQLite:
pysqlite's own transaction control is switched off, because its late BEGIN lets two writers deadlock;
every write begins IMMEDIATE and waits for its turn. `synchronous=FULL` makes a durable commit an
fsync. A file that was removed or replaced under a running process is noticed after each durable
commit, since such a commit went nowhere. Deleted bytes are overwritten (`secure_delete`).

Open it after fork: a connection never crosses one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import msgspec
from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from gateway.mail.domains import check_pattern
from gateway.settings import Seconds, Settings
from gateway.store import migrations

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
log = logging.getLogger(__name__)

BUSY_SECONDS = 5.0  # how long SQLite waits for another writer, each try
ATTEMPTS = 4  # tries of one transaction that met a lock or a serialization failure
_STEPS = 20_000  # of SQLite's machine between two looks at the clock, about a millisecond
POOL_SIZE = 2  # connections kept; more are opened under load and closed again
POOL_OVERFLOW = 30

Days = Annotated[int, msgspec.Meta(ge=1, le=3_650)]


class RetentionRow(Settings, frozen=True):
    """Other times for mail to a domain. What is for several domains stays as long as any of them wants it."""

    # Domain of recipients; ".example.com" means all below it.
    domain: str
    # Days that held mail is kept; without it those of [store].
    quarantine_days: Days | None = None
    # Days that records of the journal are kept, with evidence, addresses and subject; without it as above.
    journal_days: Days | None = None
    # Days that labelled mail is kept of which own models of this domain, or of recipients in it, are made
    # ([classifier] per); without it as above. What is of nobody's own model stays as [store] says.
    samples_days: Days | None = None

    def __post_init__(self) -> None:
        check_pattern(self.domain)


class StoreSettings(Settings, frozen=True):
    """Where messages are recorded and held, and for how long."""

    # Database URL. sqlite:////absolute/path, or postgresql://user@host/name where several nodes
    # share one quarantine (needs the package psycopg).
    database: str = "sqlite:////var/lib/mailwarden/mailwarden.db"
    # Days a record of each message is kept for `mailwarden explain`.
    journal_days: Days = 30
    # Days a held message is kept before it expires.
    quarantine_days: Days = 30
    # Days the empty row of a released, deleted or expired message is kept after that.
    tombstone_days: Days = 90
    # Days that labelled mail is kept, of which the site's model is made (features, and bodies if those are
    # kept); the model is then made anew without it. 0 keeps it.
    samples_days: Annotated[int, msgspec.Meta(ge=0, le=3_650)] = 0
    # Octets that all held messages may have together, as they were received; beyond, the oldest go, with
    # an error in the log. 0 sets no bound.
    quota: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 0
    # SQLite: octets on its disk that new mail leaves free, since mail that is sent on is written about, too:
    # a queue that filled its disk could not be emptied. What would need them is put off. 0 leaves none.
    minimum_free: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 67_108_864
    # Other times for some domains.
    retention: tuple[RetentionRow, ...] = ()
    # How long a release under way keeps others from releasing the same message.
    lease_seconds: Seconds = 600.0
    # How long a released message may take to come back through Postfix.
    token_seconds: Seconds = 21_600.0
    # After this time a search of held mail or of the journal is given up, with a word about how to narrow it.
    search_seconds: Seconds = 30.0


def state_directory(settings: StoreSettings) -> Path:
    """The folder of the database, where this machine keeps what belongs to it."""
    try:
        url = make_url(settings.database)
    except ArgumentError:
        url = None
    here = url.database if url is not None and url.get_backend_name() == "sqlite" else None
    return Path(here).absolute().parent if here else Path("/var/lib/mailwarden")


class StoreError(Exception):
    """The store could not do what was asked. Nothing was changed; the caller defers."""


class TooSlowError(StoreError):
    """A search took longer than it may; a narrower one may be answered."""


class Database:
    """Two pools of connections to one database: durable commits, and quick ones.

    Thread-safe. Belongs to the process that opened it.
    """

    __slots__ = ("_durable", "_pid", "_quick", "_seconds", "path", "reserve")

    def __init__(
        self, durable: Engine, quick: Engine, path: Path | None, seconds: float, reserve: int = 0
    ) -> None:
        """`seconds` is the time that a search may take, `reserve` what mail leaves free on the disk."""
        self._seconds = seconds
        self._durable = durable
        self._quick = quick
        self._pid = os.getpid()
        self.path = path
        self.reserve = reserve

    @property
    def dialect(self) -> str:
        """Either "sqlite" or "postgresql"."""
        return self._durable.dialect.name

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction and return its result. Raises StoreError."""
        return self._run(self._quick.execution_options(reading=True), work)

    def search(self, work: Callable[[Connection], T]) -> T:
        """Like `read`, for what strangers make slow: given up with TooSlowError when its time is over."""
        if self.path is not None:
            return self.read(lambda connection: _in_time(connection, work, self._seconds))
        most = f"SET LOCAL statement_timeout = {max(1, round(self._seconds * 1000))}"

        def bounded(connection: Connection) -> T:
            connection.exec_driver_sql(most)
            return work(connection)

        return self.read(bounded)

    def snapshot(self, work: Callable[[Connection], T]) -> T:
        """Like `read`, and all that `work` reads is the state of one moment; others write meanwhile."""
        options: dict[str, Any] = {"reading": True}
        if self.path is None:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        return self._run(self._quick.execution_options(**options), work)

    def write(self, work: Callable[[Connection], T], *, durable: bool = True, mail: int | None = None) -> T:
        """Run `work` in a write transaction; with `durable` it is on disk when this returns.

        `mail` are octets of new mail that are written, for which there must be room.
        `work` may be run again when the database was busy, so it keeps its effects inside the
        connection. Raises StoreError, and then nothing was changed.
        """
        lack = "" if mail is None else self.lack_of_room(mail)
        if lack:
            raise StoreError(lack)
        return self._run(self._durable if durable else self._quick, work)

    def lack_of_room(self, octets: int = 0) -> str:
        """Why the disk cannot take so many octets of mail and keep `reserve` free, "" if it can."""
        if self.path is None or not self.reserve:
            return ""
        try:
            short = self.reserve - free_for_mail(self.path, octets)
            if short > 0:  # there may be room within the file, of what has gone
                short -= self.read(_free_pages)
        except (OSError, StoreError) as error:
            return str(error)
        return f"the disk is nearly full: {short} octets more must be free" if short > 0 else ""

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._durable.dispose()
        self._quick.dispose()

    def purge(self) -> None:
        """Move deleted content out of SQLite's write-ahead log, as far as other readers allow."""
        if self.path is None:
            return
        with contextlib.suppress(SQLAlchemyError, sqlite3.Error), _raw(self._durable) as connection:
            connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _run(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        if os.getpid() != self._pid:
            raise StoreError("the database was opened before fork")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with engine.connect() as connection:
                    with connection.begin():
                        result = work(connection)
                    self._still_there(connection)
                    return result
            except (SQLAlchemyError, sqlite3.Error, OSError) as error:
                if _out_of_time(error):
                    raise TooSlowError(
                        f"the search took longer than {self._seconds:g} s and was given up; "
                        "narrow it by time, domain, reason or state"
                    ) from error
                if attempt == ATTEMPTS or not _worth_another_try(error):
                    raise StoreError(_words(error)) from error
                time.sleep(random.uniform(0.01, 0.05) * attempt)  # noqa: S311  # jitter, not a secret
        raise StoreError("the database stayed busy")

    def _still_there(self, connection: Connection) -> None:
        if self.path is None or connection.info.get("file") == _identity(self.path):
            return
        connection.invalidate()
        self._durable.dispose()
        self._quick.dispose()
        raise StoreError(f"the database file {self.path} was removed or replaced")


def open_database(settings: StoreSettings) -> Database:
    """Open the database, making file, directory and tables as needed. Raises StoreError."""
    try:
        parsed = make_url(settings.database)
    except ArgumentError as error:
        raise StoreError(f"not a database URL: {settings.database!r}") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        database = _open_sqlite(parsed, settings)
    elif backend == "postgresql":
        database = _open_postgresql(parsed, settings.search_seconds)
    else:
        raise StoreError(f"not a database for this: {backend!r}; use sqlite or postgresql")
    try:
        database.write(migrations.prepare)
    except migrations.NewerSchemaError as error:
        database.close()
        raise StoreError(f"{parsed.render_as_string()}: {error}") from error
    except StoreError:
        database.close()
        raise
    return database


def upsert(connection: Connection, table: Table) -> Any:
    """The INSERT of this database that knows `on_conflict_do_update`."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


# ---------------------------------------------------------------- SQLite


def free_for_mail(path: Path, octets: int) -> int:
    """Octets that stay free on the disk of an SQLite file when mail of so many was added. Raises OSError.

    What is written stands in the log first, and then in the file as well; so does what stands in it now.
    """
    found = os.statvfs(path.parent)
    try:
        logged = path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        logged = 0
    return found.f_bavail * found.f_frsize - logged - 2 * octets


def _free_pages(connection: Connection) -> int:
    pages = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())


def _open_sqlite(url: URL, settings: StoreSettings) -> Database:
    if not url.database or url.database == ":memory:" or url.query:
        raise StoreError("sqlite needs a file, as in sqlite:////var/lib/mailwarden/mailwarden.db")
    path = Path(os.path.abspath(url.database))  # noqa: PTH100  # resolve() would follow a symlink
    try:
        _make_file(path)
        _use_wal(path)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error
    engines = _sqlite_engine(path, "FULL"), _sqlite_engine(path, "NORMAL")
    return Database(*engines, path, settings.search_seconds, settings.minimum_free)


def _make_file(path: Path) -> None:
    """Create directory (0700) and file (0600) durably; refuse links and what others may write."""
    directory = path.parent
    if not directory.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_directory(directory.parent)
    if directory.stat().st_mode & stat.S_IWOTH:
        raise OSError(f"anyone may write to {directory}")
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        # Looked at, never opened: closing a descriptor of it would drop this process's locks.
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise OSError("not a regular file") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            path.chmod(0o600)
        return
    try:
        if os.geteuid() == 0:  # a command run by root must not keep the service out
            owner = directory.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _use_wal(path: Path) -> None:
    """Set what SQLite keeps in the file. Others may be doing the same, so wait and try again."""
    for attempt in range(1, 41):
        connection = _connect(path)
        try:
            if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                return
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            if connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",):
                return
        except sqlite3.OperationalError as error:
            if attempt == 40 or not _worth_another_try(error):
                raise
        finally:
            connection.close()
        time.sleep(0.05)
    raise OSError("SQLite's write-ahead log does not work here; use a local file system")


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a file that has gone is an error, never a new, empty quarantine.
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _sqlite_engine(path: Path, synchronous: str) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=lambda: _connect(path),
        poolclass=QueuePool,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_reset_on_return=None,  # every transaction ends before its connection goes back
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        for pragma in (f"synchronous={synchronous}", "secure_delete=ON", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA journal_size_limit=67108864")
        # A search would index a million rows for one page of them.
        connection.execute("PRAGMA automatic_index=OFF")
        connection.execute("PRAGMA wal_autocheckpoint=4000")  # pages; fewer syncs than with 1,000
        record.info["file"] = _identity(path)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("reading"):
            connection.exec_driver_sql("BEGIN")
        else:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            _begin_to_write(raw)

    return engine


def _begin_to_write(connection: sqlite3.Connection) -> None:
    """Become the one who writes. Raises sqlite3.OperationalError after BUSY_SECONDS.

    SQLite's own waiting sleeps ever longer, up to 100 ms; where several processes commit all the time,
    that is most of the time of each commit.
    """
    end = time.monotonic() + BUSY_SECONDS
    pause = 0.0005
    connection.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if time.monotonic() > end or not _worth_another_try(error):
                    raise
                time.sleep(random.uniform(0.5, 1.0) * pause)  # noqa: S311  # jitter, not a secret
                pause = min(1.3 * pause, 0.008)
            else:
                return
    finally:
        connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000:.0f}")


def _in_time(connection: Connection, work: Callable[[Connection], T], seconds: float) -> T:
    """Run `work`, and interrupt what SQLite computes when so many seconds are over."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    end = time.monotonic() + seconds
    raw.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
    try:
        return work(connection)
    finally:
        raw.set_progress_handler(None, 0)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


# ---------------------------------------------------------------- PostgreSQL


def _open_postgresql(url: URL, seconds: float) -> Database:
    url = url.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {
        "pool_size": POOL_SIZE,
        "max_overflow": POOL_OVERFLOW,
        "pool_pre_ping": True,
        "connect_args": {"connect_timeout": 5},
    }
    try:
        durable, quick = create_engine(url, **options), create_engine(url, **options)
    except ImportError as error:
        raise StoreError("PostgreSQL needs psycopg: pip install 'mailwarden[postgresql]'") from error
    _on_connect(durable, "SET synchronous_commit = on")
    _on_connect(quick, "SET synchronous_commit = off")
    return Database(durable, quick, None, seconds)


def _on_connect(engine: Engine, statement: str) -> None:
    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        connection.execute(statement)
        connection.commit()


# ---------------------------------------------------------------- errors


@contextlib.contextmanager
def _raw(engine: Engine) -> Any:
    connection = engine.raw_connection()
    try:
        yield connection.driver_connection
    finally:
        connection.close()


def _worth_another_try(error: BaseException) -> bool:
    """Whether another transaction was in the way, so that the same one may work in a moment."""
    if isinstance(error, IntegrityError):
        return True  # two wrote the same row at once; the next try sees the other's
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    return getattr(cause, "sqlstate", None) in {"40001", "40P01"}


def _out_of_time(error: BaseException) -> bool:
    """Whether the database gave up, since the time of a search was over."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_INTERRUPT or getattr(cause, "sqlstate", None) == "57014"


def _words(error: BaseException) -> str:
    """What went wrong, without the statement and its parameters: those are people's mail."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"[:300]
