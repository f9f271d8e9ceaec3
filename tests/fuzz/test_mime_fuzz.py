# SPDX-License-Identifier: GPL-2.0-or-later
"""The MIME reader on hostile messages: no exception, linear time, and a file never read as nothing.

`MAILWARDEN_FUZZ` sets how many examples each property tries; the default keeps the suite quick.
"""

from __future__ import annotations

import base64
import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.mail import html, names
from gateway.mail.mime import parse
from gateway.mail.reasons import AMBIGUITIES, DEFECTS
from gateway.mail.urls import place

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = int(os.environ.get("MAILWARDEN_FUZZ", "300"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

HEADER = b"From: a@example.com\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
MULTIPART = HEADER + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
HTML = HEADER + b"Content-Type: text/html\r\n\r\n"
FILE = HEADER + b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: "


def nested(depth: int) -> bytes:
    levels = (
        b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (i, i) for i in range(depth)
    )
    ends = (b"--b%d--\r\n" % i for i in range(depth - 1, -1, -1))
    return HEADER + b"".join(levels) + b"\r\nhello\r\n" + b"".join(ends)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "20,000 multiparts in one another": lambda: nested(20_000),
    "100,000 messages in one another": lambda: HEADER + b"Content-Type: message/rfc822\r\n\r\n" * 100_000,
    "100,000 parts": lambda: MULTIPART + b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n" * 100_000,
    "300,000 empty parts": lambda: MULTIPART + b"--b\r\n" * 300_000,
    "100,000 odd delimiters": lambda: MULTIPART + b"--b x\r\nContent-Type: text/plain\r\n\r\nx\r\n" * 100_000,
    "one boundary at every depth": lambda: MULTIPART + (b"--b\r\n" + MULTIPART) * 30_000,
    "a boundary of dashes": lambda: MULTIPART.replace(b"boundary=b", b'boundary="-"') + b"-" * 4_000_000,
    "60,000 undeclared boundaries": lambda: (
        HEADER
        + b"\r\n"
        + b"".join(
            b"--a%d\r\nContent-Type: multipart/mixed; boundary=a%d\r\n\r\n" % (i, i + 1)
            for i in range(60_000)
        )
    ),
    "a field of 4 MB": lambda: b"Subject: " + b"a" * 4_000_000 + b"\r\n\r\nx",
    "a field of 1,000,000 lines": lambda: b"Subject: " + b"a\r\n " * 1_000_000 + b"\r\n\r\nx",
    "700,000 fields": lambda: b"X: y\r\n" * 700_000 + b"\r\nx",
    "a line of 4 MB": lambda: b"x" * 4_000_000 + b"\r\n\r\nx",
    "50,000 encoded words": lambda: HEADER + b"Subject: " + b"=?utf-8?q?a=C3=A4?= " * 50_000 + b"\r\n\r\nx",
    "50,000 encoded words in From": lambda: b"From: " + b"=?utf-8?b?YWJj?= " * 50_000 + b"<a@b>\r\n\r\nx",
    "20,000 parameters": lambda: (
        HEADER
        + b"Content-Type: multipart/mixed"
        + b"".join(b"; p%d=x" % i for i in range(20_000))
        + b"; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"
    ),
    "20,000 boundaries": lambda: (
        HEADER
        + b"Content-Type: multipart/mixed"
        + b"".join(b"; boundary=b%d" % i for i in range(20_000))
        + b"\r\n\r\n"
        + b"--b1\r\n\r\nx\r\n" * 100_000
    ),
    "20,000 Content-Types": lambda: (
        HEADER
        + b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n" % i for i in range(20_000))
        + b"\r\n"
        + b"--b1\r\n\r\n" * 10_000
    ),
    "comments": lambda: (
        HEADER + b"Content-Type: " + b"(" * 100_000 + b")" * 100_000 + b"multipart/mixed; boundary=b\r\n\r\nx"
    ),
    "base64 full of padding": lambda: FILE + b"base64\r\n\r\n" + b"YWJj=-\r\n" * 250_000,
    "20 MB of bad base64": lambda: FILE + b"base64\r\n\r\n" + b"YWJj=-\r\n" * 2_500_000,
    "bad quoted-printable": lambda: FILE + b"quoted-printable\r\n\r\n" + b"=x= \r\n" * 330_000,
    "uuencode": lambda: HEADER + b"\r\n" + b"begin 644 a\r\n" * 300_000,
    "yEnc": lambda: HEADER + b"\r\n=ybegin line=128 name=a\r\n" + b"=a" * 2_000_000,
    "BinHex": lambda: (
        HEADER + b"\r\n(This file must be converted with BinHex 4.0)\r\n:" + b"!N!N" * 1_000_000 + b":"
    ),
    "base64 at each line": lambda: HEADER + b"\r\n" + b"UEsDBBQA\r\n" * 400_000,
    "dashes at each line": lambda: HEADER + b"\r\n" + b"--a\r\n" * 800_000,
    "misnested HTML": lambda: (
        HTML + b"<p>" + b"".join(b"<b a=%d>" % i for i in range(30_000)) + b"</p><p>x" * 30_000
    ),
    "HTML, deep": lambda: HTML + b"<div>" * 800_000,
    "HTML attributes": lambda: HTML + b"<div " + b"".join(b"a%d=b " % i for i in range(100_000)) + b">",
    "UTF-7": lambda: HEADER + b"Content-Type: text/plain; charset=utf-7\r\n\r\n" + b"+\xff-" * 1_300_000,
    "HZ": lambda: HEADER + b"Content-Type: text/plain; charset=hz\r\n\r\n" + b"~{\xff" * 1_300_000,
    "bare CR": lambda: HEADER + b"Content-Type: text/plain\r" * 100_000 + b"\r\n\r\nx",
    "NUL": lambda: b"\0" * 4_000_000,
    "CR": lambda: b"\r" * 4_000_000,
    "LF": lambda: b"\n" * 4_000_000,
    "spaces": lambda: b" " * 4_000_000,
    "mended headers": lambda: (
        MULTIPART
        + (b"--b\r\nX: y\r\n \r\nContent-Type: application/x\r\n\r\n" + b"z" * 2_000 + b"\r\n") * 1_900
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_two_seconds_at_most(name: str) -> None:
    raw = HOSTILE[name]()
    started = time.process_time()
    parse(raw)
    assert time.process_time() - started < 2


PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\r\n ",
        b"\0",
        b"--b",
        b"--b--",
        b"--",
        b"\r\n--b\r\n",
        b"Content-Type: ",
        b"Content-Type: multipart/mixed; boundary=b\r\n",
        b"Content-Type: message/rfc822\r\n\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"Content-Transfer-Encoding: x-uuencode\r\n",
        b"Content-Disposition: attachment; filename*0*=utf-8''%41; filename*1=b\r\n",
        b"text/html",
        b"<a href='http://x'>",
        b"<style='display:none'>",
        b"boundary=",
        b"boundary*=''",
        b'"',
        b"\\",
        b"(",
        b")",
        b";",
        b"=?utf-8?b?YQ==?=",
        b"=41",
        b"=\r\n",
        b"QUJD",
        b"UEsDBBQA",
        b"begin 644 a\r\n",
        b"=ybegin line=1 name=a\r\n",
        b"From: a@b",
        b"Subject: x",
        b": ",
        b" ",
    ]
)


@fuzzed
@given(st.lists(st.one_of(PIECES, st.binary(max_size=6)), max_size=60))
def test_never_raises(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    content = parse(raw)
    assert content.body_start <= len(raw)
    assert all(f.raw in raw for f in content.fields)
    assert set(content.ambiguities) <= set(AMBIGUITIES)
    assert set(content.defects) <= set(DEFECTS)


MARKUP = st.sampled_from(
    (
        *(
            "<a href=",
            "<p style='",
            "display:none",
            "color:#fff",
            "font-size:0",
            "<div hidden>",
            "</a>",
            "</div>",
        ),
        *(
            "<!--",
            "-->",
            "<script>",
            "</script",
            "<style>",
            "<img src=",
            "<font size=0>",
            "&amp;",
            "&#x41;",
            "&#0;",
        ),
        *(
            "http://a.example/",
            "javascript:",
            "'",
            '"',
            ">",
            "<",
            "/",
            "=",
            " ",
            "\n",
            "\0",
            "x",
            "\u202e",
            "<td bgcolor=",
        ),
        *(
            "rgb(255,255,255)",
            ";",
            "<base href=",
            "&#9999999999;",
            "<svg>",
            "<title>",
            "<o:p>",
            "&nbsp",
            "\xa0",
            "\ud800",
        ),
    )
)


@fuzzed
@given(st.lists(st.one_of(MARKUP, st.text(max_size=4)), max_size=60).map("".join))
def test_any_markup_is_read(markup: str) -> None:
    page = html.read(markup)
    # an entity may become two characters, and each line ends
    assert len(page.text) + len(page.hidden) <= 2 * len(markup) + 2
    assert all(len(url.target) <= html.MAX_TARGET and len(url.shown) <= html.MAX_SHOWN for url in page.urls)
    for url in page.urls:
        place(url.target)


FIELD_PIECES = st.sampled_from(
    (
        *(
            b"attachment",
            b"; filename=",
            b"; filename*=utf-8''",
            b"; filename*0=",
            b"; filename*1*=",
            b"; name=",
        ),
        *(
            b'"a.zip"',
            b"a.exe",
            b"%41%2e",
            b"=?utf-8?q?a=2Eexe?=",
            b"=?utf-7?b?YQ==?=",
            b"\\",
            b'"',
            b"(x)",
            b";",
            b"'",
        ),
        *(
            b"\xe2\x80\xae",
            b"\0",
            b" ",
            b"\t",
            b"\r\n ",
            b"\xff",
            b".",
            b"con",
            b":x",
            b"../",
            b"C:\\",
            b"=",
            b"*",
        ),
    )
)


@fuzzed
@given(st.lists(st.one_of(FIELD_PIECES, st.binary(max_size=4)), max_size=30).map(b"".join))
def test_any_name_is_read(value: bytes) -> None:
    raw = b"Content-Type: application/x" + value + b"\r\nContent-Disposition: " + value + b"\r\n\r\nx"
    for attachment in parse(raw).attachments:
        assert len(attachment.names) <= names.MAX_NAMES
        for name in attachment.names:
            normal = names.normal(name)
            assert len(names.extensions(name)) <= 3
            assert not set("/\\\0\r\n\u202e").intersection(normal)
            names.is_device(name)


STRING = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
INFECTED = (
    MULTIPART
    + b"--b\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nhello\r\n"
    + b'--b\r\nContent-Type: application/octet-stream; name="a.com"\r\n'
    + b'Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename="a.com"\r\n\r\n'
)
PAYLOAD = base64.encodebytes(STRING).replace(b"\n", b"\r\n") + b"--b--\r\n"
SPOILERS = st.sampled_from(
    (
        *(
            b"\0",
            b"\t",
            b" ",
            b"\x0b",
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n ",
            b"\r\n\r\n",
            b'"',
            b"(",
            b")",
            b"(x)",
        ),
        *(b";", b",", b"\\", b"=", b":", b"\xa0", b"-", b"--", b"x", b"\x7f", b"\xff", b"=?utf-8?q?x?="),
    )
)


@fuzzed
@given(st.lists(st.tuples(st.integers(len(HEADER), len(INFECTED)), SPOILERS), min_size=1, max_size=1))
def test_a_spoiled_structure_hides_nothing(spoils: list[tuple[int, bytes]]) -> None:
    """What is put into the structure around a file, it is found or the message is marked."""
    raw = INFECTED
    for at, piece in sorted(spoils, reverse=True):
        raw = raw[:at] + piece + raw[at:]
    content = parse(raw + PAYLOAD)
    scanned = [*content.readings, *(a.data for a in content.attachments)]
    assert any(STRING in data for data in scanned) or content.ambiguities or content.limits
