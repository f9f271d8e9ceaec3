# SPDX-License-Identifier: GPL-2.0-or-later
"""HTML: words, hidden words, links; in linear time whatever comes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail import html, text
from gateway.mail.types import Url

WORDS = {
    "blocks": ("<p>one</p><p>two<br>three</p>", "one\ntwo\nthree"),
    "inline joins": ("V<b></b>ia<span>gra</span> now", "Viagra now"),
    "comments in words": ("Vi<!-- x -->agra", "Viagra"),
    "entities": ("a &lt;b&gt; &amp; &#228;&nbsp;c", "a <b> & ä c"),
    "script and style": ("a<script>x<p>y</script><style>p{}</style>b", "ab"),
    "script without end": ("a<script>x", "a"),
    "attribute with >": ('<a title="x>y" href="http://a.example">b</a>', "b"),
    "a stray <": ("1 < 2", "1 < 2"),
    "NUL": ("a\0b<b\0>c", "abc"),
}


@pytest.mark.parametrize("name", WORDS)
def test_words(name: str) -> None:
    markup, expected = WORDS[name]
    assert html.read(markup).text == expected


HIDDEN = [
    "<span style='display:none'>x</span>",
    "<div style='DISPLAY : None !important'><p>x</p></div>",
    "<div style='visibility:hidden'>x</div>",
    "<p style='font-size:0'>x</p>",
    "<p style='font-size: 0px; color: red'>x</p>",
    "<p style='opacity:0'>x</p>",
    "<p style='opacity: 0.0;'>x</p>",
    "<p hidden>x</p>",
    "<font size=0>x</font>",
    "<font color=#ffffff>x</font>",
    "<font color='white'>x</font>",
    "<div style='color:#fefefe'>x</div>",
    "<td bgcolor='#000000'><span style='color:black'>x</span></td>",
    "<div style='background:rgb(10,10,10)'><p style='color:#0a0a0a'>x</p></div>",
    "<div style='text-indent:-9999px'>x</div>",
    "<div style='position:absolute;left:-10000px'>x</div>",
    "<div style='max-height:0;overflow:hidden'>x</div>",
    "<div style='mso-hide:all'>x</div>",
]
SHOWN = [
    "<p style='font-size:10px'>x</p>",
    "<p style='font-size:0.9em'>x</p>",
    "<p style='opacity:0.8'>x</p>",
    "<td bgcolor=#003366><font color=white>x</font></td>",
    "<table background=a.png><td><font color=white>x</font></td></table>",
    "<div style='background:url(a.png)'><span style='color:#fff'>x</span></div>",
    "<p style='color:#333'>x</p>",
    "<p style='max-height:0'>x</p>",
    "<p style='background-color:white'>x</p>",
    "<div style='display:none'>y</div>x",
    "<p style='display:none'>y<p>x",
    "<div><span hidden>y</div>x",
    "<img style='display:none'>x",
]


@pytest.mark.parametrize("markup", HIDDEN)
def test_hidden(markup: str) -> None:
    page = html.read(f"<body>a {markup} b")
    assert (page.hidden, page.text.split()) == ("x", ["a", "b"])


@pytest.mark.parametrize("markup", SHOWN)
def test_shown(markup: str) -> None:
    assert "x" in html.read(f"<body>{markup}").text


LINKS = {
    "words": (
        "<a href='http://a.example/?b&amp;c'>go <b>now</b></a>",
        [Url("http://a.example/?b&c", "go now")],
    ),
    "no quotes": ("<A HREF=http://a.example>x</A>", [Url("http://a.example", "x")]),
    "broken by a line": ("<a href='http://a.exa\r\nmple'>x</a>", [Url("http://a.example", "x")]),
    "others": (
        "<img src=http://i.example/a.gif><form action=http://f.example><iframe src=//g.example></iframe>",
        [Url("http://i.example/a.gif"), Url("http://f.example")],
    ),
    "inner ones": ("<a href='#top'>x</a><img src=cid:1>", []),
    "no end": (
        "<a href=http://a.example>x<a href=http://b.example>y",
        [Url("http://a.example", "x"), Url("http://b.example", "y")],
    ),
    "first attribute counts": (
        "<a href=http://a.example href=http://b.example>x</a>",
        [Url("http://a.example", "x")],
    ),
}


@pytest.mark.parametrize("name", LINKS)
def test_links(name: str) -> None:
    markup, expected = LINKS[name]
    assert list(html.read(markup).urls) == expected


TEXT_LINKS = {
    "sentence": (
        "See http://a.example/b. And (https://c.example/d_(e))!",
        ["http://a.example/b", "https://c.example/d_(e)"],
    ),
    "www": ("go to www.a.example, now", ["www.a.example"]),
    "in angle brackets": ("<ftp://a.example/x>", ["ftp://a.example/x"]),
    "none": ("no://link, not.www.a.example/x, www", []),
    "once": ("http://a.example http://a.example", ["http://a.example"]),
}


@pytest.mark.parametrize("name", TEXT_LINKS)
def test_links_in_text(name: str) -> None:
    words, expected = TEXT_LINKS[name]
    assert text.urls(words) == expected


HOSTILE = {
    "deep": "<div>" * 200_000,
    "attributes": "<div " + "".join(f"a{i}=b " for i in range(100_000)) + ">",
    "formatting": "<p>" + "".join(f"<b a={i}>" for i in range(20_000)) + "</p><p>x" * 20_000,
    "angles": "<" * 1_000_000,
    "comments": "<!--" * 250_000,
    "scripts": "<script>" * 120_000,
    "quotes": "<a b='" * 160_000,
    "equals": "<a " + "=" * 900_000,
    "entities": "&amp" * 250_000,
    "spaces": " \n" * 500_000,
    "ends": "<i>" * 1_000 + "</b>" * 200_000,
    "urls": "http://" * 140_000,
    "www": "www." * 250_000,
    "hiding": "<p style='" + "font:a a a " * 80_000 + "'>x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_linear(name: str) -> None:
    started = time.process_time()
    page = html.read(HOSTILE[name])
    text.urls(HOSTILE[name])
    assert time.process_time() - started < 2
    assert len(page.urls) <= html.MAX_URLS


@given(st.text(alphabet="<>/='\" abp!-hrefstyle:none;&#\n\0", max_size=200))
def test_never_raises(markup: str) -> None:
    page = html.read(markup)
    assert "\0" not in page.text + page.hidden
