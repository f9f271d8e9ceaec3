# SPDX-License-Identifier: GPL-2.0-or-later
"""Header sections as received, printable text, encoded words, mailboxes."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.received_spf import NAME as RECEIVED_SPF
from gateway.auth.results import NAME as RESULTS
from gateway.mail.addresses import mailboxes
from gateway.mail.charsets import codec_of, decode, decode_extended, decode_words
from gateway.mail.headers import _NEEDED, MAX_FIELDS, hides_from, printable, split
from gateway.mail.mime import parse
from gateway.mail.types import HeaderField
from gateway.policy.annotate import OURS

PRINTABLE = {
    "plain": ("Hello, world", "Hello, world"),
    "line breaks": ("a\r\nb\tc", "a  b c"),
    "escape": ("\x1b[31mred\x1b]0;x\x07", "?[31mred?]0;x?"),
    "nul": ("a\0b", "a?b"),
    "right to left": ("a\u202egpj.exe", "a?gpj.exe"),
    "line separators": ("a\u2028b\u2029c\x85d", "a?b?c?d"),
    "zero width": ("a\u200bb\ufeffc", "a?b?c"),
    "surrogate": ("a\udcffb", "a?b"),
    "no-break space": ("a\u00a0b\u3000c", "a b c"),
    "letters stay": ("Grüße, Ελλάδα, 日本", "Grüße, Ελλάδα, 日本"),
}


@pytest.mark.parametrize("name", PRINTABLE)
def test_printable(name: str) -> None:
    text, expected = PRINTABLE[name]
    assert printable(text) == expected


def test_printable_cuts_and_says_so() -> None:
    assert printable("x" * 300) == "x" * 197 + "..."
    assert printable("x" * 200) == "x" * 200
    assert printable("abcdef", 2) == ".."


def test_printable_ascii() -> None:
    assert printable("Grüße\n", ascii_only=True) == "Gr??e "


@given(st.text(max_size=400), st.integers(0, 100), st.booleans())
def test_printable_is_always_safe(text: str, limit: int, ascii_only: bool) -> None:
    safe = printable(text, limit, ascii_only=ascii_only)
    assert len(safe) <= limit
    assert safe.isprintable()
    assert not ascii_only or safe.isascii()


SECTIONS = {
    "plain": (b"A: 1\r\nB:2\r\n\r\nbody", [("A", b" 1"), ("B", b"2")], b"body"),
    "folded": (b"A: 1\r\n\t2\r\n 3\r\nB: x\r\n\r\n", [("A", b" 1\r\n\t2\r\n 3"), ("B", b" x")], b""),
    "space before the colon": (b"A \t: 1\r\n\r\nb", [("A", b" 1")], b"b"),
    "LF": (b"A: 1\nB: 2\n\nbody\n", [("A", b" 1"), ("B", b" 2")], b"body\n"),
    "no empty line": (b"A: 1\r\nno field\r\n\r\nx", [("A", b" 1")], b"no field\r\n\r\nx"),
    "mbox": (b"From a@b Mon\r\nA: 1\r\n\r\nx", [("A", b" 1")], b"x"),
    "no body": (b"A: 1", [("A", b" 1")], b""),
    "no header": (b"\r\nx", [], b"x"),
    "8-bit, NUL, CR stay": (b"A: \xff\0\rx\r\n\r\n", [("A", b" \xff\0\rx")], b""),
    "empty value": (b"A:\r\nB:\r\n\r\n", [("A", b""), ("B", b"")], b""),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_split(name: str) -> None:
    raw, fields, body = SECTIONS[name]
    section = split(raw)
    assert [(f.name, f.value) for f in section.fields] == fields
    assert raw[section.body_start :] == body


@given(st.binary(max_size=300))
def test_split_loses_nothing(raw: bytes) -> None:
    section = split(raw)
    rebuilt = b"".join(raw[first:after] for first, after in section.spans)
    assert raw == raw[: section.start] + rebuilt + raw[section.end :]
    assert section.end <= section.body_start <= len(raw)


def test_split_bounds_the_fields() -> None:
    section = split(b"A: 1\r\n" * (MAX_FIELDS + 1))
    assert section.truncated
    assert len(section.fields) == MAX_FIELDS


def test_what_matters_is_found_behind_the_last_field_that_is_kept() -> None:
    hidden = b"Authentication-Results:\r\n mx.example.org; spf=pass\r\nX: y\r\nFROM : a@example.com\r\n"
    raw = b"A: 1\r\n" * 6_000 + hidden + b" b\r\nX-Spam-Flag: NO\r\n\r\nFrom: in the body\r\n"
    section = split(raw)
    assert section.truncated
    assert [(field.name, field.value) for field in section.fields[MAX_FIELDS:]] == [
        ("Authentication-Results", b"\r\n mx.example.org; spf=pass"),
        ("FROM", b" a@example.com\r\n b"),
        ("X-Spam-Flag", b" NO"),
    ]
    assert raw[section.end :] == b"\r\nFrom: in the body\r\n"
    assert raw[section.body_start :] == b"From: in the body\r\n"
    first, after = section.spans[-1]
    assert raw[first:after] == b"X-Spam-Flag: NO\r\n"
    assert all(re.match(_NEEDED, name.encode() + b": x") for name in (*OURS, RESULTS, RECEIVED_SPF))


@pytest.mark.parametrize(
    "raw",
    [b"a:\n" * 1_000_000, b"From:\n" * 500_000, b"a:" + b"\n x" * 1_000_000, b"A: 1\n" * 5001 + b"x" * 10**6],
)
def test_many_fields_cost_little(raw: bytes) -> None:
    start = time.thread_time()
    section = split(raw)
    assert section.truncated
    assert len(section.fields) <= 2 * MAX_FIELDS
    assert time.thread_time() - start < 0.5


def test_a_field_that_is_cut_is_a_limit() -> None:
    assert split(b"A: " + b"x" * 1_000_000 + b"\r\n\r\n").truncated
    assert not split(b"A: " + b"x" * 100_000 + b"\r\n\r\n").truncated


WORDS = {
    "none": ("plain = text ?=", "plain = text ?="),
    "q": ("=?utf-8?q?a=C3=A4_b?=", "aä b"),
    "b": ("=?UTF-8?B?w6Q=?= x", "ä x"),
    "space between is dropped": ("=?utf-8?q?a?=\t =?utf-8?q?b?= c", "ab c"),
    "a character in two": ("=?utf-8?q?=C3?= =?utf-8?q?=A4?=", "ä"),
    "two charsets": ("=?utf-8?q?a?= =?koi8-r?B?8PLJ?=", "aПРи"),
    "language": ("=?utf-8*de?q?a?=", "a"),
    "unknown charset": ("=?zlib_codec?b?eJw=?=", "x\x9c"),
    "padding missing": ("=?utf-8?b?YWI?=", "ab"),
    "open": ("=?utf-8?q?a", "=?utf-8?q?a"),
}


@pytest.mark.parametrize("name", WORDS)
def test_encoded_words(name: str) -> None:
    text, expected = WORDS[name]
    assert decode_words(text) == expected


@pytest.mark.parametrize(
    "label", ["zlib_codec", "rot13", "idna", "punycode", "unicode_escape", "base64", "hex"]
)
def test_codecs_that_are_no_charset(label: str) -> None:
    assert codec_of(label) == ""
    assert decode(b"\xff", label) == "ÿ"


CHARSETS = {
    "utf-7": (b"+AOQ-", "utf-7", "ä"),
    "utf-16 without mark": ("ab".encode("utf-16-be"), "utf-16", "ab"),
    "utf-16 little end": ("ab".encode("utf-16-le"), "UTF16", "ab"),
    "wrong label": (b"\xc3\xa4", "us-ascii", "ä"),
    "latin-1": (b"\xe4", "", "ä"),
    "windows": (b"\x80", "windows-1252", "€"),
    "gb2312": ("中".encode("gb18030"), "GB2312", "中"),
    "iso-2022-jp": ("日".encode("iso2022_jp"), "ISO-2022-JP", "日"),
}


@pytest.mark.parametrize("name", CHARSETS)
def test_charsets(name: str) -> None:
    data, label, expected = CHARSETS[name]
    assert decode(data, label) == expected


def test_extended_parameter() -> None:
    assert decode_extended(b"utf-8'en'%C3%A4.txt") == "ä.txt"
    assert decode_extended(b"it's%20") == "it's "


MAILBOXES = {
    "address": (b" a@example.com", [("", "a@example.com")]),
    "name": (b' "Doe, J." <j@example.com>', [("Doe, J.", "j@example.com")]),
    "comment": (b" j@example.com (J (x) Doe)", [("J (x) Doe", "j@example.com")]),
    "several": (b" a@x.example, B <b@x.example>", [("", "a@x.example"), ("B", "b@x.example")]),
    "group": (b" Friends: a@x.example, b@x.example;", [("", "a@x.example"), ("", "b@x.example")]),
    "encoded": (b" =?utf-8?q?J=C3=BCrgen?= <j@x.example>", [("Jürgen", "j@x.example")]),
    "address as name": (b" ceo@x.example <a@evil.example>", [("ceo@x.example", "a@evil.example")]),
    "quoted address as name": (b' "ceo@x.example" <a@evil.example>', [("ceo@x.example", "a@evil.example")]),
    "route": (b" <@a.example,@b.example:c@d.example>", [("", "c@d.example")]),
    "folded": (b" A\r\n\t<a@x.example>", [("A", "a@x.example")]),
    "no end": (b" A <a@x.example", [("A", "a@x.example")]),
    "only a name": (b" undisclosed", [("undisclosed", "")]),
    "nothing": (b" ", []),
    "two in one": (b" <a@x.example><b@x.example>", [("", "a@x.example")]),
}


@pytest.mark.parametrize("name", MAILBOXES)
def test_mailboxes(name: str) -> None:
    value, expected = MAILBOXES[name]
    assert list(mailboxes([HeaderField("From", b"From:" + value)])) == expected


@pytest.mark.parametrize(
    "hostile", [b"(" * 50_000, b"<" * 50_000, b'"' * 50_000, b"a@b," * 12_000, b"\\" * 50_000]
)
def test_mailboxes_in_linear_time(hostile: bytes) -> None:
    started = time.process_time()
    mailboxes([HeaderField("From", b"From:" + hostile)])
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("empty", [b'""', b"<>", b"()", b","])
def test_many_fields_without_a_mailbox_cost_no_more_than_one(empty: bytes) -> None:
    fields = [HeaderField("From", b"From:" + empty * 2_000)] * 5_000
    started = time.process_time()
    assert mailboxes([*fields, HeaderField("From", b"From: a@example.com")]) == ()
    assert time.process_time() - started < 0.5


@given(st.binary(max_size=100))
def test_mailboxes_never_raise(value: bytes) -> None:
    for name, address in mailboxes([HeaderField("From", b"From:" + value)]):
        assert name or address


@pytest.mark.parametrize(
    ("raw", "hidden"),
    [
        (b"From: a\r\nTo: b\r\n\r\nFrom: c\r\n", False),
        (b"To: b\r\n\r\nFrom: c\r\n", False),  # text, for everybody
        (b"To: b\r\n \r\nFrom: c\r\n\r\nx", False),  # folded: this From is ours
        (b"DKIM-Signature: v=1;\r\n h=\r\n from:to\r\nFrom: a\r\n\r\nx", False),
        (b"To: b\r\nno field\r\nDKIM-Signature: v=1;\r\n h=\r\n from:to\r\n\r\nx", False),
        (b"From: a\r\nTo: b\r\nno field, and no empty line\r\nwritten from: home is no name\r\n", False),
        (b"From: a\r\nHello\r\n\r\nFrom: c\r\n", False),
        (b"junk\r\nFrom: c\r\n\r\nx", True),
        (b"junk\nfrOM : c\n\nx", True),
        (b"From: a\r\njunk\r\nFrom: c\r\n\r\nx", True),  # some show the last one
        (b"\xef\xbb\xbfFrom: c\r\n\r\nx", True),
        (b"\xef\xbb\xbf\r\nFrom: c\r\n\r\nx", True),
        (b"\xff\xfeFrom: c\r\n\r\nx", True),
        (b"\0From: c\r\n\r\nx", True),
        (b"To: b\r\nFr\0om: c\r\n\r\nx", True),
        (b"To: b\r\nFrom\0: c\r\n\r\nx", True),
        (b"To: b\r\nFrom\xc2\xa0: c\r\n\r\nx", True),
        (b"To: b\r\n\x0b\r\nFrom: c\r\n\r\nx", True),
        (b" From: c\r\n\r\nx", True),
        (b" \r\nFrom: c\r\n\r\nx", True),
        (b"\r\nFrom: c\r\n\r\nx", True),
        (b"\r\n \r\n\t\r\nTo: b\r\nFrom: c\r\n\r\nx", True),
        (b"\r\nHello\r\n\r\nFrom: c\r\n", False),
        (b"To: b\rFrom: c\r\n\r\nx", True),
        (b"To: b\r\rFrom: c\r\n\r\nx", True),
        (b"junk\r\n" + b"x" * 1_000_001, False),
        (b"junk\r\n" + b"x" * 1_000_001 + b"\r\n\r\nx", True),
        (b"Subject: x\r\nhi there\r\nwords\r\nfrom : bob\r\nmore words\r\n", False),  # text, no empty line
        (b"Subject: x\r\nhi there\r\nFrom: bob\r\nTo: x\r\n", True),
        (b"Subject: x\r\nhi there\r\nmore\r\nFrom: bob\r\n \r\nText\r\n", True),
        (b"", False),
    ],
)
def test_a_from_that_some_readers_find(raw: bytes, hidden: bool) -> None:
    assert hides_from(raw, split(raw)) is hidden
    assert ("header-hidden-from" in parse(raw).ambiguities) is hidden


def test_looking_for_a_hidden_from_is_linear() -> None:
    for piece in (b"\r", b"\xff", b"\rfrom", b"\0", b"from ", b" \r\n", b"\r\n\xff"):
        raw = b"To: b\r\njunk" + piece * (900_000 // len(piece))
        section = split(raw)
        start = time.thread_time()
        hides_from(raw, section)
        assert time.thread_time() - start < 0.5  # 0.03 where nothing else runs
