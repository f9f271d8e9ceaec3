# SPDX-License-Identifier: GPL-2.0-or-later
"""Features: what is read of a message, what is left out, and that hostile text costs no time."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.classifier.features import TEXT_LIMIT, extract, key, readable
from gateway.mail.mime import parse
from gateway.mail.types import Content, Text, Url


def content(
    text: str = "",
    subject: str = "",
    urls: Sequence[tuple[str, ...]] = (),
    sender: tuple[str, str] = ("", ""),
) -> Content:
    return Content(
        fields=(),
        body_start=0,
        subject=subject,
        from_addresses=(sender,) if sender[1] else (),
        texts=(Text("plain", text),),
        urls=tuple(Url(*url) for url in urls),
    )


def test_words_are_folded_and_distinct() -> None:
    found = extract(content("Free FREE ｆｒｅｅ 2024 call\u200ber", subject="Re: [list] Offer today"))
    assert {"w:free", "w:0000", "w:caller", "w:offer"} <= set(found.text)
    assert {"s:offer", "s:today", "s:offer today"} <= set(found.text)
    assert not {"s:re", "s:list", "w:list"} & set(found.text)
    assert len(found.text) == len(set(found.text))
    assert all(name.startswith("w:") for name in found.text[: found.words])


def test_links_and_addresses_are_no_words() -> None:
    found = extract(content("see http://shop.example.com/deal or bob@example.com now"))
    assert set(found.text) == {"w:see", "w:or", "w:now"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (("http://192.0.2.7/a",), "url:address for host"),
        (("http://user@www.example.com/",), "url:login"),
        (("http://example.com:8080/",), "url:port"),
        (("http://www.example.net/", "https://www.example.com/login"), "url:shows another site"),
        (("https://mail.example.org/x",), "url:site of sender"),
        (("www.example.com/path",), "url:host example.com"),
    ],
)
def test_link_shapes(url: tuple[str, ...], expected: str) -> None:
    found = extract(content(urls=[url], sender=("Ann", "ann@example.org")))
    assert expected in found.shape


def test_what_only_a_collection_knows_is_left_out() -> None:
    head = b"From: a@example.com\r\nTo: b@example.net\r\nSubject: hello\r\n"
    extra = (
        b"List-Id: <x.example.org>\r\nX-Spam-Status: Yes\r\nReceived: from mx.example.org\r\n"
        b"In-Reply-To: <1@x>\r\nReferences: <1@x>\r\n"
        b"Date: Mon, 1 Jan 2001 00:00:00 +0000\r\nPrecedence: bulk\r\nAuthentication-Results: x; spf=pass\r\n"
    )
    assert extract(parse(head + b"\r\nhi\r\n")) == extract(parse(head + extra + b"\r\nhi\r\n"))


def test_recipient_named_in_the_subject() -> None:
    raw = b"From: x@example.com\r\nTo: Bob <bob7@example.net>\r\nSubject: bob7, a gift\r\n\r\nhi\r\n"
    assert "to:named in subject" in extract(parse(raw)).shape


def test_text_beyond_the_limit_is_not_read() -> None:
    found = extract(content("a " * TEXT_LIMIT + "hidden"))
    assert "w:hidden" not in found.text


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "@" * 200_000, "://" * 70_000, "www." * 50_000, "\u200b" * 200_000, "ﷺ" * 50_000]
)
def test_hostile_text_costs_little(text: str) -> None:
    started = time.process_time()
    extract(content(text, subject=text, urls=[(text, text)] * 3, sender=(text, text)))
    assert time.process_time() - started < 0.5


@given(st.text(), st.text(), st.text(), st.text())
def test_any_text_gives_hashable_features(text: str, subject: str, name: str, address: str) -> None:
    found = extract(content(text, subject, [(text, subject)], (name, address)))
    for feature in found.text + found.shape:
        assert 0 <= key(feature) < 1 << 32
        assert readable(feature).isprintable()


def test_lone_surrogates_are_hashed() -> None:
    assert key("w:\udc80") != key("w:\udc81")
