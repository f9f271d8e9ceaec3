# SPDX-License-Identifier: GPL-2.0-or-later
"""What the signatures of one message may cost, counted in octets hashed and in work of keys."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from dkim.canonicalization import Relaxed
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth import signature
from gateway.auth.arc import check_arc
from gateway.auth.dkim import check_dkim, read_signatures
from gateway.auth.gather import authenticate
from gateway.auth.results import forged
from gateway.auth.settings import AuthSettings
from gateway.auth.sign import SigningKey, sign
from gateway.auth.signature import Canon, Material, PolicyError, canonical_field, simple_body
from gateway.auth.suffixes import organizational
from gateway.auth.upstream import relayed_results
from gateway.dns import Answer, DnsSettings, Question, Resolver
from gateway.mail import domains, headers
from gateway.mail.mime import parse
from gateway.mail.types import Dkim, Envelope, HeaderField, Mail, Session

ED25519 = SigningKey("example.com", "sel", ed25519.Ed25519PrivateKey.generate())
STEP = 1 << 16


def record(key: Any) -> bytes:
    """The key record of a public key."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return b"v=DKIM1; k=ed25519; p=" + base64.b64encode(key.public_bytes_raw())
    data = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; p=" + base64.b64encode(data)


class OneKey:
    """A lookup that answers with one key."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def txt(self, _name: str) -> Answer[bytes]:
        return Answer("ok", (self.text,))


def material(mail: bytes, *, trusted: bool = False) -> Material:
    section = headers.split(mail)
    return Material(section.fields, mail, section.body_start, trusted=trusted)


def verified(mail: bytes, key: bytes, auth: AuthSettings) -> tuple[Material, tuple[Dkim, ...]]:
    seen = material(mail)
    lookup: Any = OneKey(key)
    return seen, check_dkim(seen, read_signatures(seen, auth), lookup, auth)


def test_the_header_that_signatures_cover_is_limited() -> None:
    mail = b"From: a@example.com\r\nSubject: x" + b"\r\n  \t" * 120_000 + b"y\r\n\r\nHello\r\n"
    value = sign(material(mail, trusted=True), ED25519).encode().replace(b"\n", b"\r\n")
    signed = (b"DKIM-Signature: " + value + b"\r\n") * 8 + mail
    seen, found = verified(signed, record(ED25519.private.public_key()), AuthSettings())
    assert [one.result for one in found] == ["pass"] + ["policy"] * 7
    assert found[-1].reason == "the signatures cover too much header"
    assert seen.hashed <= 1 << 20


def test_a_field_is_made_canonical_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mail = b"From: a@example.com\r\nSubject: x\r\n\r\nHello\r\n"
    value = sign(material(mail, trusted=True), ED25519).encode().replace(b"\n", b"\r\n")
    seen = []
    real = canonical_field

    def counted(field: HeaderField, canon: Canon, value: bytes | None = None) -> bytes:
        seen.append(field.name)
        return real(field, canon, value)

    monkeypatch.setattr(signature, "canonical_field", counted)
    signed = (b"DKIM-Signature: " + value + b"\r\n") * 8 + mail
    _, found = verified(signed, record(ED25519.private.public_key()), AuthSettings())
    assert [one.result for one in found] == ["pass"] * 8
    assert sorted(seen) == ["DKIM-Signature"] * 8 + ["From", "Subject"]


def test_a_chain_counts_with_the_header() -> None:
    common = b" i=1; a=rsa-sha256; d=example.com; s=s; b=AAAA; "
    mail = b"ARC-Seal:" + common + b"cv=none\r\nARC-Message-Signature:" + common + b"h=from; bh=AAAA\r\n"
    mail += b"ARC-Authentication-Results: i=1; " + b"x" * 900_000 + b"\r\nTo: " + b"x" * 900_000
    seen = material(mail + b"\r\nFrom: a@example.com\r\n\r\n")
    lookup: Any = OneKey(b"")
    seen.signed(("to",), "relaxed")
    assert check_arc(seen, lookup, AuthSettings()).reason == "the signatures cover too much header"


@pytest.mark.parametrize("canon", ["simple", "relaxed"])
def test_a_body_is_hashed_once_whatever_the_lengths_say(canon: Canon) -> None:
    body = b"".join(b"line %d\r\n" % number for number in range(60_000))
    seen = material(b"From: a@example.com\r\n\r\n" + body)
    lengths = [len(body), 0, 1, STEP, STEP + 1, STEP - 1, 7 * STEP, len(body) - 1, 3 * STEP + 5, None, 1]
    for length in lengths:
        assert seen.body_hash(canon, length) == hashlib.sha256(body[:length]).digest()
    assert seen.body_hashed <= len(body) + len(lengths) * STEP
    assert seen.body_hash(canon) == hashlib.sha256(simple_body(body)).digest()


def test_the_work_of_keys_is_limited() -> None:
    public = rsa.RSAPublicNumbers((1 << 32) | 1, (1 << 8_191) | 1).public_key()
    value = base64.b64encode(b"\0" * 1_024)
    field = b"DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=sel; h=from; bh=AAAA; b=" + value
    mail = (field + b"\r\n") * 60 + b"From: a@example.com\r\n\r\n"
    seen, found = verified(mail, record(public), AuthSettings(max_signatures=50))
    assert [one.result for one in found] == ["fail"] * 9 + ["policy"] * 42
    assert found[9].reason == "the keys of this message's signatures cost too much"
    assert seen.work <= 300


def test_usual_keys_are_within_the_limit() -> None:
    seen = material(b"From: a@example.com\r\n\r\n")
    private = rsa.generate_private_key(65_537, 2048)
    keys = [signature.read_key(record(private.public_key()))] * 51
    keys += [signature.read_key(record(ED25519.private.public_key()))] * 8
    for key in keys:  # a chain of 50, and DKIM
        seen.spend_work(key.work)
    with pytest.raises(PolicyError):
        seen.spend_work(300)


@pytest.mark.parametrize("count", [512, 513, 8_000])
def test_the_names_of_fields_are_limited(count: int) -> None:
    names = b":".join([b"from"] + [b"a"] * (count - 1))
    field = b"DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=sel; bh=AAAA; b=AAAA; h=" + names
    _, (found,) = verified(field + b"\r\nFrom: a@example.com\r\n\r\n", b"", AuthSettings())
    assert (found.reason == "h= names too many fields") == (count > 512)
    assert found.result == ("policy" if count > 512 else "permerror")


class Hostile(Resolver):
    """Answers without a network: SPF of ten MX with ten hosts each, and costly keys."""

    def __init__(self, addresses: int) -> None:
        super().__init__(DnsSettings(nameservers=("127.0.0.1:1",)))
        self.addresses = addresses
        self.keys = [
            record(rsa.RSAPublicNumbers((1 << 33) - 1, (1 << 8_191) | (number << 9) | 1).public_key())
            for number in range(20)
        ]

    def _ask(self, questions: list[Question], _deadline: float) -> dict[Question, Answer[Any]]:
        answers = {one: Answer("ok", self._values(*one), name=one[0]) for one in questions}
        for question, answer in answers.items():
            self._keep(question, answer, 300)
        return answers

    def _values(self, name: str, kind: str) -> tuple[Any, ...]:
        texts = (
            self.keys[len(name) % 20]
            if "_domainkey" in name
            else b"v=DMARC1; p=reject"
            if name.startswith("_dmarc.")
            else b"v=spf1" + b"".join(b" mx:d%d.example" % number for number in range(10)) + b" -all"
        )
        values: dict[str, tuple[Any, ...]] = {
            "TXT": (texts,),
            "MX": tuple((1, f"mx{number}.{name}") for number in range(10)),
            "A": tuple(f"10.0.0.{number}" for number in range(1, self.addresses)),
            "PTR": tuple(f"host{number}.example" for number in range(200)),
        }
        return values.get(kind, ())


def everything(number_of_authors: int, mark: bytes) -> bytes:
    value = base64.b64encode(b"\0" * 1_024)
    tags = b"a=rsa-sha256; d=%b.example; s=s; h=from:x" + b":a" * 500 + b"; bh=AAAA; b=" + value + b"\r\n"
    lines = [b"DKIM-Signature: v=1; " + tags % (b"d" * number) for number in range(1, 9)]
    for number in range(50, 0, -1):
        seal = b" i=%d; a=rsa-sha256; d=%b.example; s=s; b=%b" % (number, b"e" * number, value)
        state = b"pass" if number > 1 else b"none"
        lines += (b"ARC-Seal:" + seal + b"; cv=" + state + b"\r\n", b"ARC-Message-Signature: i=%d; " % number)
        lines += (tags % b"f", b"ARC-Authentication-Results: i=%d; x.example; none\r\n" % number)
    authors = ("a@" + "\u00fc" * 30 + f"{number}.example" for number in range(number_of_authors))
    lines += [b"Authentication-Results: other.example; " + mark * (600 // len(mark)) + b"\r\n"] * 60
    lines += (b"From: " + ", ".join(authors).encode() + b"\r\n", b"X:" + b"\r\n \t" * 100_000 + b"y\r\n")
    return b"".join(lines) + b"\r\nbody\r\n"


@pytest.mark.parametrize(
    ("authors", "addresses", "mark", "spf"),
    [(300, 200, b"()", "permerror"), (5, 20, b"; a=b", "temperror"), (5, 10, b"x y ", "temperror")],
)
def test_everything_at_once_is_bounded(authors: int, addresses: int, mark: bytes, spf: str) -> None:
    """Beyond the bounds, and just within them, when nothing is in a cache."""
    raw = everything(authors, mark)
    session = Session(client_ip="192.0.2.1", helo="helo.example")
    mail = Mail("0" * 16, session, Envelope("a" * 2_000 + "@example.com", ()), raw)
    content = parse(raw)
    times = []
    for _ in range(3):
        for cached in (signature.read_key, domains._encoded, domains._encoded_2003, organizational):
            cached.cache_clear()
        resolver = Hostile(addresses)
        start = time.thread_time()
        found = authenticate(mail, content, resolver, AuthSettings(), time.monotonic() + 20)
        assert bool(forged(content.fields, "mx.example.org")) == (mark == b"()")
        times.append(time.thread_time() - start)
        assert spf in {one.result for one in found.spf} <= {"fail", spf}  # too much, or too many questions
        assert {one.result for one in found.dkim} <= {"fail", "policy"}
        assert len(found.dkim) == 8
        assert found.dmarc is not None
        assert (found.dmarc.result, found.dmarc.policy) == ("permerror", "reject")
        assert found.arc is not None
        assert found.arc.result == "fail"
    assert min(times) < 0.2  # 0.03 where nothing else runs


PIECES = st.sampled_from([b" ", b"\t", b"\r\n ", b"\r\n", b"\n", b"\r", b"a", b":", b"  ", "é".encode()])


@settings(deadline=None)
@given(st.lists(PIECES, max_size=30).map(b"".join))
def test_canonical_fields_are_those_of_dkimpy(value: bytes) -> None:
    field = HeaderField("Subject", b"SubJect \t:" + value)
    ((name, content),) = Relaxed.canonicalize_headers([(b"SubJect \t", value + b"\r\n")])
    assert canonical_field(field, "relaxed") == name + b":" + content
    assert canonical_field(field, "simple") == field.raw + b"\r\n"


def test_what_strangers_put_below_a_relays_results_costs_little() -> None:
    lines = [b"Authentication-Results: other.example; " + b";" * 7_000 + b"\r\n"] * 40
    below = b"Authentication-Results: relay.example; spf=pass\r\n"
    for fields, found in (((*lines, below), 0), ((below, *lines), 1), ((lines[0], below, *lines), 1)):
        content = parse(b"".join(fields) + b"From: a@example.com\r\n\r\n")
        start = time.thread_time()
        assert len(relayed_results(content, ("relay.example",))) == found
        assert time.thread_time() - start < 0.1  # 0.014 where nothing else runs


def test_nothing_is_believed_below_a_relays_results_that_cannot_be_read() -> None:
    long = b"Authentication-Results: relay.example; spf=fail" + b"; dkim=fail header.d=evil.example" * 300
    forged = b"Authentication-Results: relay.example; spf=pass smtp.mailfrom=a@bank.example\r\n"
    for above in (long, b"Authentication-Results: relay.example; (spf=fail"):
        content = parse(above + b"\r\n" + forged + b"From: a@bank.example\r\n\r\n")
        assert relayed_results(content, ("relay.example",)) == ()
