# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal: what goes in comes out, nothing waits long, and what is lost is counted."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from gateway.mail.mime import parse
from gateway.mail.types import Action, Envelope, Evidence, Session, Signal, Spf
from gateway.store import journal as journal_module
from gateway.store import schema
from gateway.store.database import Database, StoreError
from gateway.store.encoding import from_json, to_json
from gateway.store.journal import Filter, Journal, record_of
from tests.stored import EVIDENCE, RAW, REPLY, SIGNALS, mail_for, verdict_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.mail.types import Mail

HOSTILE = "\x1b[31m\r\nX: y\x00\u202e\udce9%s'\"; DROP TABLE journal;--"


@pytest.fixture
def journal(database: Database) -> Iterator[Journal]:
    made = Journal(database, flush_interval=0.05)
    yield made
    made.close()


def record(journal: Journal, mail: Mail, **changes: Any) -> None:
    verdict = replace(verdict_for(mail), **changes)
    journal.record(
        mail, parse(mail.raw), EVIDENCE, SIGNALS, verdict, reply=REPLY, door="milter", seconds=0.01
    )


def test_a_record_comes_back_as_it_went_in(journal: Journal) -> None:
    mail = mail_for("bob@example.com", "carol@example.com")
    record(journal, mail)
    assert journal.flush()
    found = journal.find(mail.id)
    assert found == record_of(
        mail, parse(RAW), EVIDENCE, SIGNALS, verdict_for(mail), reply=REPLY, door="milter", seconds=0.01
    )
    assert found is not None
    assert found.subject == "A chance"
    assert found.message_id == "<1@example.net>"


def test_hostile_text_is_kept_exactly_and_shown_safely(journal: Journal, database: Database) -> None:
    mail = mail_for("bob" + HOSTILE + "@example.com", sender=HOSTILE, helo=HOSTILE)
    mail = replace(mail, raw=b"Subject: =?utf-8?q?=1B=5B2J=0D=0AX=3A_y?=\r\nMessage-ID: <\x1b\x00@x>\r\n\r\n")
    record(journal, mail)
    assert journal.flush()
    found = journal.find(mail.id)
    assert found is not None
    assert found.session == mail.session
    assert found.envelope == mail.envelope
    row = database.read(lambda c: c.execute(schema.journal.select()).mappings().one())
    for column in ("helo", "sender", "subject", "message_id", "queue_id"):
        assert row[column].isprintable(), column


def test_a_message_that_could_not_be_parsed_has_a_record(journal: Journal) -> None:
    mail = mail_for()
    verdict = verdict_for(mail)
    journal.record(mail, None, Evidence(), (), verdict, reply=REPLY, door="smtp", seconds=0.0)
    journal.flush()
    found = journal.find(mail.id)
    assert found is not None
    assert (found.subject, found.message_id, found.size) == ("", "", len(RAW))


def test_raw_bytes_are_not_kept_in_memory_or_on_disk(journal: Journal, database: Database) -> None:
    mail = mail_for(raw=b"Subject: s\r\n\r\nSECRETBODY\r\n")
    record(journal, mail)
    journal.flush()
    row = database.read(lambda c: c.execute(schema.journal.select()).mappings().one())
    assert "SECRETBODY" not in str(dict(row))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [2, 1, 0]),
        ({"sender": "ALICE"}, [2, 0]),
        ({"sender": "a%e"}, []),
        ({"sender": "_lice"}, []),
        ({"sender": "' OR '1'='1"}, []),
        ({"recipient": "carol@EXAMPLE.com"}, [1]),
        ({"subject": "chance"}, [2, 1, 0]),
        ({"reason": "VIRUS"}, [1]),
        ({"action": Action.REJECT}, [2]),
        ({"since": 1500.0}, [2, 1]),
        ({"until": 1500.0}, [0]),
        ({"since": 1500.0, "until": 2500.0}, [1]),
        ({"limit": 1}, [2]),
        ({"limit": 2, "offset": 1}, [1, 0]),
    ],
)
def test_records_are_found_by(journal: Journal, wanted: dict[str, Any], expected: list[int]) -> None:
    mails = [
        replace(mail_for("bob@example.com"), received=1000.0),
        replace(mail_for("bob@example.com", "carol@example.com", sender="dave@example.net"), received=2000.0),
        replace(mail_for("erin@example.com"), received=3000.0),
    ]
    record(journal, mails[0])
    record(journal, mails[1], reason="VIRUS")
    record(journal, mails[2], action=Action.REJECT)
    journal.flush()
    found = [r.id for r in journal.search(Filter(**wanted))]
    assert found == [mails[n].id for n in expected]


