# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups made while others write, exports, and what is proven of them before they are believed."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import cli
from gateway.store import archive
from gateway.store.backup import copy, verify
from gateway.store.database import Database, StoreError, StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.search import Search
from gateway.store.states import Actor, State
from tests.stored import POSTGRESQL, RAW, claim, hold, mail_for, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(POSTGRESQL), reason="copies files of SQLite")


class Site:
    """A store with a configuration, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: StoreSettings = settings_for(folder)
        self.database: Database = open_database(self.settings)
        self.quarantine = Quarantine(self.database)
        self.config = folder / "mailwarden.toml"
        self.config.write_text(f'[store]\ndatabase = "{self.settings.database}"\n', "utf-8")

    def run(self, *words: object, status: int = 0) -> Result:
        done = CliRunner().invoke(cli, ["--config", str(self.config), *map(str, words)])
        assert done.exit_code == status, done.output
        return done

    def json(self, *words: object, status: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", status=status).stdout)

    @property
    def file(self) -> Path:
        assert self.database.path is not None
        return self.database.path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.database.close()


# ---------------------------------------------------------------- backup


def test_a_backup_is_the_state_of_one_moment_while_others_write(site: Site) -> None:
    for _ in range(20):
        hold(site.quarantine)
    stop = threading.Event()

    def writing() -> None:
        while not stop.is_set():
            item = hold(site.quarantine).id
            site.quarantine.delete(item, Actor("cli:eve"))

    threads = [threading.Thread(target=writing) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            target = site.folder / f"copy{number}.db"
            assert copy(site.file, target) == target.stat().st_size
            found = verify(target)
            assert found.problems == ()
            assert found.messages >= 20
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_backup_is_restored_by_putting_it_in_place(site: Site) -> None:
    mail = hold(site.quarantine)
    made = site.json("backup", site.folder / "copy.db")
    assert made["octets"] > 0
    assert (site.folder / "copy.db").stat().st_mode & 0o777 == 0o600
    site.quarantine.delete(mail.id, Actor("cli:eve"))
    restored = Quarantine(open_database(StoreSettings(database=f"sqlite:///{site.folder}/copy.db")))
    assert restored.raw(mail.id) == RAW
    assert restored.verify_audit() is None
    restored.database.close()


def test_the_command(site: Site) -> None:
    hold(site.quarantine)
    target = site.folder / "copy.db"
    site.run("backup", target)
    assert "It is whole." in site.run("backup", "verify", target).output
    site.run("backup", "make", target, status=69)  # it is there already
    found = site.json("backup", "verify", target)
    assert (found["messages"], found["problems"]) == (1, [])
    for verb in ("verify", "restore"):
        assert "no such file" in site.run("backup", verb, site.folder / "none.db", status=66).output
    assert list(site.folder.glob(".copy*")) == []


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE quarantine_bytes SET data = x'00'", "damaged"),
        ("UPDATE quarantine SET sha256 = 'x'", "SHA-256"),
        ("DELETE FROM quarantine_bytes", "no message"),
        ("DROP TRIGGER audit_no_update; UPDATE audit SET who = 'nobody' WHERE number = 1", "audit"),
        ("DROP TRIGGER audit_no_delete; DELETE FROM audit WHERE number = 2", "audit"),
        ("UPDATE alembic_version SET version_num = '9999'", "version"),
    ],
)
def test_a_copy_that_was_changed_is_found_out(site: Site, statement: str, told: str) -> None:
    for _ in range(2):
        hold(site.quarantine)
    target = site.folder / "copy.db"
    copy(site.file, target)
    changed = sqlite3.connect(target)
    changed.executescript(statement)
    changed.close()
    assert told in " ".join(verify(target).problems)
    site.run("backup", "verify", target, status=65)


def test_a_damaged_file_is_found_out(site: Site) -> None:
    for _ in range(30):
        hold(site.quarantine)
    target = site.folder / "copy.db"
    size = copy(site.file, target)
    with target.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 8_192)
    site.run("backup", "verify", target, status=65)
    target.write_bytes(b"no database at all")
    with pytest.raises(StoreError):
        verify(target)


# ---------------------------------------------------------------- export and import


def test_what_is_exported_is_held_again_elsewhere(site: Site, tmp_path: Path) -> None:
    raw = b"From: a@example.net\r\nSubject: \x00 \xff odd\r\n\r\n\xe9\n"
    one = hold(site.quarantine, mail_for("bob@example.com", "carol@example.com", raw=raw))
    two = hold(site.quarantine)
    out = site.folder / "held.tar.gz"
    site.run("quarantine", "export", one.id, two.id, "--out", out)
    assert out.stat().st_mode & 0o777 == 0o600
    site.run("quarantine", "export", one.id, "--out", out, status=69)
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other")
    told = other.json("quarantine", "import", out)
    assert {row["did"] for row in told} == {"held"}
    found = other.quarantine.find(one.id)
    before = site.quarantine.find(one.id)
    assert found is not None
    assert before is not None
    assert other.quarantine.raw(one.id) == raw
    assert (found.sha256, found.reasons, found.sender) == (before.sha256, before.reasons, before.sender)
    assert [copy.address for copy in found.recipients] == ["bob@example.com", "carol@example.com"]
    assert other.quarantine.original(one.id) == site.quarantine.original(one.id)
    assert other.quarantine.judgements(one.id)[0].verdict.score == 9.5
    assert [e.action for e in other.quarantine.history(one.id)] == ["held", "imported"]
    assert other.quarantine.verify_audit() is None
    again = other.json("quarantine", "import", out, status=1)
    assert all("here already" in row["error"] for row in again)
    other.database.close()


def test_nobody_gets_by_an_import_what_was_settled(site: Site, tmp_path: Path) -> None:
    mail = hold(site.quarantine, mail_for("bob@example.com", "carol@example.com"))
    taken = claim(site.quarantine, mail.id, "bob@example.com")
    assert taken is not None
    site.quarantine.settle(taken, who="cli:eve", delivered={"bob@example.com": "bob@example.com"})
    out = site.folder / "held.tar.gz"
    site.run("quarantine", "export", mail.id, "--out", out)
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other")
    other.run("quarantine", "import", out)
    found = other.quarantine.find(mail.id)
    assert found is not None
    assert [(c.address, c.state) for c in found.recipients] == [("carol@example.com", State.HELD)]
    other.database.close()


def test_an_export_for_very_many_is_held_again_soon(site: Site) -> None:
    mail = hold(site.quarantine, mail_for(*(f"p{number}@example.com" for number in range(10_000))))
    out = site.folder / "held.tar.gz"
    site.run("quarantine", "export", mail.id, "--out", out)
    (site.folder / "other").mkdir()
    other = Site(site.folder / "other")
    started = time.process_time()
    other.run("quarantine", "import", out)
    assert time.process_time() - started < 5
    found = other.quarantine.find(mail.id)
    assert found is not None
    assert len(found.recipients) == 10_000
    other.database.close()


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


def packed(parts: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in parts.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            member.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_a_hostile_export_is_refused(site: Site) -> None:
    mail = hold(site.quarantine)
    out = site.folder / "held.tar.gz"
    site.run("quarantine", "export", mail.id, "--out", out)
    good = members(out)
    facts, raw = f"{mail.id}.json", f"{mail.id}.eml"
    assert [*good] == [facts, raw]
    known = json.loads(good[facts])
    other = "1M80JFSJGNG4SMAS"
    hostile = {
        "another message": packed({facts: good[facts], raw: good[raw] + b"x"}),
        "a path": packed({"../../etc/x.json": good[facts], raw: good[raw]}),
        "an absolute path": packed({"/etc/x.eml": b"x"}),
        "a link": packed({facts: b""}, tarfile.SYMTYPE),
        "no facts": packed({raw: good[raw]}),
        "facts of another": packed({f"{other}.json": good[facts], f"{other}.eml": good[raw]}),
        "another format": packed({facts: json.dumps({**known, "format": 2}).encode(), raw: good[raw]}),
        "an unknown key": packed({facts: json.dumps({**known, "x": 1}).encode(), raw: good[raw]}),
        "no JSON": packed({facts: b"\xff{", raw: good[raw]}),
        "deep JSON": packed({facts: b"[" * 100_000, raw: good[raw]}),
        "cut off": out.read_bytes()[:200],
        "no archive": b"From: x\r\n" * 1_000,
        "empty gzip": gzip.compress(b""),
        "nothing but zeros": b"\0" * 10_240,
    }
    (site.folder / "other").mkdir()
    other_site = Site(site.folder / "other")
    for name, data in hostile.items():
        path = site.folder / "hostile.tar.gz"
        path.write_bytes(data)
        done = CliRunner().invoke(
            cli, ["--config", str(other_site.config), "quarantine", "import", str(path)]
        )
        assert done.exit_code == 65, (name, done.output)
        assert "Nothing matches" not in done.output, name
        assert other_site.quarantine.search(Search()) == [], name
    other_site.database.close()


def test_what_is_too_large_is_refused_before_it_is_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    mail = hold(site.quarantine)
    out = site.folder / "held.tar.gz"
    site.run("quarantine", "export", mail.id, "--out", out)
    monkeypatch.setattr(archive, "MOST_MESSAGE", 10)
    with out.open("rb") as file, pytest.raises(archive.ArchiveError, match="larger"):
        list(archive.read(file))
