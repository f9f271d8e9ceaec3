# SPDX-License-Identifier: GPL-2.0-or-later
"""Spellings of domains: one name for each, and none where programs read another one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail.domains import domain_of, matches, normal, readings, to_ascii


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("Bücher.Example.", "xn--bcher-kva.example"),
        ("B\u00fcCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),  # composed before it is encoded
        ("_dmarc.bücher.example", "_dmarc.xn--bcher-kva.example"),
        ("ｅxample。com", "example.com"),
        ("xn--fa-hia.example", "xn--fa-hia.example"),
        ("faß.example", None),  # "fass.example" by IDNA2003
        ("FAẞ.example", None),
        ("βόλος.example", None),
        ("exam\u200dple.com", None),
        ("exam\u200cple.com", None),
        ("i♥ny.example", None),  # no letter, by IDNA2008
        ("bank.com℀.example", None),
        ("é\0.example", None),
        ("a" * 64, None),
        ("é" * 300, None),
        ("a..example", None),
        ("", None),
        (".", None),
    ],
)
def test_names(domain: str, name: str | None) -> None:
    assert to_ascii(domain) == name


def test_what_is_compared_has_one_spelling() -> None:
    assert normal("FAß.Example.") == "xn--fa-hia.example"
    assert domain_of("a@FAß.example") == "xn--fa-hia.example"
    assert normal("i♥ny.example") == "i♥ny.example"
    assert matches("faß.example", ("faß.example",))
    assert not matches("faß.example", ("fass.example",))
    assert not matches("fass.example", (".faß.example", "faß.example"))


def test_all_readings_are_known() -> None:
    assert readings("faß.example") == ("xn--fa-hia.example", "fass.example")
    assert readings("exam\u200dple.com") == ("example.com",)
    assert readings("bücher.example") == ("xn--bcher-kva.example",)
    assert readings("\ud800.example") == ()


def test_long_domains_cost_little() -> None:
    start = time.thread_time()
    for domain in ("é" * 1_000_000, "é." * 120, "\u0301" * 250, "ß" * 250):
        to_ascii(domain)
        normal(domain)
        readings(domain)
    assert time.thread_time() - start < 0.2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A.B.", "a.b"),
        ("a.b\u3002", "a.b"),  # IDNA's full stops
        ("B\xfccher.example\uff0e", "xn--bcher-kva.example"),
        ("a.b..", "a.b.."),
        ("..", ".."),
        (".", ""),
    ],
)
def test_one_final_dot_is_left_out(text: str, name: str) -> None:
    assert normal(text) == name
    assert normal(name) == name


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_none(text: str) -> None:
    name = to_ascii(text)
    assert name is None or (name.isascii() and to_ascii(name) == name)
    assert all(one.isascii() for one in readings(text))
    assert normal(normal(text)) == normal(text)
