# SPDX-License-Identifier: GPL-2.0-or-later
"""ARC validation, and reverse DNS. dkimpy seals."""

from __future__ import annotations

import base64
import time
from functools import cache
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.arc import _uncovered, arc_questions, check_arc
from gateway.auth.iprev import check_iprev
from gateway.auth.seal import seal as seal_by_us
from gateway.auth.settings import AuthSettings
from gateway.auth.sign import SigningKey, read_private_key
from gateway.auth.signature import Material
from gateway.dns import Answer
from gateway.mail import headers
from gateway.mail.types import Arc, Session

FIRST = b"Authentication-Results: lists.example.org; arc=none; spf=pass smtp.mailfrom=example.com\r\n"
LATER = b"Authentication-Results: lists.example.org; arc=pass\r\n"
MAIL = FIRST + b"From: alice@example.com\r\nTo: list@example.org\r\nSubject: hi\r\n\r\nHello\r\n"


@cache
def key() -> tuple[bytes, bytes]:
    private = rsa.generate_private_key(65_537, 2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem, b"v=DKIM1; p=" + base64.b64encode(public)


def seal(mail: bytes) -> bytes:
    fields = dkim.arc_sign(mail, b"sel", b"example.org", key()[0], b"lists.example.org")
    return b"".join(fields) + mail


@cache
def sealed(times: int) -> bytes:
    mail = MAIL
    for _ in range(times):
        mail = seal(mail).replace(FIRST, LATER)
    return mail


class FakeLookup:
    def __init__(self, answer: Answer[bytes]) -> None:
        self.answer = answer

    def txt(self, _name: str) -> Answer[bytes]:
        return self.answer


def material_of(mail: bytes) -> Material:
    section = headers.split(mail)
    return Material(section.fields, mail, section.body_start)


def check(mail: bytes, answer: Answer[bytes] | None = None, settings: AuthSettings | None = None) -> Arc:
    material = material_of(mail)
    lookup: Any = FakeLookup(Answer("ok", (key()[1],)) if answer is None else answer)
    return check_arc(material, lookup, settings or AuthSettings())


def test_what_dkimpy_seals_passes() -> None:
    found = check(sealed(1))
    assert (found.result, found.sealers) == ("pass", ("example.org",))
    assert found.results.startswith("lists.example.org; arc=none; spf=pass")
    assert check(sealed(2)).result == "pass"
    assert len(check(sealed(2)).sealers) == 2


@pytest.mark.parametrize(
    ("old", "new", "names", "open_to"),
    [
        (b"To:", b"To:", "from to subject", ""),
        (b"To:", b"X-Loop: list@example.org\r\nTo:", "from subject", ""),  # as others sign it
        (b"To:", b"Reply-To: a@evil.example\r\nTo:", "from subject", "reply-to is not signed"),
        (b"To:", b"SENDER : a@evil.example\r\nTo:", "from subject", ""),  # makes readers warier
        (
            b"To:",
            b"Sender: a@evil.example\r\nTo:",
            "from subject sender",
            "!",
        ),
        (b"To:", b"Date: Mon, 06 Oct 2025 10:00:00 +0200\r\nTo:", "from subject", "date is not signed"),
        (b"To:", b"Content-Type: text/html\r\nTo:", "from subject", "content-type is not signed"),
        (
            b"To:",
            b"Content-Transfer-Encoding: base64\r\nTo:",
            "from subject",
            "content-transfer-encoding is not signed",
        ),
        (b"To:", b"Content-Transfer-Encoding: 8BIT\r\nTo:", "from subject", ""),
        (b"To:", b"Content-Disposition: inline\r\nTo:", "from subject", ""),
        (
            b"To:",
            b"Content-Disposition: inline; filename=a.html\r\nTo:",
            "from subject",
            "content-disposition is not signed",
        ),
        (
            b"To:",
            b"Content-Transfer-Encoding: 7bit\r\ncontent-transfer-encoding: 7bit\r\nTo:",
            "from subject",
            "content-transfer-encoding is not signed",
        ),
        (b"To:", b"Content-Base: http://evil.example\r\nTo:", "from subject", "content-base is not signed"),
        (b"To:", b"Reply-To: a@evil.example\r\nTo:", "from subject reply-to", "!"),
        (b"To:", b"To:", "to subject", "from is not signed"),
        (b"To:", b"To:", "from to", "subject is not signed"),
        (
            b"From:",
            b"From: ceo@bank.example\r\nFrom:",
            "from subject",
            "from was added beside the signed one",
        ),
        (b"Subject:", b"Subject: pay\r\nSubject:", "from subject", "subject was added beside the signed one"),
        (b"From:", b"From: ceo@bank.example\r\nFrom:", "from from subject", "!"),  # oversigned
    ],
)
def test_what_may_change_after_sealing(old: bytes, new: bytes, names: str, open_to: str) -> None:
    signer = SigningKey("example.org", "sel", read_private_key(key()[0]))
    fields = seal_by_us(material_of(MAIL), Arc("none"), "mx.example; none", signer, names=names.split())
    top = "".join(f"{name}: {value}\n" for name, value in fields).replace("\n", "\r\n").encode()
    found = check((top + MAIL).replace(b"\r\n" + old, b"\r\n" + new, 1))
    if open_to == "!":
        assert (found.result, found.covers_all) == ("fail", False)
    else:
        assert (found.result, found.reason, found.covers_all) == ("pass", open_to, not open_to)


@pytest.mark.parametrize(
    ("encoding", "body", "harmless"),
    [
        (b"quoted-printable", b"Caf=C3=A9 =\r\n=3D1\r\n", True),
        (b"Quoted-Printable", b"nothing to decode\r\n", True),
        (b"quoted-printable", b"<a href=3Dx>\r\n<a href=x>\r\n", False),
        (b"quoted-printable", b"=3Cb=3E caf\xc3\xa9\r\n", False),
        (b"quoted-printable", b"=", False),
        (b"base64", b"SGVs\r\nbG8=\r\n\r\n", True),
        (b"base64", b"SGVsbG8= and so on\r\n", False),
        (b"base64", b"SGVs=bG8=\r\n", False),
        (b"base64 (sic)", b"SGVsbG8=\r\n", False),
        (b"x-uuencode", b"SGVsbG8=\r\n", False),
    ],
)
def test_an_unsigned_encoding_must_be_that_of_the_whole_body(
    encoding: bytes, body: bytes, harmless: bool
) -> None:
    mail = b"From: a@example.com\r\nContent-Transfer-Encoding: %b\r\n\r\n%b" % (encoding, body)
    expected = "" if harmless else "content-transfer-encoding is not signed"
    assert _uncovered(material_of(mail), {"h": b"from"}) == expected


def test_a_length_leaves_the_end_of_the_body_open() -> None:
    found = _uncovered(material_of(MAIL), {"l": b"5", "h": b"from:to:subject"})
    assert found == "l= leaves the end of the body unsigned"


@pytest.mark.parametrize(("size", "stated"), [(7_000, True), (9_000, False)])
def test_of_long_results_no_piece_is_believed(size: int, stated: bool) -> None:
    signer = SigningKey("example.org", "sel", read_private_key(key()[0]))
    long = (
        "mx.example; dkim=pass header.d=example.com; x=" + "y" * size + "; dmarc=fail header.from=x.example"
    )
    fields = seal_by_us(material_of(MAIL), Arc("none"), long, signer)
    top = "".join(f"{name}: {value}\n" for name, value in fields).replace("\n", "\r\n").encode()
    found = check(top + MAIL)
    assert (found.result, found.results == long) == ("pass", stated)
    assert found.results in ("", long)


def test_no_chain() -> None:
    assert check(MAIL) == Arc("none")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\r\n\r\nHello", b"\r\n\r\nHallo"),
        (b"Subject: hi", b"Subject: ho"),
        (b"cv=none", b"cv=pass"),
        (b"cv=none", b"cv=fail"),
        (b"cv=none", b"cv="),
        (b"Results: i=1; lists", b"Results: i=1; lasts"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=2"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=x"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=999999999999"),
        (b"ARC-Seal: ", b"ARC-Seal: h=from; "),
        (b"ARC-Seal:", b"X-Seal:"),
        (b"ARC-Authentication-Results: i=1;", b"ARC-Authentication-Results: "),
        (b"ARC-Message-Signature:", b"ARC-Message-Signature: x"),
    ],
)
def test_a_damaged_chain_fails(old: bytes, new: bytes) -> None:
    mail = sealed(1).replace(old, new, 1)
    assert mail != sealed(1)
    found = check(mail)
    assert found.result == "fail"
    assert found.reason


