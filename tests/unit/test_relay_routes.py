# SPDX-License-Identifier: GPL-2.0-or-later
"""Next hops by domain, and the refusal to be an open relay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.routes import NextHop, RouteSettings, parse_next_hop, relay_refusal, routes
from gateway.mail.types import Session

DOMAINS = ("example.com", ".sub.example.com")
NETWORKS = ("192.0.2.0/24", "2001:db8::/32")
STRANGER = Session(client_ip="198.51.100.7")


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("smtp:mx.example.net:2525", NextHop("smtp", "mx.example.net", 2525)),
        ("smtp:mx.example.net", NextHop("smtp", "mx.example.net", 25)),
        ("lmtp:127.0.0.1:24", NextHop("lmtp", "127.0.0.1", 24)),
        ("smtp:[2001:db8::1]:25", NextHop("smtp", "2001:db8::1", 25)),
        ("lmtp:unix:/run/dovecot/lmtp", NextHop("lmtp", path="/run/dovecot/lmtp")),
    ],
)
def test_next_hops(text: str, hop: NextHop) -> None:
    assert parse_next_hop(text) == hop
    assert parse_next_hop(str(hop)) == hop


@pytest.mark.parametrize(
    "text",
    ["", "mx.example.net", "http:x:1", "smtp:", "smtp:a:0", "smtp:a:70000", "smtp:a b:25", "lmtp:unix:x"],
)
def test_what_is_no_next_hop(text: str) -> None:
    with pytest.raises(ValueError, match="next hop"):
        parse_next_hop(text)


def test_routes_by_domain() -> None:
    table = routes(
        [
            RouteSettings(domains=("example.com", "bücher.example"), next_hop="smtp:a:25"),
            RouteSettings(domains=(".example.com",), next_hop="smtp:b:25"),
            RouteSettings(domains=(".deep.example.com", "example.com"), next_hop="lmtp:c:24"),
        ],
        default="smtp:rest:25",
    )
    found = {
        address: str(table.route(address))
        for address in (
            "u@example.com",
            "u@EXAMPLE.com",
            "u@xn--bcher-kva.example",
            "u@BÜCHER.example",
            "u@x.example.com",
            "u@x.deep.example.com",
            "u@notexample.com",
            "postmaster",
        )
    }
    assert list(found.values()) == [
        "smtp:a:25",
        "smtp:a:25",
        "smtp:a:25",
        "smtp:a:25",
        "smtp:b:25",
        "lmtp:c:24",
        "smtp:rest:25",
        "smtp:rest:25",
    ]
    assert routes([]).route("u@example.com") is None


# The forms by which relays have been talked into relaying; example.com is ours.
OPEN_RELAY_FORMS = [
    "user@example.net",
    "user",
    '"user@example.net"',
    "user%example.net",
    "user%example.net@example.com",
    "user%example.net@[192.0.2.1]",
    '"user%example.net"@example.com',
    '"user@example.net"@example.com',
    '"user@example.net"@[192.0.2.1]',
    "@example.com:user@example.net",
    "@[192.0.2.1]:user@example.net",
    "@example.com:user@example.com",
    "example.net!user",
    "example.net!user@example.com",
    "example.net!user@[192.0.2.1]",
    "user@example.net@example.com",
    "user@example.net@",
    "user@example.net.",
    "user@example.com.",
    "user@[192.0.2.1]",
    "user@localhost",
    "user@@example.com",
    "user@.example.com",
    "user@example.com@example.net",
    "user@example..com",
    "user@notexample.com",
    "user@sub.example.com",
    "user@example.com\x00.example.net",
    "user@example.com,victim@example.net",
    "user@example.com>,<victim@example.net",
    "",
    "@",
    "@example.com",
]


@pytest.mark.parametrize("recipient", OPEN_RELAY_FORMS)
def test_strangers_get_no_relay(recipient: str) -> None:
    reply = relay_refusal(recipient, STRANGER, DOMAINS, NETWORKS)
    assert reply is not None
    assert str(reply).startswith("554 5.7.1 <")
    assert str(reply).endswith(">: Relay access denied")
    assert str(reply).isprintable()


@pytest.mark.parametrize(
    ("recipient", "session"),
    [
        ("user@example.com", STRANGER),
        ("user+tag.x=y'z/w@Example.COM", STRANGER),
        ("user@x.sub.example.com", STRANGER),
        ("Postmaster", STRANGER),
        ("üser@example.com", STRANGER),
        ("user@example.net", Session(client_ip="192.0.2.99")),
        ("user@example.net", Session(client_ip="::ffff:192.0.2.99")),
        ("user@example.net", Session(client_ip="2001:db8::5")),
        ("user@example.net", Session(client_ip="198.51.100.7", login="carol")),
        ("user%x@example.net", Session(client_ip="192.0.2.99")),
        ("user@[203.0.113.9]", Session(client_ip="192.0.2.99")),
    ],
)
def test_who_may_relay(recipient: str, session: Session) -> None:
    assert relay_refusal(recipient, session, DOMAINS, NETWORKS) is None


@pytest.mark.parametrize("client_ip", ["", "unknown", "192.0.3.1", "::1", "192.0.2.1 "])
def test_no_rights_without_an_address_inside(client_ip: str) -> None:
    assert relay_refusal("user@example.net", Session(client_ip=client_ip), DOMAINS, NETWORKS) is not None


@given(st.text(alphabet='ab%!@":.,<>[]\\ x', max_size=30))
def test_whatever_a_stranger_writes_only_our_domain_is_relayed(recipient: str) -> None:
    if relay_refusal(recipient, STRANGER, ("a.b",), ()) is None:
        local, _, domain = recipient.rpartition("@")
        assert domain == "a.b"
        assert not set(local) & set('%!@":,<>[]\\ ')
