# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks on those who review: SQL, ids, terminals, other people's mail, secrets, and sheer size.

Tokens are tried in `test_store_grants.py` and `test_store_tokens.py`, deletion and quotas in
`test_store_retention.py`, backups in `test_store_backup.py`, pages in `test_web.py`.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from click.testing import CliRunner, Result

from gateway import housekeeper
from gateway.assembly import post
from gateway.cli.main import cli
from gateway.config import load
from gateway.delivery.relay import RecipientResult
from gateway.mail.mime import parse
from gateway.store.database import Database, open_database
from gateway.store.journal import Journal
from gateway.store.quarantine import Quarantine
from gateway.store.search import Search
from gateway.store.senders import Senders
from gateway.store.states import Actor
from tests.stored import EVIDENCE, REPLY, SIGNALS, hold, mail_for, settings_for, verdict_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLEAN = replace(EVIDENCE, antivirus=replace(EVIDENCE.antivirus, status="clean"))
SQL = (
    "'; DROP TABLE quarantine; --",
    "' OR '1'='1",
    '" OR ""="',
    "x' UNION SELECT value FROM secrets --",
    "%",
    "_",
    "\\",
    "\\%",
    "Robert'); DELETE FROM audit;--",
    "$1",
    ":item",
    "%(item)s",
    "?",
    "\x00",
)
IDS = (
    "../../etc/passwd",
    "/etc/passwd",
    "-rf",
    "a;id",
    "$(id)",
    "`id`",
    "\x00",
    "0" * 10_000,
    "1M80JFSJGNG4SMA\n",
    "1M80JFSJGNG4SMAS; DROP TABLE quarantine",
    "' OR 1=1 --",
    "\u202e1M80",
)
ESCAPES = "\x1b]0;owned\x07\x1b[31m\x1b[2J\x9b5m\u202e\u2028\u200b\r\nFake: line [bold]x[/bold]"
BAD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


