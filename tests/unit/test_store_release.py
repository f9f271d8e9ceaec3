# SPDX-License-Identifier: GPL-2.0-or-later
"""Releases: the original bytes to each held recipient once, and an honest account of what failed."""

from __future__ import annotations

import asyncio
import email
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest
from sqlalchemy import update

from gateway.delivery import release as release_module
from gateway.delivery.relay import RecipientResult
from gateway.delivery.release import (
    Deliver,
    ReleaseError,
    Sender,
    deliverer,
    release_item,
    schedule,
    send,
    with_token,
)
from gateway.delivery.routes import RouteSettings, parse_route, routes
from gateway.delivery.ways import Target, Ways
from gateway.delivery.wrap import wrapper
from gateway.housekeeper import send_due
from gateway.log import LogSettings, open_log
from gateway.mail.headers import split
from gateway.mail.types import Envelope, Scan
from gateway.store import schema
from gateway.store.database import Database, StoreError
from gateway.store.quarantine import Quarantine
from gateway.store.states import Actor, Role, State
from gateway.tls.outbound import OutboundTlsRule
from tests.hop import Hop as ScriptedHop
from tests.hop import running
from tests.stored import RAW, execute, hold, mail_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from email.message import Message

BOB, CAROL, DAVE = "bob@example.com", "carol@example.com", "dave@example.org"
ME = Actor("me", Role.ADMINISTRATOR)
TAKEN = RecipientResult("delivered", 250, "2.0.0", "Ok")


class Sink:
    """A delivery that remembers what it was given, and answers as told."""

    def __init__(self, answers: Mapping[str, RecipientResult] | None = None) -> None:
        self.answers = answers or {}
        self.got: list[tuple[Envelope, bytes, str]] = []

    def __call__(self, envelope: Envelope, raw: bytes, token: str) -> Mapping[str, RecipientResult]:
        self.got.append((envelope, raw, token))
        return {r: self.answers.get(r, TAKEN) for r in envelope.recipients}


def sender(deliver: Deliver, scan: Callable[[bytes], Scan] | None = None) -> Sender:
    return Sender(deliver, wrapper("gw.example.com"), scan)


def states(quarantine: Quarantine, item: str) -> list[State]:
    found = quarantine.find(item)
    assert found is not None
    return [r.state for r in found.recipients]


def test_the_original_goes_to_the_held_recipients(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL, DAVE), held=[BOB, DAVE])
    hop = Sink()
    done = release_item(quarantine, sender(hop), mail.id, ME)
    assert (done.delivered, done.failed, done.doubtful) == ({BOB: BOB, DAVE: DAVE}, {}, ())
    [(envelope, raw, token)] = hop.got
    assert envelope == Envelope(mail.envelope.mail_from, (BOB, DAVE), mail.envelope.options)
    assert raw == RAW
    assert quarantine.check_token(token, RAW, [BOB, DAVE]) is not None
    assert states(quarantine, mail.id) == [State.RELEASED, State.RELEASED]


