# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS demanded from clients and promised towards next hops, as tables."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import msgspec
import pytest

from contrib.lab.certificates import Authority
from gateway.mail.types import Session, Tls
from gateway.tls.inbound import InboundTlsRule, check, server_tls
from gateway.tls.outbound import OutboundTlsRule, TlsPolicy, context_for, policy_for

if TYPE_CHECKING:
    from pathlib import Path

PRINT = "ab" * 32
CLEAR = Session(client_ip="192.0.2.7", listener="mx")
OLD = Session(client_ip="192.0.2.7", tls=Tls("TLSv1.1"))
GOOD = Session(client_ip="192.0.2.7", tls=Tls("TLSv1.3"))
KNOWN = Session(
    client_ip="192.0.2.7",
    tls=Tls("TLSv1.2", client_subject="Mail.example.net", client_verified=True, client_fingerprint=PRINT),
)
FORGED = Session(client_ip="192.0.2.7", tls=Tls("TLSv1.2", client_subject="mail.example.net"))

EVERYBODY = InboundTlsRule()
BY_NET = InboundTlsRule(client_networks=("192.0.2.0/24",))
BY_SENDER = InboundTlsRule(sender_domains=("example.com", ".example.org"))
BOTH = InboundTlsRule(client_networks=("192.0.2.0/24",), sender_domains=("example.com",))
NEWEST = InboundTlsRule(minimum_version="TLSv1.3")
CERTIFICATE = InboundTlsRule(client_certificate=True)
NAMED = InboundTlsRule(client_subjects=("mail.example.net",))
OTHERWISE_NAMED = Session(
    client_ip="192.0.2.7",
    tls=Tls(
        "TLSv1.2", client_subject="x", client_verified=True, client_names=("a.example", "MAIL.example.net")
    ),
)
PRINTED = InboundTlsRule(client_fingerprints=(":".join(["AB"] * 32),))


@pytest.mark.parametrize(
    ("session", "mail_from", "rules", "answer"),
    [
        (CLEAR, "a@example.com", [], ""),
        (OTHERWISE_NAMED, "a@example.com", [NAMED], ""),
        (CLEAR, "a@example.com", [EVERYBODY], "530 5.7.0"),
        (CLEAR, None, [EVERYBODY], "530 5.7.0"),
        (CLEAR, "", [EVERYBODY], "530 5.7.0"),
        (Session(), "a@example.com", [EVERYBODY], "530 5.7.0"),
        (CLEAR, "a@example.com", [BY_NET], "530 5.7.0"),
        (Session(client_ip="::ffff:192.0.2.7"), "a@b", [BY_NET], "530 5.7.0"),
        (Session(client_ip="198.51.100.1"), "a@example.com", [BY_NET], ""),
        (Session(client_ip="unknown"), "a@example.com", [BY_NET], ""),
        (CLEAR, "a@EXAMPLE.com", [BY_SENDER], "530 5.7.0"),
        (CLEAR, "a@x.example.org", [BY_SENDER], "530 5.7.0"),
        (CLEAR, "a@example.org", [BY_SENDER], ""),
        (CLEAR, "a@notexample.com", [BY_SENDER], ""),
        (CLEAR, None, [BY_SENDER], ""),
        (CLEAR, "", [BY_SENDER], ""),
        (CLEAR, "a@example.net", [BOTH], ""),
        (Session(client_ip="198.51.100.1"), "a@example.com", [BOTH], ""),
        (CLEAR, "a@example.com", [BOTH], "530 5.7.0"),
        (CLEAR, "a@b", [InboundTlsRule(listeners=("mx",))], "530 5.7.0"),
        (CLEAR, "a@b", [InboundTlsRule(listeners=("submission",))], ""),
        (OLD, "a@example.com", [EVERYBODY], "550 5.7.10"),
        (Session(tls=Tls("SSLv3")), "a@b", [InboundTlsRule(minimum_version="TLSv1")], "550 5.7.10"),
        (Session(tls=Tls("")), "a@b", [InboundTlsRule(minimum_version="TLSv1")], "530 5.7.0"),
        (GOOD, "a@example.com", [EVERYBODY, BY_NET, BY_SENDER, NEWEST], ""),
        (KNOWN, "a@example.com", [EVERYBODY, NEWEST], "550 5.7.10"),
        (GOOD, "a@example.com", [CERTIFICATE], "550 5.7.10"),
        (KNOWN, "a@example.com", [CERTIFICATE, NAMED, PRINTED], ""),
        (FORGED, "a@example.com", [NAMED], "550 5.7.10"),
        (FORGED, "a@example.com", [PRINTED], "550 5.7.10"),
        (KNOWN, "a@b", [InboundTlsRule(client_subjects=("other.example.net",))], "550 5.7.10"),
    ],
)
def test_check(session: Session, mail_from: str | None, rules: list[InboundTlsRule], answer: str) -> None:
    reply = check(session, mail_from, rules)
    assert str(reply).startswith(answer) if answer else reply is None, reply