def test_doubled_and_long_chains_fail() -> None:
    mail = sealed(1)
    first = mail.partition(b"\r\nARC-")[0] + b"\r\n"
    assert check(first + mail).result == "fail"
    assert check(sealed(2), settings=AuthSettings(max_arc_sets=1)).result == "fail"
    start = time.thread_time()
    assert check(first * 3000 + mail).result == "fail"
    assert time.thread_time() - start < 0.3  # reading 3,000 header fields included


def test_failing_dns_is_temporary() -> None:
    assert check(sealed(1), Answer("temperror", reason="timed out")).result == "temperror"
    assert check(sealed(1), Answer("nxdomain")).result == "fail"


def test_questions_are_known_beforehand() -> None:
    section = headers.split(sealed(1))
    material = Material(section.fields, sealed(1), section.body_start)
    assert set(arc_questions(material, AuthSettings())) == {("sel._domainkey.example.org", "TXT")}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_chain_is_a_result(changes: list[tuple[int, int]]) -> None:
    mail = bytearray(sealed(1))
    for position, octet in changes:
        mail[position % mail.index(b"From:")] = octet
    found = check(bytes(mail))
    assert found.result in ("fail", "none", "pass")
    assert found.results.isprintable()
    assert found.reason.isprintable()


class ReverseLookup:
    def __init__(self, ptr: Answer[str], forward: dict[str, Answer[str]]) -> None:
        self.answer = ptr
        self.forward = forward

    def ptr(self, _address: str) -> Answer[str]:
        return self.answer

    def a(self, name: str) -> Answer[str]:
        return self.forward.get(name, Answer("nxdomain"))

    aaaa = a


