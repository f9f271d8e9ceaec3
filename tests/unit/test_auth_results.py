# SPDX-License-Identifier: GPL-2.0-or-later
"""Authentication-Results: what we write cannot be bent, and what is forged is found."""

from __future__ import annotations

import time

import authres
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.results import authentication_results, forged, read_results
from gateway.mail.types import (
    Arc,
    Dkim,
    Dmarc,
    Edit,
    EditOp,
    Envelope,
    Evidence,
    HeaderField,
    Iprev,
    Mail,
    Session,
    Spf,
)

OURS = "mx.example.org"
EVIDENCE = Evidence(
    spf=(Spf("mailfrom", "example.com", "pass"), Spf("helo", "mail.example.com", "none")),
    dkim=(
        Dkim("pass", "example.com", "sel", "@example.com", "rsa-sha256", "Ab/cd+ef"),
        Dkim("permerror", "example.net", "sel", reason='no "key"; spf=pass'),
    ),
    dmarc=Dmarc("pass", "example.com", policy="reject"),
    arc=Arc("none"),
    iprev=Iprev("pass", "mail.example.com"),
)


def mail(sender: str = "alice@example.com", ip: str = "2001:db8::1", login: str = "") -> Mail:
    return Mail("0" * 16, Session(client_ip=ip, login=login), Envelope(sender, ()), b"")


def test_the_field() -> None:
    assert authentication_results(OURS, EVIDENCE, mail()) == (
        "mx.example.org;\n"
        "\tspf=pass smtp.mailfrom=alice@example.com;\n"
        "\tdkim=pass header.d=example.com header.i=@example.com header.s=sel\n"
        '\t header.a=rsa-sha256 header.b="Ab/cd+ef";\n'
        '\tdkim=permerror reason="no \\"key\\"; spf=pass" header.d=example.net\n'
        "\t header.s=sel;\n"
        "\tdmarc=pass (p=reject) header.from=example.com;\n"
        "\tarc=none;\n"
        '\tiprev=pass policy.iprev="2001:db8::1"'
    )


def test_nothing_checked() -> None:
    assert authentication_results(OURS, Evidence(), mail()) == "mx.example.org;\n\tnone"


def test_the_null_sender_shows_helo() -> None:
    evidence = Evidence(spf=(Spf("mailfrom", "h.example", "pass"), Spf("helo", "h.example", "pass")))
    assert (
        authentication_results(OURS, evidence, mail("")) == "mx.example.org;\n\tspf=pass smtp.helo=h.example"
    )


HOSTILE = st.text(
    alphabet=st.sampled_from(list('ab@.;="\\()<>, \t\r\n\0\x1b\u202e\u00e9\ud800')), max_size=40
)