@pytest.mark.parametrize(
    "row",
    [
        {"client_networks": ["192.0.2.1/24"]},
        {"client_networks": ["example.com"]},
        {"client_fingerprints": ["abcd"]},
        {"minimum_version": "SSLv3"},
        {"sender_domain": ["example.com"]},
    ],
)
def test_rows_that_cannot_be_meant(row: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(row, InboundTlsRule)


RULES = [
    OutboundTlsRule(next_hops=("mx.example.net",), domains=("example.com",), level="verify", match="mail"),
    OutboundTlsRule(next_hops=("mx.example.net",), level="encrypt"),
    OutboundTlsRule(domains=(".example.org",), level="none"),
]


@pytest.mark.parametrize(
    ("host", "domain", "policy"),
    [
        ("mx.example.net", "example.com", TlsPolicy("verify", "mail", source="table")),
        ("MX.example.net", "example.org", TlsPolicy("encrypt", "MX.example.net", source="table")),
        ("other", "a.example.org", TlsPolicy("none", "other", source="table")),
        ("other", "example.org", TlsPolicy("may", "other")),
        ("", "example.com", TlsPolicy("none")),
    ],
)
def test_policy_for(host: str, domain: str, policy: TlsPolicy) -> None:
    assert policy_for(host, domain, RULES) == policy


def test_contexts() -> None:
    assert context_for(TlsPolicy("none")) is None
    loose, strict = context_for(TlsPolicy("encrypt", "x")), context_for(TlsPolicy("verify", "x"))
    assert loose
    assert loose.verify_mode is ssl.CERT_NONE
    assert strict
    assert strict.verify_mode is ssl.CERT_REQUIRED
    assert strict.check_hostname
    assert strict.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match="No such file"):
        context_for(TlsPolicy("verify", "x", ca_file="/nonexistent/ca.pem"))


@pytest.mark.parametrize(
    ("rules", "client", "listener", "asks"),
    [
        ([], "192.0.2.7", "mx", False),
        ([EVERYBODY, BY_NET, NEWEST], "192.0.2.7", "mx", False),
        ([CERTIFICATE], "192.0.2.7", "mx", True),
        ([NAMED], "192.0.2.7", "mx", True),
        ([PRINTED], "192.0.2.7", "mx", True),
        ([InboundTlsRule(client_certificate=True, sender_domains=("example.com",))], "192.0.2.7", "mx", True),
        (
            [InboundTlsRule(client_certificate=True, client_networks=("192.0.2.0/24",))],
            "198.51.100.1",
            "mx",
            False,
        ),
        ([InboundTlsRule(client_certificate=True, listeners=("submission",))], "192.0.2.7", "mx", False),
        ([InboundTlsRule(client_certificate=True, listeners=("mx",)), BY_NET], "192.0.2.7", "mx", True),
    ],
)
def test_who_is_asked_for_a_certificate(
    rules: list[InboundTlsRule], client: str, listener: str, asks: bool, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("localhost")
    files = (str(pair.certificate), str(pair.key))
    tls = server_tls(*files, client_ca_file=str(authority.certificate), rules=tuple(rules))
    assert (tls.context(client, listener).verify_mode is ssl.CERT_OPTIONAL) is asks
    without = server_tls(*files, rules=tuple(rules))
    assert without.context(client, listener).verify_mode is ssl.CERT_NONE
