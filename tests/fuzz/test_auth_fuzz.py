# SPDX-License-Identifier: GPL-2.0-or-later
"""The parsers of sender authentication on hostile input: a value or a known error, never another.

`MAILWARDEN_FUZZ` sets how many examples each property tries; the default keeps the suite quick.
`python -m tests.fuzz.mass` tries the same properties some hundred thousand times each, without hypothesis.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import struct
from typing import Any

import dns.exception
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.auth.arc import check_arc, seal_pieces
from gateway.auth.author import author_domain, author_domains
from gateway.auth.dkim import check_dkim, read_signatures
from gateway.auth.dmarc import MalformedRecordError, read_record
from gateway.auth.received_spf import received_spf
from gateway.auth.results import forged, read_results
from gateway.auth.settings import AuthSettings
from gateway.auth.signature import BadSignatureError, Material, read_key, read_tags
from gateway.auth.spf import check_spf
from gateway.auth.suffixes import organizational
from gateway.auth.upstream import relayed_iprev, relayed_results, relayed_spf
from gateway.dns import Answer, read_answer
from gateway.mail import headers, mime
from gateway.mail.types import (
    Arc,
    Dmarc,
    Edit,
    EditOp,
    Envelope,
    Evidence,
    HeaderField,
    Mail,
    Session,
    Spf,
)
from gateway.policy.forwarders import Forwarders
from gateway.policy.sender import examine

EXAMPLES = int(os.environ.get("MAILWARDEN_FUZZ", "200"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SETTINGS = AuthSettings()
SEALERS = Forwarders(sealers=("seal.example",))
KEY = b"v=DKIM1; p=" + base64.b64encode(bytes.fromhex("302a300506032b6570032100") + bytes(range(32)))


def pieces(words: str) -> st.SearchStrategy[bytes]:
    """Sequences of these words, of white space, and of a few odd octets."""
    known = [word.encode() for word in words.split()] + [b" ", b"\t", b"\r\n ", b"\r\n"]
    return st.lists(st.sampled_from(known) | st.binary(max_size=3), max_size=24).map(b"".join)


TAG_WORDS = (
    "v=1 v=DKIM1 a=rsa-sha256 a=ed25519-sha256 b= bh= d=example.com s=s h=from i= l= t= x= c=relaxed "
    "q=dns/txt k=rsa p= cv=none i=1 ; = : / @ AAAA . é " + "9" * 30
)
TAGS = pieces(TAG_WORDS)
POLICY_WORDS = (
    "v=spf1 a mx ptr include: exists: redirect= exp= ip4: ip6: all - ~ ? %{ } % l dr 2 s1r- p h : / // 24 "
    "192.0.2.1 ::1 example.com ."
)
POLICIES = pieces(POLICY_WORDS)
RECORD_WORDS = "v=DMARC1; p= sp= np= none reject pct= 100 t=y psd= rua=mailto: a@b , ! ; = adkim=s"
RECORDS = pieces(RECORD_WORDS)
AUTHOR_WORDS = 'a@example.com < > ( ) " \\ , ; : @ =?utf-8?q? ?= From: é'
AUTHORS = pieces(AUTHOR_WORDS)
RESULT_WORDS = 'mx.example.org ; = ( ) " \\ spf pass . 1 / none =? ?='
RESULTS = pieces(RESULT_WORDS)


class Answers:
    """A lookup that answers every question with the same octets."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def query(self, _name: str, kind: str) -> Answer[Any]:
        values: dict[str, Any] = {
            "TXT": self.text,
            "MX": (1, "mx.example.com"),
            "A": "192.0.2.9",
            "AAAA": "2001:db8::",
        }
        return Answer("ok", (values[kind],))

    def txt(self, name: str) -> Answer[Any]:
        return self.query(name, "TXT")

    def ptr(self, _address: str) -> Answer[Any]:
        return Answer("ok", ("host.example.com",))


@fuzzed
@given(TAGS)
def test_tag_lists(value: bytes) -> None:
    with contextlib.suppress(BadSignatureError):
        assert all(read_tags(value))


@fuzzed
@given(TAGS | st.binary(max_size=400).map(lambda data: b"p=" + base64.b64encode(data)))
def test_keys(record: bytes) -> None:
    with contextlib.suppress(BadSignatureError):
        assert 0 < read_key.__wrapped__(record).bits <= 8192


@fuzzed
@given(TAGS, TAGS | st.just(KEY))
def test_dkim(signature: bytes, record: bytes) -> None:
    value = b"v=1; a=rsa-sha256; d=example.com; s=s; h=from; bh=AAAA; b=AAAA; " + signature
    for text in (signature, value):
        raw = b"DKIM-Signature:" + text + b"\r\nFrom: a@example.com\r\n\r\n"
        section = headers.split(raw)
        material = Material(section.fields, raw, section.body_start)
        lookup: Any = Answers(record)
        for found in check_dkim(material, read_signatures(material, SETTINGS), lookup, SETTINGS):
            assert found.result in ("fail", "permerror", "policy")
            assert (found.domain + found.selector + found.identity + found.reason).isprintable()


@fuzzed
@given(TAGS, TAGS, TAGS)
def test_arc(seal: bytes, message: bytes, results: bytes) -> None:
    common = b" i=1; a=rsa-sha256; d=example.com; s=s; b=AAAA; "
    raw = b"ARC-Seal:" + common + b"cv=none; " + seal
    raw += b"\r\nARC-Message-Signature:" + common + b"h=from; bh=AAAA; " + message
    raw += b"\r\nARC-Authentication-Results: i=1;" + results + b"\r\nFrom: a@example.com\r\n\r\n"
    section = headers.split(raw)
    material = Material(section.fields, raw, section.body_start)
    lookup: Any = Answers(KEY)
    found = check_arc(material, lookup, SETTINGS)
    assert found.result in ("fail", "none")
    assert (found.reason + found.results + "".join(found.sealers)).isprintable()
    with contextlib.suppress(BadSignatureError):
        seal_pieces(material, 50)