@pytest.mark.parametrize(
    ("ip", "ptr", "result", "name"),
    [
        ("192.0.2.1", Answer("ok", ("no.example", "mx.example")), "pass", "mx.example"),
        ("::ffff:192.0.2.1", Answer("ok", ("mx.example",)), "pass", "mx.example"),
        ("2001:db8::1", Answer("ok", ("six.example",)), "pass", "six.example"),
        ("192.0.2.2", Answer("ok", ("mx.example",)), "fail", "mx.example"),
        ("192.0.2.1", Answer("ok", ("no.example",) * 9 + ("mx.example",)), "fail", "no.example"),
        ("192.0.2.1", Answer("ok", ("bad.example",)), "temperror", "bad.example"),
        ("192.0.2.1", Answer("nxdomain"), "permerror", ""),
        ("192.0.2.1", Answer("temperror"), "temperror", ""),
    ],
)
def test_reverse_dns(ip: str, ptr: Answer[str], result: str, name: str) -> None:
    forward: dict[str, Answer[str]] = {
        "mx.example": Answer("ok", ("198.51.100.1", "192.0.2.1")),
        "six.example": Answer("ok", ("2001:DB8:0::1",)),
        "bad.example": Answer("temperror"),
    }
    lookup: Any = ReverseLookup(ptr, forward)
    found = check_iprev(Session(client_ip=ip), lookup)
    assert found is not None
    assert (found.result, found.name) == (result, name)


def test_reverse_dns_of_the_mta_is_believed() -> None:
    lookup: Any = None
    found = check_iprev(Session(client_ip="192.0.2.1", client_name="mx.example"), lookup)
    assert found is not None
    assert (found.result, found.name) == ("pass", "mx.example")
    assert check_iprev(Session(), lookup) is None
