# SPDX-License-Identifier: GPL-2.0-or-later
"""The laboratory itself: the milter client does what the real Postfix does, to the octet."""

from __future__ import annotations

import json
import re
import smtplib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from contrib.lab.milter_client import MilterClient, Peer
from contrib.lab.postfix import Postfix
from contrib.lab.process import Server, free_port, listens, wait_for
from contrib.lab.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contrib.lab.certificates import Authority

pytestmark = pytest.mark.server("postfix")

PEER = Peer(address="203.0.113.9", name="mail.example.net", helo="helo.example.net")
MESSAGE = b"Received: from elsewhere\r\nX-A: 1\r\nSubject: s\r\nX-A: 2\r\n\r\nbody\r\n"

ORDERS: tuple[tuple[list[Any], ...], ...] = (
    (),
    (["insert", 0, "X-A", " new"], ["change", 1, "X-A", " changed"]),
    (["insert", 1, "X-A", " new"], ["change", 1, "X-A", " changed"]),
    (["insert", 0, "X-Z", " z"], ["insert", 0, "X-A", " new"], ["change", 1, "X-A", " changed"]),
    (["insert", 0, "X-A", " new"], ["insert", 0, "X-Z", " z"], ["change", 2, "X-A", " changed"]),
    (["insert", 0, "X-Z", " z"], ["change", 1, "Received", " changed"]),
    (["change", 1, "Received", ""], ["insert", 1, "X-B", " b"]),
    (
        ["insert", 0, "X-A", " 3"],
        ["insert", 0, "X-A", " 4"],
        ["change", 1, "X-A", ""],
        ["change", 2, "X-A", ""],
    ),
    (["change", 1, "X-A", ""], ["change", 1, "x-a", ""]),
    (["change", 2, "X-A", ""], ["change", 1, "X-A", ""]),
    (["change", 3, "X-A", " c"], ["add", "X-A", " d"], ["change", 4, "X-A", " e"], ["change", 9, "X-N", ""]),
    (["insert", 2, "X-B", " b"], ["insert", 99, "X-C", " c"], ["add", "X-D", " d\n\te"]),
    (["change", 1, "X-A", " long\n\tfold"], ["insert", 3, "X-B", " b"], ["insert", 1, "X-E", "no space"]),
    (["drop", "<carol@example.org>"],),
    (["hold", "look at it"],),
    (["reply", "554", "5.7.1", "Spam, id 100%%"],),
    (["reply", "451", "4.7.1", "Later"],),
    (["reject"],),
    (["defer"],),
    (["discard"],),
)
MESSAGES = (
    MESSAGE,
    b"Subject: only a header\r\n",
    b"\r\nonly a body\r\n",
    b"no header at all\r\n",
    b"Subject:no space\r\nFrom:\tTab\r\nTo:  two\r\n\tfolded \r\n  twice\r\n\r\n.dot\r\n..\r\n",
    b"X-Empty:\r\nX-Blank: \r\nX-Folded:\r\n \r\n\tx\r\n\r\n\r\n\r\n",
    b"X-Eight: \xff\xe9\r\nSubject: gr\xc3\xbc\xc3\x9fe\r\n\r\n\x80\xff\r\n",
    b"Subject : space before colon\r\n\r\nbody\r\n",
    b"Subject: then\r\nno blank line\r\n\r\nmore\r\n",
    b"Subject: big\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000,
    b"Subject: one line\r\n\r\n" + b"x" * 990 + b"\r\n",
)


class ObedientFilter(Server):
    name = "obedient"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()

    def command(self) -> Sequence[str]:
        return [
            sys.executable,
            str(Path(__file__).parent / "obedient_filter.py"),
            f"inet:{self.port}@127.0.0.1",
        ]

    def is_up(self) -> bool:
        return listens(("127.0.0.1", self.port))

    def stop(self, seconds: float = 0.1) -> int | None:
        return super().stop(seconds)  # libmilter takes five seconds to end by itself


class Bench(NamedTuple):
    filter: ObedientFilter
    postfix: Postfix
    sink: Sink


@pytest.fixture(scope="module")
def bench(lab: Path) -> Iterator[Bench]:
    with (
        ObedientFilter(lab / "obedient") as obedient,
        Sink() as sink,
        Postfix(
            lab / "postfix-obedient", milter=f"inet:127.0.0.1:{obedient.port}", relay_to=sink.address
        ) as postfix,
    ):
        yield Bench(obedient, postfix, sink)


