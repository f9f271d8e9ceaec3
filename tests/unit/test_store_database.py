# SPDX-License-Identifier: GPL-2.0-or-later
"""The database: where it may lie, how durable it is, and what it says when it cannot work."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gateway.store import database as database_module
from gateway.store.database import Database, StoreError, StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.queue import Queue
from gateway.store.queued import Addressee, Outgoing
from gateway.store.states import Actor
from tests.stored import RAW, hold, mail_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "test.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = open_database(url(path))
    yield opened
    opened.close()


def url(path: Path) -> StoreSettings:
    return StoreSettings(database=f"sqlite:///{path}")


def pragma(connection: Connection, name: str) -> Any:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_only_its_owner_reads_file_and_directory(path: Path, database: Database) -> None:
    hold(Quarantine(database))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = sorted(path.parent.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_durable_commit_is_an_fsync_and_a_quick_one_is_not(database: Database) -> None:
    assert database.write(lambda c: pragma(c, "synchronous")) == 2
    assert database.write(lambda c: pragma(c, "synchronous"), durable=False) == 1
    assert database.read(lambda c: pragma(c, "journal_mode")) == "wal"
    assert database.write(lambda c: pragma(c, "secure_delete")) == 1


def test_permissions_of_an_existing_file_are_tightened(path: Path) -> None:
    open_database(url(path)).close()
    path.chmod(0o644)
    open_database(url(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_creates_belongs_to_the_owner_of_the_directory(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    os.chown(path.parent, 12_345, 23_456)
    database = open_database(url(path))
    hold(Quarantine(database))
    owners = {(file.stat().st_uid, file.stat().st_gid) for file in path.parent.iterdir()}
    database.close()
    assert owners == {(12_345, 23_456)}


def test_a_link_is_refused(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    elsewhere.touch()
    path.parent.mkdir()
    path.symlink_to(elsewhere)
    with pytest.raises(StoreError, match="not a regular file"):
        open_database(url(path))
    assert elsewhere.read_bytes() == b""


def test_a_directory_that_anyone_writes_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)  # the point
    with pytest.raises(StoreError, match="anyone may write"):
        open_database(url(path))
    assert not path.exists()


@pytest.mark.parametrize(
    "bad",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://root@localhost/x",
        "nonsense",
        "",
        "sqlite:////dev/null/x.db",
    ],
)
def test_other_urls_are_refused(bad: str) -> None:
    with pytest.raises(StoreError):
        open_database(StoreSettings(database=bad))


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"not a database at all, but somebody's file\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError):
        open_database(url(path))
    assert path.read_bytes() == before


def test_it_belongs_to_the_process_that_opened_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StoreError, match="before fork"):
        hold(Quarantine(database))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_went_away_is_noticed(
    path: Path, database: Database, tmp_path: Path, replaced: bool
) -> None:
    quarantine = Quarantine(database)
    hold(quarantine)
    for file in path.parent.iterdir():
        file.rename(tmp_path / file.name)
    if replaced:
        open_database(url(path)).close()
    with pytest.raises(StoreError, match="removed or replaced"):
        hold(quarantine)
    if replaced:  # the one that lies there now is used from then on
        mail = hold(quarantine)
        assert quarantine.raw(mail.id) == RAW
    else:  # and no new one is made up
        with pytest.raises(StoreError):
            hold(quarantine)
        assert not path.exists()


def test_a_lock_is_waited_for(path: Path, database: Database) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    timer.start()
    mail = hold(Quarantine(database))
    timer.join()
    other.close()
    assert Quarantine(database).raw(mail.id) == RAW


def test_a_lock_that_stays_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.05)
    database = open_database(url(path))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    mail = mail_for()
    with pytest.raises(StoreError, match="locked"):
        hold(Quarantine(database), mail)
    other.execute("ROLLBACK")
    other.close()
    assert Quarantine(database).find(mail.id) is None
    database.close()


def test_errors_do_not_quote_the_mail(database: Database) -> None:
    database.write(lambda c: c.exec_driver_sql("DROP TABLE quarantine_bytes"))
    with pytest.raises(StoreError) as caught:
        hold(Quarantine(database))
    assert "alice" not in str(caught.value)


_FULL = """
import os, resource, sys
from gateway.store.database import StoreError, StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.search import Search
from tests.stored import RAW, execute, hold, mail_for
quarantine = Quarantine(open_database(StoreSettings(database=sys.argv[1])))
first = hold(quarantine)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
big = mail_for(raw=RAW + os.urandom(1_000_000).hex().encode())
try:
    hold(quarantine, big)
except StoreError as error:
    print("refused", quarantine.find(big.id), quarantine.raw(first.id) == RAW)
"""


def test_a_full_disk_is_an_error_and_keeps_nothing(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, url(path).database],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["refused", "None", "True"]


def test_mail_leaves_room_on_the_disk_and_what_is_done_with_it_does_not(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk would keep the queue from being emptied: that is written as well."""
    reserve = StoreSettings().minimum_free
    logged = path.with_name(f"{path.name}-wal").stat().st_size
    disk = SimpleNamespace(f_bavail=reserve + logged + 2 * 3000, f_frsize=1)
    monkeypatch.setattr("os.statvfs", lambda _path: disk)
    assert database.write(lambda _connection: 1, mail=3000) == 1
    disk.f_bavail -= 1
    with pytest.raises(StoreError, match="nearly full: 1 octets more"):
        database.write(lambda _connection: 1, mail=3000)
    assert database.write(lambda _connection: 1) == 1
    monkeypatch.setattr(database_module, "_free_pages", lambda _connection: 1)
    assert not database.lack_of_room(3000), "room within the file"
    disk.f_bavail = 0
    assert database.lack_of_room()
    database.reserve = 0
    assert not database.lack_of_room(1 << 40)


def test_pages_of_what_is_gone_are_room(database: Database) -> None:
    def fill(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE heap (data BLOB)")
        connection.exec_driver_sql("INSERT INTO heap VALUES (zeroblob(1000000))")

    database.write(fill)
    before = database.read(database_module._free_pages)
    database.write(lambda connection: connection.exec_driver_sql("DELETE FROM heap"))
    assert database.read(database_module._free_pages) >= before + 900_000


def test_mail_is_neither_queued_nor_held_without_room(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = mail_for("bob@example.com"), mail_for("bob@example.com")
    quarantine = Quarantine(database)
    hold(quarantine, first)
    full = SimpleNamespace(f_bavail=0, f_frsize=1)
    monkeypatch.setattr("os.statvfs", lambda _path: full)
    with pytest.raises(StoreError, match="nearly full"):
        hold(quarantine, second)
    with pytest.raises(StoreError, match="nearly full"):
        Queue(database).add([Outgoing(second.id, "", (Addressee("bob@example.com"),), RAW, 0.0, 1.0)])
    assert quarantine.find(second.id) is None
    assert quarantine.delete(first.id, Actor("cli:me"))


def test_the_object_mapper_is_never_loaded() -> None:
    program = "import sys, gateway.store.quarantine; print('sqlalchemy.orm' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