@fuzzed
@given(POLICIES)
def test_spf(record: bytes) -> None:
    lookup: Any = Answers(b"v=spf1 " + record)
    session = Session(client_ip="192.0.2.1", helo="host.example.com")
    for found in check_spf(session, Envelope("a@example.com", ()), lookup):
        assert found.result in ("pass", "fail", "softfail", "neutral", "none", "permerror")
        assert found.reason.isprintable()


@fuzzed
@given(RECORDS)
def test_dmarc_records(text: bytes) -> None:
    for record_text in (text, b"v=DMARC1; " + text):
        try:
            record = read_record(record_text.decode("utf-8", "replace"), any_order=len(text) % 2 == 0)
        except MalformedRecordError:
            continue
        assert record is None or 0 <= record.percent <= 100


@fuzzed
@given(AUTHORS)
def test_author_domains(value: bytes) -> None:
    content = mime.parse(b"From: " + value + b"\r\n\r\n")
    domain, problem = author_domain(content)
    found = author_domains(content)
    assert len(found) <= 6
    assert "" not in found[:-1]  # it ends those that are too many
    assert all(organizational(one) or one for one in found if one)
    assert bool(domain) != bool(problem)
    assert domain.isascii()
    organizational(domain)


@fuzzed
@given(RESULTS)
def test_authentication_results(value: bytes) -> None:
    field = HeaderField("Authentication-Results", b"Authentication-Results:" + value)
    claimed = forged([field], "mx.example.org") == (1,)
    try:
        name, results = read_results(value)
    except ValueError:
        return
    assert not name.isascii() or claimed == (name == "mx.example.org")
    assert all(result.method and result.result for result in results)
    assert read_results(value, tolerant=True) == (name, results)


@fuzzed
@given(RESULTS)
def test_what_relays_state(value: bytes) -> None:
    raw = b"Authentication-Results: mx.example.org; spf=pass smtp.mailfrom=a@example.com" + value
    content = mime.parse(raw + b"\r\nFrom: a@example.com\r\n\r\n")
    results = relayed_results(content, ("mx.example.org",))
    for spf in relayed_spf(results, Envelope("a@example.com", ())):
        assert spf.result in ("pass", "fail", "softfail", "neutral", "none", "temperror", "permerror")
        assert spf.domain.isprintable()
    relayed_iprev(results)


NAMES = st.text(max_size=40) | pieces('a@example.com " \\ ( ) ; = < > é').map(
    lambda data: data.decode("utf-8", "replace")
)


@fuzzed
@given(sender=NAMES, helo=NAMES, domain=NAMES, reason=NAMES)
def test_received_spf(sender: str, helo: str, domain: str, reason: str) -> None:
    mail = Mail("0" * 16, Session(client_ip="192.0.2.1", helo=helo), Envelope(sender, ()), b"")
    evidence = Evidence(spf=(Spf("mailfrom", domain, "fail", reason),))
    value = received_spf("mx.example.org", evidence, mail)
    Edit(EditOp.INSERT, "Received-SPF", value)  # refuses whatever breaks a header
    assert value.count("\n") == 5
    quoted = re.sub(r'"(?:[^"\\]|\\.)*"', "x", value)
    assert quoted.count(";") == 4
    assert "(" not in quoted.partition(")")[2]


STATEMENT_WORDS = (
    'x.example ; = ( ) " \\ dmarc=pass dkim=pass spf=fail header.from= header.d= header.i=@ smtp.mailfrom=a@ '
    "example.com . action=none reason="
)
STATEMENTS = pieces(STATEMENT_WORDS)


@fuzzed
@given(results=STATEMENTS, record=RECORDS)
def test_what_sealers_state(results: bytes, record: bytes) -> None:
    value, text = results.decode("utf-8", "replace"), record.decode("utf-8", "replace")
    dmarc = Dmarc("fail", "example.com", "example.com", "reject", record=text)
    mail = Mail("0" * 16, Session(client_ip="192.0.2.1"), Envelope("", ()), b"")
    evidence = Evidence(dmarc=dmarc, arc=Arc("pass", ("seal.example",), value, covers_all=True))
    found = list(examine(mail, mime.parse(b"From: a@example.com\r\n\r\n"), evidence, SEALERS))
    assert [one.name for one in found] in (["DMARC_FORWARDED"], ["DMARC_REJECT"], ["DMARC_QUARANTINE"])
    assert all(one.text.isprintable() and len(one.text) <= 500 for one in found)
    if "pass" not in value.lower() or "example.com" not in value.lower():
        assert found[0].name != "DMARC_FORWARDED"


@fuzzed
@given(
    st.binary(max_size=120),
    st.integers(0, 5),
    st.integers(0, 3),
    st.sampled_from(["A", "TXT", "MX", "TLSA", "PTR"]),
)
def test_dns_answers(data: bytes, answers: int, authorities: int, kind: Any) -> None:
    header = struct.pack("!HHHHHH", 1, 0x8180, 1, answers, authorities, 0)
    wire = header + b"\7example\3com\0\0\1\0\1" + data.replace(b"@", b"\xc0\x0c\0\x10\0\1\0\0\0\0\0")
    try:
        answer, ttl = read_answer(("example.com", kind), wire, trusted=True)
    except (ValueError, dns.exception.DNSException):
        return
    assert answer.status in ("ok", "nodata", "nxdomain")
    assert ttl >= 0