class Site:
    """A store with its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = settings_for(folder)
        self.database: Database = open_database(self.settings)
        self.quarantine = Quarantine(self.database)
        self.config = folder / "mailwarden.toml"
        self.config.write_text(
            f'next_hop = "smtp:192.0.2.9:25"\n[store]\ndatabase = "{self.settings.database}"\n'
            '[digest]\nenabled = true\nemail = "held@example.com"\ndomains = ["example.com"]\n'
            'base_url = "https://mail.example.com"\nreply_address = "held@example.com"\n',
            "utf-8",
        )

    def run(self, *words: str) -> Result:
        done = CliRunner().invoke(cli, ["--config", str(self.config), *words])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def everything(self) -> dict[str, list[Any]]:
        """All rows of the tables that reviews are made of."""
        names = ("quarantine", "quarantine_recipients", "quarantine_bytes", "secrets", "audit", "senders")
        return {name: self.rows(f"SELECT * FROM {name}") for name in names}

    def rows(self, statement: str) -> list[Any]:
        """What a statement finds."""
        return self.database.read(lambda c: [tuple(row) for row in c.exec_driver_sql(statement)])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.database.close()


def held_with(site: Site, text: str) -> str:
    """Hold and record a message that has `text` wherever a sender can put it."""
    line = text.replace("\x00", "").replace("\r", " ").replace("\n", " ")
    raw = (
        f"From: {line} <eve@example.net>\r\nTo: bob@example.com\r\nSubject: {line}\r\n"
        f"Message-ID: <{line}>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        f"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{line} http://evil.example/{line}\r\n"
        f'--b\r\nContent-Type: image/png; name="{line}.png"\r\n\r\nx\r\n--b--\r\n'
    ).encode("utf-8", "surrogateescape")
    mail = mail_for("bob@example.com", raw=raw, sender=f"{text}@example.net", helo=text)
    site.quarantine.hold(
        mail, verdict_for(mail), CLEAN, SIGNALS, content=parse(raw), reasons=("CLASSIFIER", "score")
    )
    journal = Journal(site.database)
    journal.record(
        mail, parse(raw), CLEAN, SIGNALS, verdict_for(mail), reply=REPLY, door="milter", seconds=0.1
    )
    journal.close()
    return mail.id


# ---------------------------------------------------------------- SQL and ids


@pytest.mark.parametrize("text", SQL)
def test_sql_in_every_field_and_argument_changes_nothing(site: Site, text: str) -> None:
    mine = held_with(site, text)
    other = hold(site.quarantine, mail_for("carol@example.com", sender="alice@example.net")).id
    before = site.everything()
    for option in ("sender", "recipient", "domain", "subject", "reason"):
        found = {item.id for item in site.quarantine.search(Search(**{option: text}))}  # type: ignore[arg-type]
        assert other not in found, option  # no wildcard of SQL is one here
        if "\x00" not in text:
            assert site.run("quarantine", "list", f"--{option}={text}", "--json").exit_code in (0, 64, 65)
    for words in (
        ("trace", f"--sender={text}", "--json"),
        ("trace", f"--subject={text}", "--json"),
        ("trace", f"--message-id={text}", "--json"),
        ("quarantine", "show", text),
        ("explain", text),
        ("quarantine", "filter", "delete", text),
        ("digest", "show", f"--recipient={text}"),
        ("shadow", "report", text),
        ("quarantine", "audit", "list", text),
    ):
        if "\x00" not in text:
            site.run(*words)
    assert site.everything() == before
    assert site.quarantine.find(mine) is not None
    if text.isprintable():
        assert mine in {item.id for item in site.quarantine.search(Search(sender=text))}
    assert site.quarantine.verify_audit() is None


@pytest.mark.parametrize("text", SQL)
def test_sql_in_decisions_changes_only_what_was_decided(site: Site, text: str) -> None:
    mail = hold(site.quarantine)
    other = hold(site.quarantine).id
    raw = site.rows("SELECT count(*) FROM quarantine_bytes")
    site.quarantine.decisions.request(mail.id, None, Actor(text), why=text)
    site.quarantine.decisions.deny(mail.id, None, Actor(text), why=text)
    assert site.quarantine.decisions.convict(mail.id, text.replace("\x00", "0"), text, text)
    assert Senders(site.database).lookup(f"{text}@{text}", (text,)) == ()
    found = site.quarantine.find(other)
    assert found is not None
    assert found.reasons == ("CLASSIFIER", "score")
    assert site.rows("SELECT count(*) FROM quarantine_bytes") == raw
    assert site.quarantine.verify_audit() is None


@pytest.mark.parametrize("text", IDS)
def test_an_id_is_ours_or_none(site: Site, text: str) -> None:
    held_with(site, "x")
    before = site.everything()
    assert site.quarantine.find(text) is None
    assert site.quarantine.claim(text, None, "cli:eve") is None
    assert not site.quarantine.delete(text, Actor("cli:eve"))
    assert site.quarantine.decisions.undo(Actor("cli:eve"), item=text) == []
    if "\x00" not in text:
        for command in ("show", "release", "delete", "request", "deny", "undo", "rescan"):
            assert site.run("quarantine", command, "--", text).exit_code != 0
        assert site.run("explain", "--", text).exit_code != 0
    assert site.everything() == before


# ---------------------------------------------------------------- terminals, logs


def test_no_command_prints_what_a_message_made(site: Site) -> None:
    item = held_with(site, ESCAPES)
    site.quarantine.decisions.request(item, None, Actor(f"web:{ESCAPES}"), why=ESCAPES)
    for words in (
        ("quarantine", "list"),
        ("quarantine", "show", item),
        ("quarantine", "stats"),
        ("quarantine", "audit", "list", item),
        ("explain", item),
        ("explain", "--brief", item),
        ("trace", "--since", "1d"),
        ("trace", "--sender", "example.net"),
        (
            "replay",
            "--since",
            "1d",
            "--threshold",
            "quarantine=900",
            "--threshold",
            "reject=901",
            "--jobs",
            "1",
        ),
        ("digest", "preview", "--recipient", "bob@example.com"),
        ("digest", "preview", "--recipient", "bob@example.com", "--html"),
        ("digest", "send", "--dry-run"),
    ):
        for extra in ((), ("--json",)):
            if extra and {"--html", "--brief"} & set(words):
                continue
            done = site.run(*words, *extra)
            assert done.exit_code in (0, 1), (words, done.output)
            shown = done.output
            assert not BAD.search(shown), (words, extra, BAD.findall(shown))
            assert "\nFake: line" not in shown
            if extra:
                assert shown.isascii()
                assert json.loads(shown) is not None


def test_secrets_are_in_no_log_and_no_audit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what a digest lets its reader do, nor a release token, nor a key."""
    mail = mail_for("bob@example.com")
    site.quarantine.hold(mail, verdict_for(mail), CLEAN, SIGNALS, content=parse(mail.raw), reasons=("score",))
    got: list[bytes] = []

    def deliver(envelope: Any, raw: bytes, _token: str) -> dict[str, RecipientResult]:
        got.append(raw)
        return {one: RecipientResult("delivered", 250, "2.0.0", "Ok") for one in envelope.recipients}

    sender = replace(post(load(site.config)), deliver=deliver, lifetime=0.0)
    output = structlog.testing.CapturingLogger()
    log = structlog.wrap_logger(output, processors=[])

    class EndError(Exception):
        pass

    def stop(_seconds: float) -> None:
        raise EndError

    monkeypatch.setattr("gateway.housekeeper.time.sleep", stop)
    monkeypatch.setattr(housekeeper, "last_slot", lambda _settings, now: now - 1)
    with pytest.raises(EndError):
        housekeeper.tell(site.quarantine, sender, log)
    (raw,) = got
    tokens = set(re.findall(rb"[RSL][0-9A-HJKMNP-TV-Z]{48}", raw.replace(b"=\r\n", b"")))
    assert tokens
    told = repr(output.calls) + repr(site.rows("SELECT who, action, why FROM audit"))
    assert "bob@example.com" in told
    assert not [token for token in tokens if token.decode() in told]
    key = site.rows("SELECT value FROM secrets WHERE name = 'grants'")
    assert bytes(key[0][0]).hex() not in told


def test_ten_megabytes_of_subject_stay_short(site: Site) -> None:
    raw = b"From: a@example.net\r\nSubject: " + b"A" * 10_000_000 + b"\r\n\r\nx\r\n"
    mail = hold(site.quarantine, mail_for("bob@example.com", raw=raw))
    found = site.quarantine.find(mail.id)
    assert found is not None
    assert len(found.subject) <= 300
    began = time.monotonic()
    assert len(site.run("quarantine", "list", "--json").output) < 5_000
    assert len(site.run("quarantine", "show", mail.id).output) < 50_000
    assert time.monotonic() - began < 30


# ---------------------------------------------------------------- roles


def test_malware_needs_a_role_and_a_word_at_every_door(site: Site) -> None:
    mail = hold(site.quarantine, reasons=("VIRUS", "score"))
    for words in (("release", mail.id), ("approve", mail.id), ("answer", mail.id, "VIRUS")):
        assert site.run("quarantine", *words).exit_code != 0
    assert site.quarantine.decisions.orders(item=mail.id) == []
    found = site.quarantine.find(mail.id)
    assert found is not None
    assert found.answered == ()
    actions = [event.action for event in site.quarantine.history(mail.id)]
    assert actions == ["held"]