def test_what_was_released_is_not_released_again(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    hop = Sink()
    release_item(quarantine, sender(hop), mail.id, ME)
    with pytest.raises(ReleaseError, match="released already"):
        release_item(quarantine, sender(hop), mail.id, ME)
    assert len(hop.got) == 1


def test_of_twenty_at_once_one_delivers(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    hop = Sink()

    def attempt(n: int) -> int:
        try:
            return len(release_item(quarantine, sender(hop), mail.id, Actor(f"cli:{n}")).delivered)
        except ReleaseError:
            return 0

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(attempt, range(20))) == 2
    assert len(hop.got) == 1


def test_to_another_address(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    hop = Sink()
    done = release_item(quarantine, sender(hop), mail.id, ME, to=DAVE)
    assert done.delivered == {BOB: DAVE, CAROL: DAVE}
    [(envelope, raw, token)] = hop.got
    assert (envelope.recipients, raw) == ((DAVE,), RAW)
    assert quarantine.check_token(token, RAW, [DAVE]) is not None
    assert quarantine.check_token(token, RAW, [BOB]) is None
    assert states(quarantine, mail.id) == [State.RELEASED, State.RELEASED]


@pytest.mark.parametrize(
    "address",
    [
        "nobody",
        "a@b\r\nRCPT TO:<x@y>",
        "a b@example.com",
        "<a@example.com>",
        "@",
        "a@",
        "a@b@c",
        "x" * 999 + "@b",
    ],
)
def test_to_no_address(quarantine: Quarantine, address: str) -> None:
    mail = hold(quarantine)
    hop = Sink()
    with pytest.raises(ReleaseError, match="not an address"):
        release_item(quarantine, sender(hop), mail.id, ME, to=address)
    assert not hop.got
    assert states(quarantine, mail.id) == [State.HELD]


def test_only_to_one_of_them(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    done = release_item(quarantine, sender(Sink()), mail.id, ME, only=[CAROL])
    assert done.delivered == {CAROL: CAROL}
    assert states(quarantine, mail.id) == [State.HELD, State.RELEASED]
    with pytest.raises(ReleaseError, match="released already"):
        release_item(quarantine, sender(Sink()), mail.id, ME, only=[CAROL])
    with pytest.raises(ReleaseError, match="not held for that recipient"):
        release_item(quarantine, sender(Sink()), mail.id, ME, only=["dave@example.com"])


def test_a_refused_recipient_is_held_again(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    hop = Sink({CAROL: RecipientResult("refused", 550, "5.1.1", "no such user")})
    done = release_item(quarantine, sender(hop), mail.id, ME)
    assert done.delivered == {BOB: BOB}
    assert done.failed == {CAROL: "550 5.1.1 no such user"}
    assert states(quarantine, mail.id) == [State.RELEASED, State.HELD]
    assert release_item(quarantine, sender(Sink()), mail.id, ME).delivered == {CAROL: CAROL}


def test_a_delivery_that_breaks_leaves_the_message_held(quarantine: Quarantine) -> None:
    mail = hold(quarantine)

    def broken(_envelope: Envelope, _raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
        raise OSError("network gone")

    done = release_item(quarantine, sender(broken), mail.id, ME)
    assert (done.delivered, done.failed) == ({}, {BOB: "451 4.3.0 OSError"})
    assert states(quarantine, mail.id) == [State.HELD]


def test_a_delivery_that_forgets_a_recipient_did_not_deliver_to_it(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    done = release_item(quarantine, sender(lambda *_: {BOB: TAKEN}), mail.id, ME)
    assert list(done.failed) == [CAROL]
    assert states(quarantine, mail.id) == [State.RELEASED, State.HELD]


def test_a_damaged_message_is_not_sent(quarantine: Quarantine, database: Database) -> None:
    mail = hold(quarantine)
    execute(database, update(schema.quarantine_bytes).values(data=b"1234"))
    hop = Sink()
    done = release_item(quarantine, sender(hop), mail.id, ME)
    assert not hop.got
    assert "damaged" in done.failed[BOB]
    assert states(quarantine, mail.id) == [State.HELD]


def test_a_store_that_fails_to_settle_says_so_and_keeps_the_lease(
    quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = hold(quarantine)
    settle = Quarantine.settle
    with monkeypatch.context() as patched:
        patched.setattr(Quarantine, "settle", lambda *_, **__: (_ for _ in ()).throw(StoreError("disk full")))
        with pytest.raises(StoreError):
            release_item(quarantine, sender(Sink()), mail.id, ME)
    assert Quarantine.settle is settle
    with pytest.raises(ReleaseError, match="being released already"):
        release_item(quarantine, sender(Sink()), mail.id, ME)


def test_infected_mail_goes_out_only_when_asked_for(quarantine: Quarantine) -> None:
    mail = hold(quarantine, reasons=["VIRUS", "score"])
    with pytest.raises(ReleaseError, match="infected"):
        release_item(quarantine, sender(Sink()), mail.id, ME)
    assert states(quarantine, mail.id) == [State.HELD]
    assert release_item(quarantine, sender(Sink()), mail.id, ME, infected=True).delivered == {BOB: BOB}


@pytest.mark.parametrize("item", ["0" * 16, "", "x", "' OR 1=1"])
def test_what_is_not_held_is_not_released(quarantine: Quarantine, item: str) -> None:
    with pytest.raises(ReleaseError, match="no such message"):
        release_item(quarantine, sender(Sink()), item, ME)


def test_a_deleted_message_is_not_released(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    quarantine.delete(mail.id, Actor("me"))
    with pytest.raises(ReleaseError, match="deleted"):
        release_item(quarantine, sender(Sink()), mail.id, ME)


# ---------------------------------------------------------------- the scanner, once more


@pytest.mark.parametrize(
    ("scan", "aloud", "goes", "note"),
    [
        (Scan("clean"), False, True, ""),
        (Scan("infected", "Test.Name"), False, False, "finds Test.Name"),
        (Scan("infected", "Test.Name"), True, True, ""),
        (Scan("error", detail="connection refused"), False, False, "could not be asked: connection refused"),
        (Scan("limit"), False, True, ""),
    ],
)
def test_the_scanner_is_asked_again(
    quarantine: Quarantine, scan: Scan, aloud: bool, goes: bool, note: str
) -> None:
    mail, hop = hold(quarantine), Sink()
    done = release_item(quarantine, sender(hop, lambda _raw: scan), mail.id, ME, infected=aloud)
    assert bool(done.delivered) == bool(hop.got) == goes
    assert note in "".join(done.failed.values())
    convicted = scan.status == "infected" and not aloud
    assert ("VIRUS" in quarantine.find(mail.id).reasons) == convicted  # type: ignore[union-attr]  # it is there
    if convicted:
        with pytest.raises(ReleaseError, match="infected"):
            release_item(quarantine, sender(hop), mail.id, Actor("eve"))
    elif not goes:
        assert release_item(quarantine, sender(hop), mail.id, Actor("eve")).delivered


def test_malware_needs_an_administrator_and_a_word(quarantine: Quarantine) -> None:
    mail, hop = hold(quarantine, reasons=["VIRUS", "score"]), Sink()
    with pytest.raises(ReleaseError, match="administrator"):
        release_item(quarantine, sender(hop), mail.id, Actor("eve"), infected=True)
    assert not hop.got


# ---------------------------------------------------------------- as an attachment


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (RAW, "message/rfc822"),
        (RAW + b"x" * 998 + b"\r\n", "message/rfc822"),
        (RAW + b"x" * 999 + b"\r\n", "application/octet-stream"),
        (RAW + b"\0", "application/octet-stream"),
        (RAW + b"bare\n", "application/octet-stream"),
        (b"", "application/octet-stream"),
        (RAW + b"--=_\r\n", "message/rfc822"),
    ],
)
def test_as_an_attachment(quarantine: Quarantine, raw: bytes, kind: str) -> None:
    mail, hop = hold(quarantine, mail_for("bob@example.com", "b\r\nX: y@example.com", raw=raw)), Sink()
    done = release_item(quarantine, sender(hop), mail.id, ME, wrapped=True)
    assert len(done.delivered) == 2
    [(envelope, message, token)] = hop.got
    assert envelope.mail_from == ""
    outer = email.message_from_bytes(message)
    assert "X" not in outer
    assert outer["To"] == "bob@example.com"
    text, attached = cast("list[Message]", outer.get_payload())
    assert hashlib.sha256(raw).hexdigest() in str(text)
    assert attached.get_content_type() == kind
    if kind == "message/rfc822":
        assert raw in message
    else:
        assert attached.get_payload(decode=True) == raw
    # The token is bound to what is sent, not to what is in it.
    assert quarantine.check_token(token, message, envelope.recipients) is not None
    assert quarantine.check_token(token, raw, envelope.recipients) is None


# ---------------------------------------------------------------- sent by the service


def test_what_a_dead_command_left_is_sent(quarantine: Quarantine) -> None:
    mail, hop, log = hold(quarantine), Sink(), open_log(LogSettings())
    schedule(quarantine, mail.id, ME, due=time.time() - 60, to=DAVE)
    assert send_due(quarantine, sender(hop), log) == 1
    assert [got[0].recipients for got in hop.got] == [(DAVE,)]
    assert send_due(quarantine, sender(hop), log) == 0
    assert quarantine.history(mail.id)[-1].who == "me"


def test_the_command_has_a_head_start(quarantine: Quarantine) -> None:
    mail, hop = hold(quarantine), Sink()
    order = schedule(quarantine, mail.id, ME, due=time.time())
    assert send_due(quarantine, sender(hop), open_log(LogSettings())) == 0
    assert send(quarantine, sender(hop), order)


# ---------------------------------------------------------------- where it goes


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, tuple[str, ...], bytes]]:
    """What reaches the relay client: next hop, TLS level, recipients, message."""
    calls: list[tuple[str, str, tuple[str, ...], bytes]] = []

    def relay_sync(
        target: Target, ways: Ways, _sender: str, recipients: Sequence[str], message: bytes, **_: object
    ) -> dict[str, RecipientResult]:
        [way] = ways.find(target)
        calls.append((str(target), way.tls.level, tuple(recipients), message))
        return dict.fromkeys(recipients, TAKEN)

    monkeypatch.setattr(release_module, "relay_sync", relay_sync)
    return calls


def test_each_recipient_goes_to_its_next_hop(sent: list[tuple[str, str, tuple[str, ...], bytes]]) -> None:
    table = routes(
        [
            RouteSettings(domains=("example.com",), next_hop="lmtp:127.0.0.1:24"),
            RouteSettings(domains=("example.org",), next_hop="smtp:mx.example.org:25"),
        ]
    )
    rules = (OutboundTlsRule(domains=("example.org",), level="verify"),)
    deliver = deliverer(table, Ways(rules=rules), "gw.example.com")
    results = deliver(Envelope("a@example.net", (BOB, DAVE, CAROL, "x@example.edu")), RAW, "TOKEN")
    assert sent == [
        ("lmtp:127.0.0.1:24", "may", (BOB, CAROL), RAW),
        ("smtp:mx.example.org:25", "verify", (DAVE,), RAW),
    ]
    assert {r: results[r].status for r in results} == {
        BOB: "delivered",
        CAROL: "delivered",
        DAVE: "delivered",
        "x@example.edu": "refused",
    }


def test_what_goes_back_into_postfix_carries_the_token(
    sent: list[tuple[str, str, tuple[str, ...], bytes]],
) -> None:
    deliver = deliverer(routes([]), Ways(), "gw.example.com", parse_route("smtp:127.0.0.1:10025"))
    deliver(Envelope("a@example.net", (BOB, DAVE)), RAW, "TOKEN")
    [(hop, _, recipients, message)] = sent
    assert (hop, recipients) == ("smtp:127.0.0.1:10025", (BOB, DAVE))
    assert message == b"X-Mailwarden-Release: TOKEN\r\n" + RAW


def test_the_token_is_the_first_field_and_all_else_is_untouched(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    hop = Sink()
    release_item(quarantine, sender(hop), mail.id, ME)
    [(_, raw, token)] = hop.got
    message = with_token(raw, token)
    first = split(message).fields[0]
    assert first.name == "X-Mailwarden-Release"
    rest = message[len(first.raw) + 2 :]
    assert rest == RAW
    assert quarantine.check_token(first.value.decode(), rest, [BOB]) is not None


@pytest.mark.parametrize("reinject", [False, True])
def test_over_the_wire_the_octets_are_the_same(quarantine: Quarantine, reinject: bool) -> None:
    raw = RAW + b".\r\n..dots\r\n\xff\xfe 8-bit\r\n" + b"x" * 900 + b"\r\n\r\n"
    mail = hold(quarantine, mail_for(BOB, CAROL, raw=raw))

    async def go() -> ScriptedHop:
        async with running(ScriptedHop()) as hop:
            table = routes([RouteSettings(domains=("example.com",), next_hop=str(hop.next_hop))])
            deliver = deliverer(table, Ways(), "gw.example.com", hop.route if reinject else None)
            done = await asyncio.to_thread(release_item, quarantine, sender(deliver), mail.id, ME)
            assert (set(done.delivered), done.failed) == ({BOB, CAROL}, {})
            return hop

    [taken] = asyncio.run(go()).taken
    assert taken.mail.startswith(b"MAIL FROM:<alice@example.net>")
    assert taken.rcpts == [b"RCPT TO:<bob@example.com>", b"RCPT TO:<carol@example.com>"]
    first, _, rest = taken.message.partition(b"\r\n")
    if reinject:
        token = first.decode().partition(": ")[2]
        assert quarantine.check_token(token, rest, [BOB, CAROL]) is not None
    sent = rest if reinject else taken.message
    assert hashlib.sha256(sent).hexdigest() == hashlib.sha256(raw).hexdigest()
