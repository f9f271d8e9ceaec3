# SPDX-License-Identifier: GPL-2.0-or-later
"""Notices to senders: read back with the standard library, and with hostile text in every place."""

from __future__ import annotations

import email
import email.policy
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from gateway.delivery.bounce import MOST_HEADER, Action, Report, notice, wanted
from gateway.delivery.protocol import is_sound
from gateway.store.queued import Facts, Outgoing, Recipient, State

if TYPE_CHECKING:
    from email.message import EmailMessage, Message

MESSAGE = b"From: Alice <alice@example.net>\r\nSubject: Hello\r\n\r\nSecret body\r\n"
FACTS = Facts("1M80JFSJGNG4SMAS", 1_767_600_000.0, 1_768_000_000.0, "alice@example.net", (), True, 0.0, 1)
RECIPIENT = Recipient(
    7, FACTS.id, "bob@example.com", (), "smtp:mx.example.com:25", State.LEASED, 0.0, 3, 0, 0.0, ""
)
REPLY = "550 5.1.1 no such user"
NOW = 1_767_700_000.0


def made(
    *reports: Report, facts: Facts = FACTS, message: bytes = MESSAGE, action: Action = "failed"
) -> tuple[Outgoing, EmailMessage]:
    sent = notice(
        facts,
        message,
        reports or [Report(RECIPIENT, REPLY)],
        action,
        hostname="mx.example.org",
        hop="smtp:out.example.org:25",
        now=NOW,
    )
    assert is_sound(sent.message)
    assert max(map(len, sent.message.split(b"\r\n"))) <= 998
    parsed = email.message_from_bytes(sent.message, policy=email.policy.SMTP)
    assert not parsed.defects
    return sent, parsed


def parts(parsed: EmailMessage) -> tuple[Message, Message, Message, Message]:
    """The text, the message's and the first recipient's fields, what was returned."""
    text, status, returned = cast("list[Message]", parsed.get_payload())
    message, recipient, *_ = cast("list[Message]", status.get_payload())
    return text, message, recipient, returned


def test_form() -> None:
    """RFC 3462, 3464: envelope, header and the three parts."""
    sent, parsed = made()
    assert (sent.sender, sent.may_bounce) == ("", False)
    assert [(one.address, one.hop) for one in sent.recipients] == [
        ("alice@example.net", "smtp:out.example.org:25")
    ]
    assert sent.expires > sent.created == NOW
    assert parsed.get_content_type() == "multipart/report"
    assert parsed.get_param("report-type") == "delivery-status"
    assert parsed["To"] == "alice@example.net"
    assert parsed["Auto-Submitted"] == "auto-replied"
    text, message, recipient, returned = parts(parsed)
    assert text.get_content_type() == "text/plain"
    assert "bob@example.com" in str(text.get_payload())
    assert message["Reporting-MTA"] == "dns; mx.example.org"
    assert message["Arrival-Date"]
    assert {
        name: recipient[name]
        for name in ("Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code")
    } == {
        "Final-Recipient": "rfc822; bob@example.com",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.example.com",
        "Diagnostic-Code": f"X-Mailwarden; {REPLY}",
    }
    assert returned.get_content_type() == "text/rfc822-headers"
    assert "Subject: Hello" in str(returned.get_payload())
    assert b"Secret body" not in sent.message


def test_several_recipients_have_a_group_each() -> None:
    other = replace(RECIPIENT, address="eve@example.com")
    _, parsed = made(Report(RECIPIENT, REPLY), Report(other, "552 too large"))
    status = cast("list[Message]", parsed.get_payload())[1]
    _, first, second = cast("list[Message]", status.get_payload())
    assert (first["Status"], second["Status"]) == ("5.1.1", "5.0.0")
    assert second["Final-Recipient"] == "rfc822; eve@example.com"


@pytest.mark.parametrize(
    ("reply", "action", "expired", "status"),
    [
        ("550 no enhanced code", "failed", False, "5.0.0"),
        ("550 4.2.2 class of another", "failed", False, "5.0.0"),
        ("451 4.4.1 timed out", "failed", True, "4.4.7"),
        ("451 4.7.5 cannot start TLS", "failed", True, "5.7.5"),
        ("451 4.7.5 cannot start TLS", "delayed", False, "4.7.5"),
        ("451 4.4.1 timed out", "delayed", False, "4.4.1"),
        ("", "delayed", False, "4.0.0"),
    ],
)
def test_status(reply: str, action: Action, expired: bool, status: str) -> None:
    _, parsed = made(Report(RECIPIENT, reply, expired), action=action)
    recipient = parts(parsed)[2]
    assert recipient["Status"] == status
    assert recipient["Action"] == action
    assert bool(recipient["Will-Retry-Until"]) == (action == "delayed")


