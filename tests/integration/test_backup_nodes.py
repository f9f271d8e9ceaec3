# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups of a PostgreSQL that others write to, and the way back into an empty one."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import select

from contrib.lab.postgresql import Postgresql
from gateway.cli.main import cli
from gateway.store import schema, transfer
from gateway.store.backup import verify
from gateway.store.database import Database, StoreError, StoreSettings, open_database
from gateway.store.journal import Journal
from gateway.store.quarantine import Quarantine
from gateway.store.search import Search
from gateway.store.states import Actor, State
from tests.stored import EVIDENCE, REPLY, SIGNALS, hold, mail_for, verdict_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.server
SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"


@dataclass
class Node:
    """A node with an empty database of its own on the server."""

    url: str
    config: Path
    database: Database
    quarantine: Quarantine

    def json(self, *words: object, status: int = 0) -> Any:
        done = CliRunner().invoke(cli, ["--config", str(self.config), "backup", *map(str, words), "--json"])
        assert done.exit_code == status, done.output
        return json.loads(done.stdout) if not status else done.output

    def record(self) -> None:
        mail = mail_for()
        journal = Journal(self.database)
        verdict = verdict_for(mail)
        journal.record(mail, None, EVIDENCE, SIGNALS, verdict, reply=REPLY, door="milter", seconds=0.1)
        journal.close()


@pytest.fixture(scope="module")
def server(lab: Path) -> Iterator[Postgresql]:
    if not Postgresql.available():
        pytest.skip("no PostgreSQL here")
    with Postgresql(lab / "backup-postgresql") as running:
        yield running


@pytest.fixture
def nodes(server: Postgresql, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    made = []
    for name in ("one", "two"):
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"CREATE DATABASE {name}")
        url = server.url.rpartition("/")[0] + f"/{name}"
        config = tmp_path / f"{name}.toml"
        config.write_text(f'[store]\ndatabase = "{url}"\n', "utf-8")
        database = open_database(StoreSettings(database=url))
        made.append(Node(url, config, database, Quarantine(database)))
    yield made[0], made[1]
    for node in made:
        node.database.close()


def rows(database: Database) -> dict[str, list[Any]]:
    """All that is in a database."""

    def work(connection: Any) -> dict[str, list[Any]]:
        return {
            table.name: sorted(tuple(row) for row in connection.execute(select(table)))
            for table in schema.metadata.sorted_tables
            if table.name != "schema_version"
        }

    return database.read(work)


def test_a_backup_while_others_write_is_whole_and_comes_back(
    nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    node, other = nodes
    kept = [hold(node.quarantine).id for _ in range(20)]
    node.record()
    stop = threading.Event()

    def writing() -> None:
        while not stop.is_set():
            node.quarantine.delete(hold(node.quarantine).id, Actor("cli:eve"))

    threads = [threading.Thread(target=writing) for _ in range(2)]
    for thread in threads:
        thread.start()
    files = [tmp_path / f"copy{n}.db" for n in range(3)]
    try:
        told = [node.json("make", file) for file in files]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [one["octets"] for one in told] == [file.stat().st_size for file in files]
    for file in files:
        found = verify(file)
        assert not found.problems
        assert found.messages >= 20
        assert found.records == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert other.json("restore", files[-1])["rows"] > 100
    copied = open_database(StoreSettings(database=f"sqlite:///{files[-1]}"))
    assert rows(other.database) == rows(copied)
    copied.close()
    assert other.quarantine.verify_audit() is None
    assert {one.id for one in other.quarantine.search(Search(state=State.HELD))} >= set(kept)
    assert other.quarantine.raw(kept[0]) == node.quarantine.raw(kept[0])
    other.record()  # its number is none of those that came back
    new = hold(other.quarantine).id
    assert other.quarantine.delete(kept[0], Actor("cli:eve"))
    assert other.quarantine.verify_audit() is None
    again = tmp_path / "again.db"
    other.json("make", again)
    assert not verify(again).problems
    assert verify(again).records == 2
    assert new in {one.id for one in other.quarantine.search(Search(state=State.HELD))}


def test_what_is_there_is_never_written_over(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    node, other = nodes
    hold(node.quarantine)
    file = tmp_path / "copy.db"
    node.json("make", file)
    before = file.read_bytes()
    assert "is there already" in node.json("make", file, status=69)
    hold(other.quarantine)
    there = rows(other.database)
    assert "something in it already" in other.json("restore", file, status=65)
    assert rows(other.database) == there
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "one.toml", "two.toml"]


def test_a_copy_that_breaks_off_leaves_nothing(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    node, other = nodes
    hold(node.quarantine)

    def full(_left: int, _total: int) -> None:
        raise StoreError("the disk is full")

    with pytest.raises(StoreError, match="disk is full"):
        transfer.copy(node.database, tmp_path / "copy.db", full)
    assert not list(tmp_path.glob("*copy.db*"))
    transfer.copy(node.database, tmp_path / "copy.db")
    there = rows(other.database)
    with pytest.raises(StoreError, match="disk is full"):
        transfer.restore(tmp_path / "copy.db", other.database, full)
    assert rows(other.database) == there


@pytest.mark.parametrize("version", [1, 8])
def test_a_copy_of_an_earlier_program_comes_back(
    nodes: tuple[Node, Node], tmp_path: Path, version: int
) -> None:
    file = tmp_path / "old.db"
    with closing(sqlite3.connect(file)) as made:
        made.executescript((SCHEMAS / f"v{version}.sqlite.sql").read_text("utf-8"))
    before = file.read_bytes()
    nodes[0].json("restore", file)
    assert file.read_bytes() == before
    assert nodes[0].quarantine.verify_audit() is None
    assert len(nodes[0].quarantine.search(Search())) == 3


def test_a_file_that_is_none_of_ours_is_refused(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    for content in (b"", b"no database at all", b"SQLite format 3\0"):
        file = tmp_path / "some.db"
        file.write_bytes(content)
        nodes[0].json("restore", file, status=65)
    nodes[0].json("restore", tmp_path / "absent.db", status=66)
    assert not nodes[0].quarantine.search(Search())
