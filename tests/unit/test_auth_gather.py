# SPDX-License-Identifier: GPL-2.0-or-later
"""All checks of one message together: results, questions, deadlines, a DNS that fails, cost."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import dkim
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from contrib.lab.dns import DnsStub
from gateway.auth import suffixes
from gateway.auth.gather import Authentication, authenticate
from gateway.auth.settings import AuthSettings
from gateway.dns import DnsSettings, Resolver
from gateway.mail import mime
from gateway.mail.types import Envelope, Mail, Session


@cache
def key() -> tuple[bytes, str]:
    private = rsa.generate_private_key(65_537, 2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem, "v=DKIM1; p=" + base64.b64encode(public).decode()


@cache
def message() -> Mail:
    raw = b"From: Alice <alice@news.example.com>\r\nTo: bob@example.org\r\nSubject: hi\r\n" + (
        b"Received: from a.example by b.example; Thu, 01 Jan 2026 00:00:00 +0000\r\n" * 5
    )
    raw += b"\r\n" + b"A line of  text, as in any message, with some words in it\r\n" * 165
    raw = bytes(dkim.sign(raw, b"sel", b"example.com", key()[0], canonicalize=(b"relaxed", b"relaxed"))) + raw
    session = Session(client_ip="192.0.2.1", helo="mail.example.com")
    return Mail("0" * 16, session, Envelope("alice@example.com", ("bob@example.org",)), raw)


def zone() -> dict[str, Any]:
    return {
        "example.com": {"TXT": ["v=spf1 include:spf.example.net -all"]},
        "spf.example.net": {"TXT": ["v=spf1 ip4:192.0.2.0/24 -all"]},
        "mail.example.com": {"TXT": ["v=spf1 a -all"], "A": ["192.0.2.1"]},
        "sel._domainkey.example.com": {"TXT": [key()[1]]},
        "_dmarc.example.com": {"TXT": ["v=DMARC1; p=reject"]},
        "1.2.0.192.in-addr.arpa": {"PTR": ["mail.example.com"]},
    }


def run(
    stub: DnsStub, mail: Mail | None = None, *, settings: AuthSettings | None = None, **more: Any
) -> Authentication:
    resolver = more.pop("resolver", None) or Resolver(
        DnsSettings(nameservers=(stub.nameserver,), timeout=more.pop("timeout", 5.0), attempts=1)
    )
    mail = mail or message()
    deadline = time.monotonic() + more.pop("seconds", 20)
    return authenticate(mail, mime.parse(mail.raw), resolver, settings or AuthSettings(), deadline, **more)


def words(found: Authentication) -> dict[str, str]:
    assert found.dmarc
    assert found.arc
    assert found.iprev
    return {
        "spf": " ".join(one.result for one in found.spf),
        "dkim": " ".join(one.result for one in found.dkim),
        "dmarc": found.dmarc.result,
        "arc": found.arc.result,
        "iprev": found.iprev.result,
    }


GOOD = {"spf": "pass pass", "dkim": "pass", "dmarc": "pass", "arc": "none", "iprev": "pass"}


def test_all_checks() -> None:
    with DnsStub(zone()) as stub:
        found = run(stub)
    assert words(found) == GOOD
    assert found.dmarc
    assert found.dmarc.aligned == ("spf", "dkim")
    assert set(found.durations) == {"dns", "spf", "dkim", "dmarc", "arc", "iprev"}


@pytest.mark.parametrize("method", ["psl", "tree-walk"])
def test_each_question_is_asked_once(method: Any) -> None:
    with DnsStub(zone()) as stub:
        run(stub, settings=AuthSettings(dmarc_method=method))
        asked = [query[:2] for query in stub.queries]
        assert len(asked) == len(set(asked))


def test_a_slow_dns_is_waited_for_side_by_side() -> None:
    with DnsStub(zone()) as stub, ThreadPoolExecutor(2) as pool:
        stub.delay = 0.8
        start = time.monotonic()
        assert words(run(stub, submit=pool.submit)) == GOOD
        assert len(stub.queries) >= 8
        assert time.monotonic() - start < 0.8 * 6  # two rounds, and noise


def test_a_full_pool_is_not_waited_for() -> None:
    with DnsStub(zone()) as stub, ThreadPoolExecutor(1) as pool:
        stub.delay = 0.02
        # The only worker waits for this call itself.
        assert words(pool.submit(lambda: run(stub, submit=pool.submit)).result(10)) == GOOD


@pytest.mark.parametrize("failure", ["SERVFAIL", "TIMEOUT", "REFUSED"])
def test_a_dns_that_fails_is_temporary_and_bounded(failure: str) -> None:
    names = [*zone(), "_dmarc.news.example.com"]
    with DnsStub(dict.fromkeys(names, failure)) as stub:
        start = time.monotonic()
        found = run(stub, seconds=1)
        assert time.monotonic() - start < 5, "as long as one question alone may take"
    assert words(found) == {
        "spf": "temperror temperror",
        "dkim": "temperror",
        "dmarc": "temperror",
        "arc": "none",
        "iprev": "temperror",
    }


def test_checks_can_be_switched_off() -> None:
    off = AuthSettings(spf=False, dkim=False, dmarc=False, arc=False, iprev=False)
    with DnsStub(zone()) as stub:
        found = run(stub, settings=off)
        assert not stub.queries
    assert replace(found, durations={}) == Authentication()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"From: Alice", b"From: eve@example.net\r\nFrom: Alice"),
        (b"From: Alice <alice@news.example.com>", b"Subject: no author"),
        (b"From: Alice <alice@news.example.com>", b"From: a@example.com, b@example.com"),
        (b"From: Alice <alice@news.example.com>", b"From: team: a@example.com;"),
    ],
)
def test_an_unclear_author_never_passes(old: bytes, new: bytes) -> None:
    mail = replace(message(), raw=message().raw.replace(old, new))
    with DnsStub(zone()) as stub:
        found = run(stub, mail)
    assert found.dmarc
    assert (found.dmarc.result, found.dmarc.aligned) == ("permerror", ())


@pytest.mark.parametrize(
    ("authors", "policy", "reason"),
    [
        (b"a@example.com, b@news.example.com", "", "From has several addresses"),  # both are authenticated
        (b"a@example.com, b@bank.test", "reject", "bank.test fails p=reject"),
        (b"a@shop.test, b@bank.test, c@example.com", "reject", "bank.test fails p=reject"),
        (b"a@shop.test, b@none.test", "quarantine", "shop.test fails p=quarantine"),
        (b"team: a@example.com, b@bank.test;", "reject", "bank.test fails p=reject"),
        (b", ".join(b"a@%d.test" % n for n in range(7)), "reject", "the strictest counts"),
        (b"a@%s.test <" % (b"x" * 66_000), "reject", "the strictest counts"),
        (
            ", ".join(f"a@\u00fc{n}.test" for n in range(41)).encode(),
            "reject",
            "the strictest counts",
        ),
        (b", ".join(b"a@%d.test" % n for n in range(5)), "", "From has several addresses"),
    ],
)
@pytest.mark.parametrize("method", ["psl", "tree-walk"])
def test_the_strictest_policy_of_several_authors_counts(
    authors: bytes, policy: str, reason: str, method: Any
) -> None:
    mail = replace(message(), raw=message().raw.replace(b"Alice <alice@news.example.com>", authors))
    mail = replace(mail, raw=mail.raw[mail.raw.index(b"From:") :])  # its signature is of another message
    more = {
        "_dmarc.bank.test": {"TXT": ["v=DMARC1; p=reject"]},
        "_dmarc.shop.test": {"TXT": ["v=DMARC1; p=quarantine"]},
    }
    with DnsStub(zone() | more) as stub:
        found = run(stub, mail, settings=AuthSettings(dmarc_method=method)).dmarc
    assert found
    assert (found.result, found.policy, found.aligned) == ("permerror", policy, ())
    assert reason in found.reason


def greedy(domain: str) -> dict[str, Any]:
    """A policy of `domain` that takes all the questions that SPF grants."""
    found: dict[str, Any] = {
        domain: {"TXT": ["v=spf1 " + "".join(f"mx:m{n}.{domain} " for n in range(10)) + "-all"]}
    }
    for n in range(10):
        found[f"m{n}.{domain}"] = {"MX": [(m, f"h{n}-{m}.{domain}") for m in range(10)]}
        found |= {f"h{n}-{m}.{domain}": {"A": ["198.51.100.1"]} for m in range(10)}
    return found


@pytest.mark.parametrize("method", ["psl", "tree-walk"])
@pytest.mark.parametrize(
    "author", [b"a@x.bank.test", b"a@x.bank.test%evil.test/", b"a@x.bank.test, b@evil.test"]
)
def test_questions_cannot_be_used_up_to_get_round_a_policy(author: bytes, method: Any) -> None:
    """HELO's policy once came first, and took what the author's needed: a temporary error, and no policy."""
    session = Session(client_ip="192.0.2.1", helo="helo.evil.test")
    raw = b"".join(
        b"DKIM-Signature: v=1; a=rsa-sha256; d=evil.test; s=s%d; h=from; bh=AA==; b=AA==\r\n" % n
        for n in range(8)
    )
    raw += b"".join(
        b"ARC-Seal: i=%d; a=rsa-sha256; d=evil.test; s=a%d; cv=pass; b=AA==\r\n" % (n, n)
        for n in range(50, 0, -1)
    )
    mail = Mail(
        "0" * 16,
        session,
        Envelope("a@x.bank.test", ("bob@example.org",)),
        raw + b"From: " + author + b"\r\n\r\nx\r\n",
    )
    more: dict[str, Any] = {
        "x.bank.test": {"TXT": ["v=spf1 include:a.bank.test include:b.bank.test -all"]},
        "a.bank.test": {"TXT": ["v=spf1 include:c.bank.test -all"]},
        "b.bank.test": {"TXT": ["v=spf1 ip4:198.51.100.1 -all"]},
        "c.bank.test": {"TXT": ["v=spf1 ip4:198.51.100.1 -all"]},
        "_dmarc.bank.test": {"TXT": ["v=DMARC1; p=none; sp=quarantine; np=reject"]},
    }
    with DnsStub(greedy("helo.evil.test") | more) as stub:
        dns = DnsSettings(
            nameservers=(stub.nameserver,), timeout=5.0, attempts=1, max_queries_per_message=150
        )
        found = run(stub, mail, settings=AuthSettings(dmarc_method=method), resolver=Resolver(dns))
        assert len(stub.queries) <= found.queries <= 150
    assert found.spf[0].result == "fail"
    assert found.dmarc
    assert (found.dmarc.result, found.dmarc.policy) == (
        "fail" if b"evil" not in author else "permerror",
        "quarantine",
    )


def test_local_submission_is_no_error() -> None:
    mail = replace(message(), session=Session())
    with DnsStub(zone()) as stub:
        found = run(stub, mail)
    assert (found.spf, found.iprev) == ((), None)
    assert found.dmarc
    assert found.dmarc.result == "pass"  # by DKIM


def test_the_cost_with_a_warm_cache() -> None:
    suffixes.load()
    settings = AuthSettings(arc=False, iprev=False)
    mail = message()
    content = mime.parse(mail.raw)
    times = []
    with DnsStub(zone()) as stub:
        resolver = Resolver(DnsSettings(nameservers=(stub.nameserver,)))
        for _ in range(30):
            start = time.thread_time()
            authenticate(mail, content, resolver, settings, time.monotonic() + 10)
            times.append(time.thread_time() - start)
    assert len(mail.raw) > 10_000
    assert sorted(times)[5] < 0.0015


RELAY = AuthSettings(trusted_relays=("10.0.0.0/8",), trusted_authserv_ids=("MX.relay.example",))
TAKEN = msgspec.structs.replace(RELAY, relayed_dkim=True)
STATED = b"Authentication-Results: mx.relay.example; spf=fail smtp.mailfrom=alice@example.com; iprev=pass\r\n"


@pytest.mark.parametrize(
    ("ip", "stated", "spf", "iprev"),
    [
        ("10.1.1.1", STATED, "fail", "pass"),
        ("10.1.1.1", b"", "", None),
        ("10.1.1.1", STATED.replace(b"mx.relay", b"other.relay"), "", None),
        ("10.1.1.1", STATED.replace(b"alice@example.com", b"eve@example.net"), "", "pass"),
        ("10.1.1.1", b"Authentication-Results: mx.relay.example; (\r\n", "", None),
        ("10.1.1.1", STATED + STATED.replace(b"fail", b"pass"), "fail", "pass"),  # the topmost counts
        ("10.1.1.1", STATED.replace(b"spf=fail", b"spf=hardfail"), "", "pass"),
        ("10.1.1.1", STATED.replace(b"; iprev", b"; dmarc=pass action=none; iprev"), "fail", "pass"),
        ("192.0.2.1", STATED, "pass pass", "pass"),  # no relay of ours: checked here
    ],
)
def test_a_trusted_relay_speaks_for_the_client(ip: str, stated: bytes, spf: str, iprev: str | None) -> None:
    session = Session(client_ip=ip, helo="mail.example.com")
    mail = replace(message(), session=session, raw=stated + message().raw)
    with DnsStub(zone()) as stub:
        found = run(stub, mail, settings=RELAY)
    assert " ".join(one.result for one in found.spf) == spf
    assert (found.iprev.result if found.iprev else None) == iprev
    assert found.dmarc
    assert found.dmarc.result == "pass"  # DKIM is checked here in any case


SIGNED = STATED.replace(
    b"; iprev", b"; dkim=pass header.d=News.Example.com header.s=s1 header.b=abcdefgh; iprev"
)


@pytest.mark.parametrize(
    ("settings", "ip", "stated", "dkim", "dmarc"),
    [
        (RELAY, "10.1.1.1", SIGNED, "fail", "fail"),
        (TAKEN, "10.1.1.1", SIGNED, "pass", "pass"),
        (TAKEN, "10.1.1.1", SIGNED.replace(b"dkim=pass", b"dkim=fail"), "fail", "fail"),
        (
            TAKEN,
            "10.1.1.1",
            SIGNED.replace(b"header.d=News.Example.com", b"header.i=@news.example.com"),
            "pass",
            "pass",
        ),
        (TAKEN, "10.1.1.1", SIGNED.replace(b"News.Example.com", b"example.net"), "pass", "fail"),
        (TAKEN, "10.1.1.1", SIGNED.replace(b"mx.relay", b"other.relay"), "fail", "fail"),
        (TAKEN, "10.1.1.1", STATED, "fail", "fail"),  # nothing stated: checked here
        (TAKEN, "198.51.100.1", SIGNED, "fail", "fail"),  # no relay of ours
    ],
)
def test_a_relay_that_changes_messages_may_speak_for_signatures(
    settings: AuthSettings, ip: str, stated: bytes, dkim: str, dmarc: str
) -> None:
    raw = stated + message().raw.replace(b"A line of", b"A changed line of", 1)
    mail = replace(message(), session=Session(client_ip=ip, helo="mail.example.com"), raw=raw)
    with DnsStub(zone()) as stub:
        found = run(stub, mail, settings=settings)
    assert [one.result for one in found.dkim] == [dkim]
    assert found.dmarc
    assert found.dmarc.result == dmarc