def through_postfix(bench: Bench, recipients: Sequence[str], raw: bytes) -> tuple[str, dict[str, str]]:
    """Send with XCLIENT as PEER; return the reply that decided, and those to refused recipients."""
    with smtplib.SMTP("127.0.0.1", bench.postfix.port) as client:
        client.ehlo("localhost")
        client.docmd("XCLIENT", f"ADDR={PEER.address} NAME={PEER.name}")
        client.ehlo(PEER.helo)
        client.mail("alice@example.net")
        refused = {}
        for recipient in recipients:
            code, text = client.rcpt(recipient)
            if code != 250:
                refused[recipient] = f"{code} {text.decode()}"
        if len(refused) == len(recipients):
            return "", refused
        code, text = client.data(raw)
        return f"{code} {text.decode()}", refused


def arrived(bench: Bench) -> bytes:
    """Return the one message that arrived, without the field that Postfix adds."""
    (transaction,) = bench.sink.wait_for(1)
    bench.sink.clear()
    own = rb"Received: from helo\.example\.net (?:.|\r\n[ \t])*?\r\n(?![ \t])"
    message, count = re.subn(own, b"", transaction.data, count=1, flags=re.DOTALL)
    assert count == 1
    return message


@pytest.mark.parametrize("orders", ORDERS, ids=json.dumps)
def test_changes_and_replies_as_postfix(bench: Bench, orders: tuple[list[Any], ...]) -> None:
    raw = b"".join(b"X-Do: " + json.dumps(order).encode() + b"\r\n" for order in orders) + MESSAGE
    recipients = ("bob@example.org", "unknown@example.org", "carol@example.org")
    with MilterClient(("127.0.0.1", bench.filter.port)) as client:
        assert client.open(PEER) is None
        outcome = client.send("alice@example.net", recipients, raw)
    reply, refused = through_postfix(bench, recipients, raw)
    assert refused == outcome.refused == {"unknown@example.org": "550 5.1.1 No such user"}
    if outcome.status in ("reject", "tempfail"):
        assert reply == outcome.reply
        return
    assert reply.startswith(outcome.reply)
    if outcome.status == "discard":
        bench.postfix.wait_empty()
        assert bench.sink.transactions == []
        return
    if outcome.quarantine:
        # What was sent before may be in the queue for a moment still.
        wait_for(lambda: [one["queue_name"] for one in bench.postfix.queue()] == ["hold"], 30, "one on hold")
        bench.postfix.release()
    bench.sink.wait_for(1)
    assert bench.sink.transactions[0].recipients == outcome.recipients
    assert arrived(bench) == outcome.message


@pytest.mark.parametrize("raw", MESSAGES, ids=range(len(MESSAGES)))
def test_the_filter_sees_the_same(bench: Bench, raw: bytes) -> None:
    through_postfix(bench, ["bob@example.org"], raw)
    real = arrived(bench)
    with MilterClient(("127.0.0.1", bench.filter.port)) as client:
        assert client.open(PEER) is None
        assert client.send("alice@example.net", ["bob@example.org"], raw).message == real


def test_pieces_make_no_difference(bench: Bench) -> None:
    outcomes = []
    for body_chunk, write_size in ((65_535, 0), (1, 0), (7, 1), (65_535, 3)):
        address = ("127.0.0.1", bench.filter.port)
        with MilterClient(address, body_chunk=body_chunk, write_size=write_size) as client:
            client.open(PEER)
            for message in MESSAGES[:4]:
                outcome = client.send("alice@example.net", ["bob@example.org"], message)
            outcomes.append(outcome.status)
    assert outcomes == ["accept"] * 4


def test_tls_macros_and_the_submission_listener(lab: Path, authority: Authority) -> None:
    pair = authority.issue("localhost", names=["127.0.0.1"])
    mine = authority.issue("client.example.net", client=True)
    with (
        Sink() as sink,
        Postfix(
            lab / "postfix-tls", relay_to=sink.address, tls=pair, authority=authority, submission=True
        ) as postfix,
    ):
        for port in (postfix.port, postfix.submission_port):
            with smtplib.SMTP("localhost", port) as client:
                client.starttls(context=authority.client_context(mine))
                client.sendmail("alice@example.net", ["bob@example.org"], MESSAGE)
        messages = sink.wait_for(2)
        assert all(b'(Client CN "client.example.net"' in message.data for message in messages)
        assert all(b"(verified OK)" in message.data for message in messages)
        assert postfix.logged("Trusted TLS connection")
        sink.on("rcpt", "450 4.2.1 later")
        with smtplib.SMTP("localhost", postfix.port) as client:
            client.sendmail("alice@example.net", ["bob@example.org"], MESSAGE)
            client.docmd("XCLIENT", "ADDR=203.0.113.9")
            with pytest.raises(smtplib.SMTPRecipientsRefused):  # strangers may send to our domains only
                client.sendmail("alice@example.net", ["bob@example.com"], MESSAGE)
        sink.clear()
        postfix.flush()
        sink.wait_for(1)
        postfix.wait_empty()