def test_many_threads_lose_nothing(journal: Journal) -> None:
    def work() -> None:
        for _ in range(50):
            record(journal, mail_for())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.flush()
    assert (journal.written, journal.dropped) == (400, 0)
    assert len(journal.search(Filter(limit=1000))) == 400


def test_records_are_written_without_anyone_asking(journal: Journal) -> None:
    mail = mail_for()
    record(journal, mail)
    until = time.monotonic() + 30
    while journal.find(mail.id) is None and time.monotonic() < until:
        time.sleep(0.01)
    assert journal.find(mail.id) is not None


def test_close_writes_what_is_left(database: Database) -> None:
    journal = Journal(database, flush_interval=60.0)
    mail = mail_for()
    record(journal, mail)
    journal.close()
    assert journal.find(mail.id) is not None
    assert not [t for t in threading.enumerate() if t.name == "journal"]
    late = mail_for()
    record(journal, late)
    journal.close()
    assert journal.find(late.id) is not None


def test_a_blocked_disk_costs_records_and_no_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "QUEUE", 5)
    monkeypatch.setattr(journal_module, "PATIENCE", 0.01)
    lost: list[int] = []
    journal = Journal(database, flush_interval=0.0, batch=1, lost=lost.append)
    gate = threading.Event()
    write = Database.write

    def blocked(self: Database, *arguments: Any, **named: Any) -> Any:
        gate.wait()
        return write(self, *arguments, **named)

    monkeypatch.setattr(Database, "write", blocked)
    started = time.monotonic()
    for _ in range(20):
        record(journal, mail_for())
    assert time.monotonic() - started < 20.0, "it does not wait for the disk"
    assert journal.dropped >= 13
    assert sum(lost) == journal.dropped
    gate.set()
    assert journal.flush()
    assert journal.written + journal.dropped == 20
    journal.close()


def test_a_failed_batch_is_tried_again(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 0.01)
    failures = iter([StoreError("busy"), StoreError("busy")])
    write = Database.write

    def sometimes(self: Database, *arguments: Any, **named: Any) -> Any:
        if error := next(failures, None):
            raise error
        return write(self, *arguments, **named)

    monkeypatch.setattr(Database, "write", sometimes)
    mail = mail_for()
    record(journal, mail)
    assert journal.flush()
    assert (journal.written, journal.dropped) == (1, 0)
    assert journal.find(mail.id) is not None


def test_a_batch_that_never_works_is_given_up_and_counted(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(journal_module, "TRIES", 3)

    def never(*_: Any, **__: Any) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(Database, "write", never)
    record(journal, mail_for())
    assert journal.flush()
    assert (journal.written, journal.dropped) == (0, 1)


def test_one_strange_record_does_not_cost_its_batch(database: Database) -> None:
    journal = Journal(database, flush_interval=0.2)
    good = mail_for()
    record(journal, mail_for(), reason_text=object())
    record(journal, good)
    assert journal.flush()
    assert (journal.written, journal.dropped) == (1, 1)
    assert journal.find(good.id) is not None
    journal.close()


def test_a_damaged_record_is_an_error_and_not_a_guess(journal: Journal, database: Database) -> None:
    mail = mail_for()
    record(journal, mail)
    journal.flush()
    broken = update(schema.journal).values(verdict='{"id": 5}')
    database.write(lambda c: c.execute(broken))
    with pytest.raises(StoreError, match=mail.id):
        journal.find(mail.id)


def test_old_records_are_pruned_in_batches(journal: Journal) -> None:
    for n in range(5):
        record(journal, replace(mail_for(), received=1000.0 + n))
    journal.flush()
    assert [journal.prune(1003.0, batch=2) for _ in range(3)] == [2, 1, 0]
    assert len(journal.search(Filter())) == 2


def test_an_unknown_id_has_no_record(journal: Journal) -> None:
    assert journal.find("'; DROP TABLE journal; --") is None


texts = st.text(st.characters(), max_size=40)  # surrogates among them


@given(texts, texts, texts)
def test_any_text_survives_json(one: str, two: str, three: str) -> None:
    for value, kind in (
        (Session(helo=one, client_name=two), Session),
        (Envelope(one, (two, three)), Envelope),
        ((Signal(one, two), Signal(three)), tuple[Signal, ...]),
        (Evidence(spf=(Spf("helo", one, "pass", two),), durations={three: 1.5}), Evidence),
    ):
        assert from_json(to_json(value), kind) == value


@given(st.one_of(st.text(max_size=60), st.just("[" * 200_000), st.just('{"helo": 1e999}'), st.just("NaN")))
def test_other_text_is_a_value_error_or_a_value(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(from_json(text, Session), Session)