def test_what_needed_tls_does_not_come_back_without() -> None:
    """RFC 8689 §5: the notice may go in clear, so that it holds no more than the header section."""
    for options, whole in ((("RET=FULL",), True), (("RET=FULL", "REQUIRETLS"), False)):
        sent, _ = made(facts=replace(FACTS, options=options))
        assert (b"Secret body" in sent.message) == whole


def test_what_the_sender_asked_for() -> None:
    """RET, ENVID, ORCPT (RFC 3461), xtext decoded and harmless."""
    facts = replace(FACTS, options=("RET=FULL", "ENVID=a+2Bb+0D+0AX-Evil:+20yes"))
    recipient = replace(RECIPIENT, options=("ORCPT=rfc822;b+2Bob@example.com+0AX-Evil: 1",))
    sent, parsed = made(Report(recipient, REPLY), facts=facts)
    _, message, group, returned = parts(parsed)
    assert message["Original-Envelope-Id"] == "a+b  X-Evil: yes"
    assert group["Original-Recipient"] == "rfc822; b+ob@example.com X-Evil: 1"
    assert message["X-Evil"] is None
    assert group["X-Evil"] is None
    assert returned.get_content_type() == "message/rfc822"
    assert b"Secret body" in sent.message


@pytest.mark.parametrize(
    ("options", "failed", "delayed"),
    [
        ((), True, True),
        (("NOTIFY=NEVER",), False, False),
        (("NOTIFY=FAILURE",), True, False),
        (("notify=delay,success",), False, True),
        (("ORCPT=rfc822;x", "NOTIFY=FAILURE,DELAY"), True, True),
    ],
)
def test_notify(options: tuple[str, ...], failed: bool, delayed: bool) -> None:
    recipient = replace(RECIPIENT, options=options)
    assert (wanted(recipient, "failed"), wanted(recipient, "delayed")) == (failed, delayed)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"no header at all",
        b"Subject: \xff\xfe raw\r\n\r\nx\r\n",
        b"Subject: " + b"a" * 5_000 + b"\r\n\r\nx\r\n",
        b"X: y\r\n" * 50_000 + b"\r\nx",
        b"Subject: x\r\n\r\n--=_boundary--\r\n",
    ],
    ids=["empty", "no header", "8-bit", "long line", "many fields", "boundary"],
)
def test_any_message(message: bytes) -> None:
    sent, parsed = made(message=message)
    assert len(parts(parsed)) == 4
    assert len(sent.message) < 2 * MOST_HEADER + 5_000
    assert sent.message.isascii()


def test_hostile_texts() -> None:
    facts = replace(FACTS, sender='"a\\"b"@example.net')
    reply = "550 5.7.1 \x1b]0;x\x07\r\nX-Evil: 1 " + "w" * 900
    recipient = replace(RECIPIENT, address="x\r\nX-Evil: 1@example.com", hop="smtp:[2001:db8::1]:25")
    sent, parsed = made(Report(recipient, reply), facts=facts)
    assert b"\x1b" not in sent.message
    assert b"\r\nX-Evil" not in sent.message
    assert parts(parsed)[2]["Remote-MTA"] == "dns; [IPv6:2001:db8::1]"


@pytest.mark.parametrize(
    ("hop", "server", "host"),
    [
        ("smtp:a.example.com:25|smtp:b.example.com:25, smtp:c.example.com:25", "", None),
        ("smtp:a.example.com:25, smtp:b.example.com:25", "smtp:b.example.com:25", "b.example.com"),
        ("mx:example.com:2525", "", None),
        ("mx:example.com", "smtp:mx.example.com:25", "mx.example.com"),
        ("smtp:192.0.2.1:25", "", "[192.0.2.1]"),
        ("lmtp:unix:/run/lmtp", "lmtp:unix:/run/lmtp", None),
        ("", "", None),
    ],
)
def test_who_said_it(hop: str, server: str, host: str | None) -> None:
    """One host as RFC 3464 §2.1.1 writes it, or none; a diagnosis of ours is not given out as a server's."""
    _, parsed = made(Report(replace(RECIPIENT, hop=hop), REPLY, server=server))
    group = parts(parsed)[2]
    assert group["Remote-MTA"] == (host and f"dns; {host}")
    assert group["Diagnostic-Code"] == f"{'smtp' if server else 'X-Mailwarden'}; {REPLY}"


def test_addresses_beyond_ascii() -> None:
    """RFC 6533: the address type utf-8 in ASCII; such a sender is only reached with SMTPUTF8."""
    facts = replace(FACTS, sender="jürgen@example.net")
    sent, _ = made(Report(replace(RECIPIENT, address="bø@example.com"), REPLY), facts=facts)
    assert b"Final-Recipient: utf-8; b\\x{F8}@example.com\r\n" in sent.message
    assert sent.options == ("SMTPUTF8",)
    plain, _ = made(Report(replace(RECIPIENT, address="bø@example.com"), REPLY))
    assert plain.options == ()
    assert plain.message.isascii()
