# SPDX-License-Identifier: GPL-2.0-or-later
"""Releases that go through the queue: in one transaction with the settling, so exactly once."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gateway.config import Config
from gateway.delivery.release import ReleaseError, Sender, into_queue, outfit, release_item
from gateway.delivery.routes import RouteSettings, routes
from gateway.delivery.settings import ReleaseSettings
from gateway.delivery.ways import Ways
from gateway.delivery.wrap import wrapper
from gateway.scanners.clamd import ClamdSettings
from gateway.smarthost.settings import SmarthostSettings
from gateway.store.database import Database, StoreError
from gateway.store.queue import Queue
from gateway.store.queued import Filter
from gateway.store.states import Actor, Role, State
from tests.stored import RAW, execute, hold, mail_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.delivery.relay import RecipientResult
    from gateway.mail.types import Envelope
    from gateway.store.quarantine import Quarantine
    from gateway.store.queued import Entry, Outgoing

BOB, CAROL, DAVE = "bob@example.com", "carol@example.com", "dave@example.org"
ME = Actor("me", Role.ADMINISTRATOR)
TABLE = routes([RouteSettings(domains=("example.com",), next_hop="smtp:192.0.2.1:25")])


def never(_envelope: Envelope, _raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
    raise AssertionError("sent past the queue")


SENDER = Sender(never, wrapper("gw.example.com"), None, partial(into_queue, TABLE, 3600.0))


def queue_of(database: Database) -> list[Entry]:
    return Queue(database).search(Filter())


def states(quarantine: Quarantine, item: str) -> list[State]:
    found = quarantine.find(item)
    assert found is not None
    return [r.state for r in found.recipients]


def test_the_original_is_queued_and_nobody_is_ever_told(quarantine: Quarantine, database: Database) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL), held=[BOB, CAROL])
    done = release_item(quarantine, SENDER, mail.id, ME)
    assert (done.delivered, done.failed, done.doubtful) == ({BOB: BOB, CAROL: CAROL}, {}, ())
    (entry,) = queue_of(database)
    assert Queue(database).message(entry.facts) == RAW
    assert (entry.facts.sender, entry.facts.options) == (mail.envelope.mail_from, mail.envelope.options)
    assert entry.facts.expires - entry.facts.created == 3600
    assert not entry.facts.may_bounce
    assert [(r.address, r.hop) for r in entry.recipients] == [
        (BOB, "smtp:192.0.2.1:25"),
        (CAROL, "smtp:192.0.2.1:25"),
    ]
    assert states(quarantine, mail.id) == [State.RELEASED, State.RELEASED]
    with pytest.raises(ReleaseError, match="released already"):
        release_item(quarantine, SENDER, mail.id, ME)
    assert len(queue_of(database)) == 1


def test_who_has_no_next_hop_stays_held(quarantine: Quarantine, database: Database) -> None:
    mail = hold(quarantine, mail_for(BOB, DAVE), held=[BOB, DAVE])
    done = release_item(quarantine, SENDER, mail.id, ME)
    assert done.delivered == {BOB: BOB}
    assert "no next hop" in done.failed[DAVE]
    (entry,) = queue_of(database)
    assert [r.address for r in entry.recipients] == [BOB]
    assert states(quarantine, mail.id) == [State.RELEASED, State.HELD]


def test_as_an_attachment_to_another_address(quarantine: Quarantine, database: Database) -> None:
    mail = hold(quarantine, mail_for(BOB, DAVE), held=[BOB, DAVE])
    done = release_item(quarantine, SENDER, mail.id, ME, to=CAROL, wrapped=True)
    assert done.delivered == {BOB: CAROL, DAVE: CAROL}
    (entry,) = queue_of(database)
    assert entry.facts.sender == ""
    assert [r.address for r in entry.recipients] == [CAROL]
    message = Queue(database).message(entry.facts)
    assert message != RAW
    assert RAW in message


def test_what_cannot_be_settled_is_not_queued(
    quarantine: Quarantine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = hold(quarantine)
    with monkeypatch.context() as patch:
        patch.setattr("gateway.store.audit.append", _broken_when_delivered(mail.id))
        with pytest.raises(StoreError, match="disk full"):
            release_item(quarantine, SENDER, mail.id, ME)
    assert queue_of(database) == []
    assert State.RELEASED not in states(quarantine, mail.id)


def _broken_when_delivered(item: str) -> object:
    from gateway.store import audit  # as it was before it is replaced

    append = audit.append

    def broken(connection: object, of: str, who: str, action: str, *rest: str) -> None:
        if of == item and action == "released":
            raise StoreError("disk full")
        append(connection, of, who, action, *rest)  # type: ignore[arg-type]  # a connection

    return broken


def test_a_lease_that_has_passed_on_queues_nothing(quarantine: Quarantine, database: Database) -> None:
    """The lease ran out while we were at it, and another release has taken over."""
    mail = hold(quarantine)

    def late(envelope: Envelope, raw: bytes) -> tuple[Mapping[str, RecipientResult], Sequence[Outgoing]]:
        execute(database, "UPDATE quarantine_recipients SET lease = 'another'")
        return into_queue(TABLE, 3600.0, envelope, raw)

    with pytest.raises(ReleaseError, match="being released already"):
        release_item(quarantine, Sender(never, wrapper("gw.example.com"), None, late), mail.id, ME)
    assert queue_of(database) == []


def test_of_twenty_at_once_one_is_queued(quarantine: Quarantine, database: Database) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))

    def attempt() -> None:
        with suppress(ReleaseError):
            release_item(quarantine, SENDER, mail.id, ME)

    threads = [threading.Thread(target=attempt) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (entry,) = queue_of(database)
    assert len(entry.recipients) == 2


def test_which_way_releases_go() -> None:
    """Into the queue where the smart host has one, unless they go back into Postfix."""
    smarthost = SmarthostSettings(listen=("127.0.0.1:25",))
    assert Config(smarthost=smarthost).queue_lifetime == 432_000
    assert Config(smarthost=SmarthostSettings(listen=("127.0.0.1:25",), queue=False)).queue_lifetime == 0
    assert Config().queue_lifetime == 0
    for hop, lifetime, queued in (("", 1.0, True), ("", 0.0, False), ("smtp:127.0.0.1:10026", 1.0, False)):
        built = outfit(
            ReleaseSettings(next_hop=hop), TABLE, Ways(), "gw", ClamdSettings(enabled=False), lifetime
        )
        assert (built.enqueue is not None) == queued
