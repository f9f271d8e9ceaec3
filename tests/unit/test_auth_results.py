# SPDX-License-Identifier: GPL-2.0-or-later
"""Authentication-Results: what we write cannot be bent, and what is forged is found."""

from __future__ import annotations

import contextlib
import re
import time
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

import authres
import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.results import MAX_VALUE, NAME, Result, authentication_results, forged, read_results
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

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        "\tdkim=permerror reason=\"no 'key', spf=pass\" header.d=example.net header.s=sel;\n"
        "\tdmarc=pass (p=reject) header.from=example.com;\n"
        "\tarc=none;\n"
        '\tiprev=pass policy.iprev="2001:db8::1"'
    )


@cache
def sealing_key() -> bytes:
    return rsa.generate_private_key(65_537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "text",
    [
        '"x; dmarc=pass header.from=bank.example; foo=bar header.x="@evil.example',
        '"a@bank.example smtp.helo="@evil.example',
        '" smtp.mailfrom=x@bank.example smtp.helo="@evil.example',
        "x; dmarc=pass header.from=bank.example.evil.example",
        '\\"x\\"; dkim=pass header.d=bank.example (\\"@evil.example',
    ],
)
def test_who_loses_our_quotes_reads_the_same(text: str) -> None:
    """dkimpy seals behind us, by authres, which writes quoted strings without their quotes."""
    evidence = Evidence(
        spf=(Spf("mailfrom", "evil.example", "pass"), Spf("helo", text, "pass")),
        dkim=(
            Dkim("permerror", text, text, text, text, text, reason=text),
            Dkim("pass", "e.example", "s", text),
        ),
        dmarc=Dmarc("fail", "bank.example", policy="reject"),
    )
    value = authentication_results(OURS, evidence, mail(text)).replace("\n", "\r\n")
    raw = f"Authentication-Results: {value}\r\nFrom: a@bank.example\r\n\r\nx\r\n".encode()
    sealed = dkim.ARC(raw).sign(b"s", b"example.com", sealing_key(), OURS.encode())[-1]
    _, results = read_results(sealed.partition(b";")[2], tolerant=True)
    assert [(one.method, one.result) for one in results if one.result != "permerror"] == [
        ("spf", "pass"),
        ("spf", "pass"),
        ("dkim", "pass"),
        ("dmarc", "fail"),
    ]
    assert "bank.example" not in {one.get("smtp.mailfrom").rpartition("@")[2] for one in results[:2]}
    assert {one.get("header.d") for one in results if one.result == "pass"} <= {"", "e.example"}


def test_nothing_checked() -> None:
    assert authentication_results(OURS, Evidence(), mail()) == "mx.example.org;\n\tnone"


def test_the_null_sender_shows_helo() -> None:
    evidence = Evidence(spf=(Spf("mailfrom", "h.example", "pass"), Spf("helo", "h.example", "pass")))
    assert (
        authentication_results(OURS, evidence, mail("")) == "mx.example.org;\n\tspf=pass smtp.helo=h.example"
    )


def in_full(value: str) -> tuple[Result, ...]:
    """What a gateway behind us believes of our field, as it stands in the message."""
    return read_results(b" " + value.encode().replace(b"\n", b"\r\n"))[1]


def test_our_field_has_bounds() -> None:
    long = "x" * 250
    bad = [Dkim("permerror", long, long, long, long, long, reason=long)] * 60
    good = Dkim("pass", "example.com", "sel")
    value = authentication_results(OURS, Evidence(dkim=(*bad[:30], good, *bad[30:])), mail())
    assert 6_000 < len(value) < MAX_VALUE
    results = [result.result for result in in_full(value)]
    assert results.index("pass") == len(results) - 1  # the others, from the top
    assert set(results[:-1]) == {"permerror"}


@pytest.mark.parametrize("letter", ["\\", '"', "x", ";"])
def test_what_is_judged_of_a_sender_is_read_whatever_he_writes(letter: str) -> None:
    long = letter * 400
    evidence = Evidence(
        spf=(Spf("mailfrom", long, "permerror", long), Spf("helo", long, "permerror", long)),
        dkim=(Dkim("permerror", long, long, long, long, long, reason=long),) * 50,
        dmarc=Dmarc("permerror", long, policy="reject", reason=long),
        arc=Arc("pass", (long,), reason=long),
        iprev=Iprev("fail", long),
    )
    results = in_full(authentication_results("m" * 250, evidence, mail(long, login=long)))
    assert [one.method for one in results if one.method != "dkim"] == [
        "spf",
        "spf",
        "dmarc",
        "arc",
        "iprev",
        "auth",
    ]


