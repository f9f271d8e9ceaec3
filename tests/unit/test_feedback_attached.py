# SPDX-License-Identifier: GPL-2.0-or-later
"""What is found in a report: attached messages as mail clients send them, abuse reports, nothing else."""

from __future__ import annotations

import base64
import random

import pytest

from gateway.feedback.attached import MESSAGES, attached

INNER = b"From: offers@example.net\r\nTo: bob@example.com\r\nSubject: cheap\r\n\r\nBuy \xe9 now.\r\n"
OTHER = b"Received: from a by b\r\nFrom: x@example.org\r\n\r\n--b\r\nnot a delimiter of the report\r\n"
TOP = b"From: bob@example.com\r\nTo: spam@example.com\r\nSubject: Fwd: cheap\r\nMIME-Version: 1.0\r\n"


def multipart(*parts: bytes, kind: bytes = b"mixed") -> bytes:
    body = b"".join(b"--outer\r\n" + part + b"\r\n" for part in parts)
    return b'Content-Type: multipart/%s; boundary="outer"\r\n\r\n' % kind + body + b"--outer--\r\n"


def part(kind: bytes, data: bytes, *fields: bytes) -> bytes:
    return b"".join(field + b"\r\n" for field in (b"Content-Type: " + kind, *fields)) + b"\r\n" + data


NOTE = part(b"text/plain; charset=utf-8", b"Please learn this.")
BASE64 = b"Content-Transfer-Encoding: base64"
FILE = b'Content-Disposition: attachment; filename="cheap.eml"'
ARF = part(b"message/feedback-report", b"Feedback-Type: %s\r\nUser-Agent: x/1\r\nVersion: 1\r\n")


@pytest.mark.parametrize(
    ("report", "messages"),
    [
        pytest.param(multipart(NOTE, part(b"message/rfc822", INNER, FILE)), [INNER], id="forwarded"),
        pytest.param(
            multipart(NOTE, part(b"message/rfc822", INNER), part(b"message/rfc822", OTHER)),
            [INNER, OTHER],
            id="two",
        ),
        pytest.param(
            multipart(NOTE, part(b"message/rfc822", base64.encodebytes(INNER), BASE64)),
            [INNER],
            id="in base64, against RFC 2046",
        ),
        pytest.param(
            multipart(part(b"application/octet-stream", base64.encodebytes(INNER), BASE64, FILE)),
            [INNER],
            id="as a file",
        ),
        pytest.param(
            multipart(
                part(b'multipart/alternative; boundary="in"', b"--in\r\n" + NOTE + b"\r\n--in--\r\n"),
                part(b"message/rfc822", INNER),
            ),
            [INNER],
            id="beside HTML",
        ),
        pytest.param(multipart(part(b"text/plain", INNER, FILE)), [INNER], id="text with a file name"),
        pytest.param(multipart(INNER[:0] + b"\r\n" + INNER, kind=b"digest"), [INNER], id="digest"),
        pytest.param(multipart(NOTE), [], id="inline"),
        pytest.param(b"Content-Type: text/plain\r\n\r\n" + INNER, [], id="no multipart"),
        pytest.param(b"Content-Type: message/rfc822\r\n\r\n" + INNER, [], id="the report is a message"),
        pytest.param(
            multipart(part(b"application/octet-stream", b"\x00\x01", FILE)), [], id="a file of another kind"
        ),
        pytest.param(multipart(part(b"message/rfc822", b"", FILE)), [b""], id="an empty message"),
        pytest.param(multipart(part(b"application/vnd.ms-outlook", b"\xd0\xcf\x11\xe0")), [], id="msg"),
    ],
)
def test_attached_messages_are_found_as_they_were(report: bytes, messages: list[bytes]) -> None:
    found = attached(TOP + report)
    assert found.messages == messages
    assert found.feedback == ""


def test_an_abuse_report_says_of_which_type_it_is() -> None:
    """RFC 5965: a description, the machine's part, and the message or its header."""
    report = multipart(NOTE, ARF % b"abuse", part(b"message/rfc822", INNER), kind=b"report")
    assert (attached(TOP + report).feedback, attached(TOP + report).messages) == ("abuse", [INNER])
    header = part(b"text/rfc822-headers", INNER[:50])
    only = attached(TOP + multipart(NOTE, ARF % b"abuse", header, kind=b"report"))
    assert only.messages == []
    assert only.why == "only the header of a message is attached"
    odd = attached(multipart(part(b"message/feedback-report", b"Version: 1\r\n"), kind=b"report"))
    assert odd.feedback == "none"
    hostile = attached(multipart(ARF % b"\x1b[31mabuse\x00", kind=b"report"))
    assert hostile.feedback.isprintable()


def test_a_message_within_an_attached_message_is_not_taken_by_itself() -> None:
    outer = b"From: a@example.net\r\n" + multipart(part(b"message/rfc822", OTHER)).replace(b"outer", b"inner")
    found = attached(TOP + multipart(NOTE, part(b"message/rfc822", outer)))
    assert found.messages == [outer]


def test_a_report_is_bounded() -> None:
    many = attached(TOP + multipart(*[part(b"message/rfc822", INNER)] * 500))
    assert len(many.messages) == MESSAGES
    deep = INNER
    for level in range(50):
        name = b"b%d" % level
        deep = part(
            b'multipart/mixed; boundary="%s"' % name, b"--%s\r\n%s\r\n--%s--\r\n" % (name, deep, name)
        )
    assert attached(TOP + deep).messages == []


def test_no_octets_make_it_raise() -> None:
    chance = random.Random(5)
    good = TOP + multipart(NOTE, ARF % b"abuse", part(b"message/rfc822", INNER, BASE64, FILE))
    for _ in range(3_000):
        raw = bytearray(good)
        for _ in range(chance.randrange(1, 12)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        start = chance.randrange(len(raw))
        attached(bytes(raw[start:] if chance.random() < 0.2 else raw))