@settings(deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_nobody_writes_into_our_field(one: str, two: str, three: str) -> None:
    evidence = Evidence(
        spf=(Spf("mailfrom", one, "fail", two), Spf("helo", two, "temperror", one)),
        dkim=(Dkim("pass", one, two, three, one, two, reason=three),),
        dmarc=Dmarc("permerror", three, reason=one),
        arc=Arc("pass", (two,), three),
        iprev=Iprev("fail", one),
    )
    value = authentication_results(OURS, evidence, mail(one or "x", two, login=three))
    Edit(EditOp.INSERT, "Authentication-Results", value)  # refuses whatever breaks a header
    name, results = read_results(value.encode())
    assert name == OURS
    expected = ["spf", "spf", "dkim", "dmarc", "arc", "iprev"] + ["auth"] * bool(three)
    assert [result.method for result in results] == expected
    assert [result.result for result in results][:3] == ["fail", "temperror", "pass"]


def test_other_readers_read_the_same() -> None:
    value = authentication_results(OURS, EVIDENCE, mail())
    unfolded = " ".join(value.split())
    read = authres.AuthenticationResultsHeader.parse(f"Authentication-Results: {unfolded}")
    assert read.authserv_id == OURS
    assert [f"{one.method}={one.result}" for one in read.results] == [
        f"{one.method}={one.result}" for one in read_results(value.encode())[1]
    ]


FORGED = [
    b" mx.example.org; spf=pass",
    b"mx.example.org;spf=pass",
    b" MX.Example.ORG; spf=pass",
    b" mx.example.org.; spf=pass",
    b"\r\n\tmx.example.org;\r\n\tspf=pass",
    b" mx.example.org 1; spf=pass",
    b" mx.example.org",
    b" mx.example.org (comment; x) ; spf=pass",
    b" (a (nested) \\( comment) mx.example.org; spf=pass",
    b' "mx.example.org"; spf=pass',
    b' "mx\\.example.org"; spf=pass',
    b" mx.(x)example.org; spf=pass",
    b" mx.example.\x00org; spf=pass",
    b" mx.example\r\n .org; spf=pass",
    b" mx.example.org/1; spf=pass",
    b" mx.example.org x y; spf=pass",
    b" ((mx.example.org; spf=pass",
    b' "mx.example.org; spf=pass',
    b" =?utf-8?q?mx=2Eexample=2Eorg?=; spf=pass",
    b" =?utf-8?b?bXguZXhhbXBsZS5vcmc=?=; spf=pass",
    b" " + b"(" + b"x" * 9000 + b") mx.example.org; spf=pass",
]
OTHERS = [
    b" mx.example.net; spf=pass smtp.mailfrom=mx.example.org",
    b" mx.example.org.example.net; spf=pass",
    b" (mx.example.org) other.example; spf=pass",
    b" a-mx.example.org; spf=pass",
    b" spf=pass smtp.mailfrom=mx.example.org",
    b"",
    b" ;",
]


@pytest.mark.parametrize("value", FORGED)
def test_forged_fields_are_found(value: bytes) -> None:
    other = HeaderField("Authentication-Results", b"Authentication-Results: other.example; none")
    fields = [
        other,
        HeaderField("Subject", b"Subject: mx.example.org"),
        HeaderField("AUTHENTICATION-results", b"AUTHENTICATION-results:" + value),
        other,
    ]
    assert forged(fields, OURS) == (2,)
    assert forged(fields, "mx.example.com") == ()


@pytest.mark.parametrize("value", OTHERS)
def test_fields_of_others_are_kept(value: bytes) -> None:
    assert forged([HeaderField("Authentication-Results", b"Authentication-Results:" + value)], OURS) == ()


def test_many_forged_fields() -> None:
    fields = [
        HeaderField("Authentication-Results", b"Authentication-Results:" + value) for value in FORGED * 20
    ]
    assert forged(fields, OURS) == tuple(range(1, len(fields) + 1))


@pytest.mark.parametrize(
    "piece", [b"(", b'"', b"\\", b"(\\", b"=?", b"a ", b"()", b";", b'"a" ', b"=?utf-8?q?"]
)
def test_hostile_fields_are_cheap(piece: bytes) -> None:
    value = piece * (60_000 // len(piece))
    fields = [HeaderField("Authentication-Results", b"Authentication-Results:" + value)] * 20
    start = time.thread_time()
    forged(fields, OURS)
    assert time.thread_time() - start < 0.25


PIECES = st.sampled_from(
    [
        "mx.example.org",
        ";",
        "=",
        "(",
        ")",
        '"',
        "\\",
        " ",
        "\r\n\t",
        "spf",
        "dkim",
        "pass",
        ".",
        "1",
        "/",
        "none",
        "é",
    ]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=16).map("".join))
def test_any_field_is_read_or_refused(text: str) -> None:
    value = text.encode()
    field = HeaderField("Authentication-Results", b"Authentication-Results:" + value)
    claimed = forged([field], OURS) == (1,)
    try:
        name, results = read_results(value)
    except ValueError:
        return
    assert claimed == (name == OURS)
    assert all(result.method and result.result for result in results)