def read_all(value: str) -> list[Result]:
    return [result for part in value.split(";\n\t")[1:] for result in read_results(f"x; {part}".encode())[1]]


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
    b" " + b"((x)" + b"x" * 9000 + b"(y(z))) mx.example.org; spf=pass",
    b" m(x(y)(z" + b"x" * 9000 + b"))x.example.org; spf=pass",
    b' "(" m(x(y))x.example.org ")"; spf=pass',
    b" m(\\))x.example.org; spf=pass",
    b" m(a\\(x)x.example.org; spf=pass",
    b" " + b"(" * 30 + b")" * 30 + b" mx.example.org; spf=pass",
    b" ; mx.example.org; dmarc=pass",
    b" ;;mx.example.org; dmarc=pass",
    b" =mx.example.org; dmarc=pass",
    b" v=1; mx.example.org; dmarc=pass",
    b" dkim=pass; mx.example.org; dmarc=pass",
    b" dkim=pass mx.example.org; dmarc=pass",
    b" , mx.example.org; dmarc=pass",
    b" <mx.example.org>; dmarc=pass",
    b" other.example, mx.example.org; dmarc=pass",
    b" other.example mx.example.org; dmarc=pass",
    b" other.example; mx.example.org; dmarc=pass",
    b" other.example; dkim=pass; =?us-ascii?q?mx=2Eexample.org?=; dmarc=pass",
    b" other.example; (x; mx.example.org; dmarc=pass",
    b" authserv-id=mx.example.org; dmarc=pass",
    " mx\uff0eexample\uff0eorg; dmarc=pass".encode(),
    " mx\u3002example\uff61org; dmarc=pass".encode(),
    " \uff4dx.example.org; dmarc=pass".encode(),
    " \uff2d\uff38.EXAMPLE.ORG; dmarc=pass".encode(),
    " mx.ex\u00adample.org; dmarc=pass".encode(),
    " mx.ex\u200bample.org; dmarc=pass".encode(),
    " mx.example\u2024org; dmarc=pass".encode(),
    b"\xa0mx.example.org; dmarc=pass",
    b"\xef\xbb\xbfmx.example.org; dmarc=pass",
    b" =?utf-8?q?mx?= =?utf-8?q?=2Eexample=2Eorg?=; dmarc=pass",
    b" =?utf-16be?b?AG0AeAAuAGUAeABhAG0AcABsAGUALgBvAHIAZw==?=; dmarc=pass",
    b" mx.example.=?us-ascii?q?org?=; dmarc=pass",
    b" =?utf-8?q?(x)mx=2Eexample=2Eorg?=; dmarc=pass",
]
OTHERS = [
    b" mx.example.net; spf=pass smtp.mailfrom=mx.example.org",
    b" mx.example.org.example.net; spf=pass",
    b" (mx.example.org) other.example; spf=pass",
    b" a-mx.example.org; spf=pass",
    b" spf=pass smtp.mailfrom=mx.example.org",
    b" spf=pass (sender IP is 192.0.2.1) smtp.mailfrom=mx.example.org;dmarc=pass action=none reason=100",
    b" other.example; spf=pass (mx.example.org: domain of a@mx.example.org) smtp.mailfrom=a@mx.example.org",
    b' other.example; dkim=neutral reason="mx.example.org; x" header.i=@mx.example.org',
    b" other.example; dmarc=pass action=none header.from=mx.example.org",  # malformed, but certain
    b" other.example 1; dkim=pass; smtp.mailfrom=a@mx.example.org;",
    " b\u00fccher.example; spf=pass smtp.mailfrom=mx.example.org".encode(),
    " mx.example.org\u00e9; spf=pass smtp.mailfrom=mx.example.org".encode(),
    b" other.example; spf=pass (" + b"x" * 9000 + b") smtp.mailfrom=mx.example.org",
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
    if b"(" * 30 not in value:  # whose comments nobody reads
        assert forged(fields, "mx.example.com") == ()


@pytest.mark.parametrize("value", OTHERS)
def test_fields_of_others_are_kept(value: bytes) -> None:
    assert forged([HeaderField("Authentication-Results", b"Authentication-Results:" + value)], OURS) == ()


def test_many_forged_fields() -> None:
    fields = [
        HeaderField("Authentication-Results", b"Authentication-Results:" + value) for value in FORGED * 20
    ]
    assert forged(fields, OURS) == tuple(range(1, len(fields) + 1))


def test_fields_beyond_the_budget_go_when_they_may_be_ours() -> None:
    long = HeaderField("Authentication-Results", b"Authentication-Results: other.example; " + b"x" * 40_000)
    kept = [b" other.example; spf=pass smtp.mailfrom=a@example.com", b' "other.example"; none']
    found = forged([long] + [HeaderField(NAME, NAME.encode() + b":" + value) for value in FORGED], OURS)
    assert found == tuple(range(2, len(FORGED) + 2))
    assert forged([long] + [HeaderField(NAME, NAME.encode() + b":" + value) for value in kept], OURS) == ()


PIECES_OF_FIELDS = [
    *[
        b"(",
        b'"',
        b"\\",
        b"(\\",
        b"=?",
        b"a ",
        b"()",
        b";",
        b'"a" ',
        b'="',
        b"\\(",
        b"(()())",
        b";;a",
        b"((a)",
    ],
    *[b"=?utf-8?q?", b"=?u?q?a?= ", b"x=y; ", b"; a.b", b"(" * 18 + b")" * 18, "\ufdfa".encode(), b"\xff"],
]


@pytest.mark.parametrize("start", [b"", b"; ", b"other.example; ", b"spf=pass; "])
def test_hostile_fields_are_cheap(start: bytes) -> None:
    for piece in PIECES_OF_FIELDS:
        for size, count in ((600, 50), (60_000, 20)):
            value = start + piece * (size // len(piece))
            fields = [HeaderField(NAME, NAME.encode() + b":" + value)] * count
            before = time.thread_time()
            forged(fields, OURS)
            assert time.thread_time() - before < 0.15, (piece, size)  # 0.03 where nothing else runs


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
    assert not name.isascii() or claimed == (name == OURS)
    assert all(result.method and result.result for result in results)


DISGUISES = st.sampled_from(
    [
        *[
            "mx.example.org",
            "mx.",
            "example.org",
            "MX.EXAMPLE.ORG",
            ";",
            " ",
            "(",
            ")",
            '"',
            "\\",
            "=",
            "\r\n ",
        ],
        *["other.example", "spf=pass", "v=1", ",", "<", ">", "/", "1", "x", "\u200b", "\u00ad", "\0", "\xa0"],
        *["=?utf-8?q?mx=2Eexample=2Eorg?=", "\uff4d\uff58\uff0eexample\u3002org"],
    ]
)


def lenient(text: str) -> Iterator[str]:
    """What careless readers may take for the authserv-id."""
    with contextlib.suppress(authres.AuthResError, AttributeError):
        yield authres.AuthenticationResultsHeader.parse(f"{NAME}: {' '.join(text.split())}").authserv_id
    yield text.split(";", maxsplit=1)[0].strip()
    bare = re.sub(r"\([^()]*\)", "", text)
    yield re.split(r"[;\s]", bare.lstrip(" ;=,\r\n"))[0].strip('"')
    shown = unicodedata.normalize("NFKC", bare).replace("\u3002", ".")
    yield "".join(one for one in shown if one.isprintable() or one == " ").partition(";")[0].strip()
    if "\\" not in text:  # which makes comments of what is none
        yield from (segment.strip() for segment in bare.split(";"))


@settings(deadline=None)
@given(st.lists(DISGUISES, max_size=8).map("".join))
def test_what_is_kept_is_nobodys_idea_of_ours(text: str) -> None:
    value = f"{text}; dmarc=pass"
    if forged([HeaderField(NAME, f"{NAME}:{value}".encode())], OURS) == ():
        assert OURS not in {name.lower().rstrip(".") for name in lenient(value)}


VALUES = st.sampled_from(["a@mx.example.org", "mx.example.org", '"mx.example.org; x"', "x"])
COMMENTS = st.sampled_from(["", "(mx.example.org)", "(a (mx.example.org;) b)", "(\\) mx.example.org)"])
RESULTS = st.builds(
    "{} spf=pass {} reason={} {} smtp.mailfrom={} {}".format,
    *(COMMENTS, COMMENTS, VALUES, COMMENTS, VALUES, COMMENTS),
)


@settings(deadline=None)
@given(
    COMMENTS,
    st.sampled_from(["other.example", '"other.example"', "mx.example.org.example", "other.example 1"]),
    st.lists(RESULTS, min_size=1, max_size=3),
    st.sampled_from(["", ";", " ; "]),
)
def test_what_others_write_well_is_kept(comment: str, name: str, results: list[str], end: str) -> None:
    value = f"{comment} {name} {comment}; {'; '.join(results)}{end}"
    assert forged([HeaderField(NAME, f"{NAME}:{value}".encode())], OURS) == ()
