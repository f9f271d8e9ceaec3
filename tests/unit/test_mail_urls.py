# SPDX-License-Identifier: GPL-2.0-or-later
"""Links as browsers read them, and letters that look like others."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.mail.confusables import deceptive, drawn, skeleton
from gateway.mail.urls import inner, ipv4, place, unicode_host

HOSTS = {
    "https://www.example.com/x": "www.example.com",
    "HTTP://WWW.Example.COM:80": "www.example.com",
    "http://example.com.": "example.com",
    "http:\\\\example.com\\x": "example.com",
    "http:/example.com": "example.com",
    "https:example.com/": "example.com",
    "http://////example.com": "example.com",
    "//example.com/x": "example.com",
    "www.example.com/x": "www.example.com",
    "www.example.com:80/x": "www.example.com",
    " \t http://exa\r\nmple.com": "example.com",
    "http://b%61nk.example/": "bank.example",
    "http://ｂank。example/": "bank.example",
    "http://user:word@example.com/": "example.com",
    "http://example.net@example.com/": "example.com",
    "http://example.com\\@example.net/": "example.com",
    "http://a@b@example.com?x@y": "example.com",
    "http://example.com#@example.net": "example.com",
    "http://[2001:db8::1]:80/": "2001:db8::1",
    "http://[::ffff:192.0.2.1]/": "192.0.2.1",
    "http://0300.0.2.1/": "192.0.2.1",
    "http://0xC0000201/": "192.0.2.1",
    "http://3221225985": "192.0.2.1",
    "http://127.1/": "127.0.0.1",
    "http://%31%32%37.1/": "127.0.0.1",
    "http://[junk]/": "",
    "javascript:alert(1)": "",
    "mailto:a@example.com": "",
}


@pytest.mark.parametrize("url", HOSTS)
def test_host(url: str) -> None:
    found = place(url)
    assert found is not None
    assert found.host == HOSTS[url]


@pytest.mark.parametrize("text", ["", "example.com", "x", "/path", "?q", "\0"])
def test_no_link(text: str) -> None:
    assert place(text) is None


def test_addresses_are_told_from_names() -> None:
    for url, disguised in (
        ("http://192.0.2.1/", False),
        ("http://192.0.513/", True),
        ("http://[::1]/", False),
    ):
        found = place(url)
        assert found is not None
        assert (found.address, found.disguised) == (True, disguised)
    for host in ("999.1.1.1", "1.2.3.4.5", "0xg", "08.1.1.1", "256.256", "1.2.3.x", "", "."):
        assert ipv4(host) is None


@given(st.integers(0, 2**32 - 1))
def test_every_form_of_an_address(number: int) -> None:
    expected = str(ipaddress.IPv4Address(number))
    parts = expected.split(".")
    forms = [expected, str(number), hex(number), f"0{number:o}", ".".join(f"0{int(p):o}" for p in parts)]
    forms.append(f"{parts[0]}.{number & 0xFFFFFF}")
    assert [ipv4(form) for form in forms] == [expected] * len(forms)


@given(st.text() | st.text(alphabet="htp:/\\@.[]%0x1a#?\t"))
@example("http://" + "." * 500)
@example("http://[" + ":" * 500)
def test_place_never_raises(text: str) -> None:
    for url in (text, f"http://{text}", f"https:{text}"):
        found = place(url)
        if found is not None:
            assert len(found.host) <= 255
            inner(found.rest)
            unicode_host(found.host)


@pytest.mark.parametrize(
    ("rest", "found"),
    [
        ("/url?q=https://example.com/a&x=1", "https://example.com/a"),
        ("/url?q=https%3A%2F%2Fexample.com%2Fa&x=1", "https://example.com/a"),
        ("/url?q=http%253A%252F%252Fexample.com&x", "http://example.com"),
        ("/web/2020/http://example.com/", "http://example.com/"),
        ("/nothing?http=1", ""),
        ("", ""),
    ],
)
def test_inner(rest: str, found: str) -> None:
    assert inner(rest) == found


def test_labels() -> None:
    assert unicode_host("www.xn--mnchen-3ya.example") == "www.münchen.example"
    for host in (
        "xn--.example",
        "xn--" + "a" * 300 + ".example",
        "xn--\udc80.example",
        "xn--99999999999.example",
    ):
        assert unicode_host(host)


@pytest.mark.parametrize("label", ["раypal", "аррӏе", "gооgle", "ɡoogle", "ｐаypal"])
def test_deceptive(label: str) -> None:
    assert deceptive(label)


@pytest.mark.parametrize(
    "label", ["paypal", "münchen", "пример", "日本go", "παράδειγμα", "مثال", "naïve", "שלום"]
)
def test_not_deceptive(label: str) -> None:
    assert not deceptive(label)


def test_skeleton_and_drawn() -> None:
    assert skeleton("Сhief Сarol") == "chief carol"
    assert skeleton("Ｂób") == "bob"
    assert drawn("exarnp1e.com") == drawn("example.com")


def test_long_links_are_quick() -> None:
    started = time.process_time()
    for url in (
        "http://" + "a." * 100_000,
        "http" * 100_000,
        "http://x/?" + "http%25" * 100_000,
        "x" * 10**6,
    ):
        found = place(url)
        inner(found.rest if found else url)
    assert time.process_time() - started < 0.5
