# SPDX-License-Identifier: GPL-2.0-or-later
"""DMARC aggregate reports: what is counted, what the XML says, where it may go, and that it goes once."""

from __future__ import annotations

import gzip
import re
import time
from dataclasses import replace
from email import message_from_bytes
from email.policy import default
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from contrib.lab.dns import DnsStub
from gateway.auth.dkim import check_dkim, read_signatures
from gateway.auth.outgoing import Signing, signed_by_us
from gateway.auth.settings import AuthSettings
from gateway.auth.sign import SigningKey, generate_key, key_record, read_private_key
from gateway.auth.signature import Material
from gateway.delivery.relay import RecipientResult
from gateway.dns import DnsSettings, Lookup, Resolver
from gateway.mail.headers import split
from gateway.mail.types import Envelope
from gateway.reports import send as sending
from gateway.reports.aggregate import attached, packed
from gateway.reports.destinations import destinations, is_address, read_uri
from gateway.reports.heading import mail
from gateway.reports.send import Reporter, send
from gateway.reports.settings import ReportSettings
from gateway.store.counts import DAY
from gateway.store.dmarc import Observation, Observations, summaries
from tests.observed import RECORD, SEEN, SETTINGS, report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.store.database import Database


# ---------------------------------------------------------------- the message


def test_message_is_as_the_rfc_has_it() -> None:
    made = report()
    data = packed(made, "rfc7489")
    raw = mail(
        made.about, attached(made, "rfc7489"), ["rua@example.net", "other@example.net"], now=1_800_000_000
    )
    assert raw == raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert raw.isascii()
    assert max(map(len, raw.split(b"\r\n"))) < 998
    parsed = message_from_bytes(raw, policy=default)
    assert parsed["Subject"] == (
        f"Report Domain: example.net Submitter: mx.example.org Report-ID: <{made.about.id()}>"
    )
    assert re.fullmatch(r"[0-9a-f]{20}@mx\.example\.org", made.about.id())
    assert parsed["Message-ID"] == f"<{made.about.id()}>"
    assert (parsed["From"], parsed["Auto-Submitted"]) == ("dmarc@example.org", "auto-generated")
    assert parsed["To"].addresses[1].addr_spec == "other@example.net"
    assert not parsed.defects
    text, part = parsed.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert part.get_content_type() == "application/gzip"
    assert part.get_filename() == f"mx.example.org!example.net!{20_000 * DAY}!{20_001 * DAY - 1}.xml.gz"
    assert part.get_content() == data


def test_message_is_signed(stub: DnsStub, lookup: Lookup) -> None:
    private = read_private_key(generate_key("ed25519"))
    stub.add("s1._domainkey.example.org", {"TXT": [key_record(private)]})
    raw = mail(report().about, attached(report(), "rfc7489"), ["rua@example.net"])
    whole = signed_by_us(raw, "example.org", Signing((SigningKey("example.org", "s1", private),)))
    assert whole.endswith(raw)
    section = split(whole)
    material = Material(section.fields, whole, section.body_start)
    (found,) = check_dkim(material, read_signatures(material, AuthSettings()), lookup, AuthSettings())
    assert (found.result, found.domain, found.covers_all) == ("pass", "example.org", True)
    assert signed_by_us(raw, "other.example", Signing((SigningKey("example.org", "s1", private),))) == raw


# ---------------------------------------------------------------- destinations

VALID = ["a@example.net", "a.b+c=d@xn--bcher-kva.example", "dmarc_rua@a.b.c.d.example"]
NOT_VALID = [
    "",
    "a",
    "@example.net",
    "a@",
    "a@localhost",
    "a@example..net",
    "a@-x.example",
    "a@[192.0.2.1]",
    '"a b"@example.net',
    ".a@example.net",
    "a%b@example.net",
    "a!b@example.net",
    "a|b@example.net",
    "a@b@example.net",
    "a@example.net\r\nRCPT TO:<x@y.example>",
    "a@example.net>",
    "a b@example.net",
    "a\0@example.net",
    "ä@example.net",
    "x" * 65 + "@example.net",
    "a@" + "x." * 126 + "example",
]


@pytest.mark.parametrize("text", VALID)
def test_addresses(text: str) -> None:
    assert is_address(text)
    assert read_uri(f"MailTo:{text}") == (text, None)


@pytest.mark.parametrize("text", NOT_VALID)
def test_no_addresses(text: str) -> None:
    assert not is_address(text)
    assert read_uri(f"mailto:{text}") is None


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mailto:a@example.net!10m", ("a@example.net", 10 << 20)),
        ("mailto:a@example.net!50K", ("a@example.net", 50 << 10)),
        ("mailto:a@example.net!7", ("a@example.net", 7)),
        ("mailto:a%2Bb@example.net", ("a+b@example.net", None)),
        ("mailto:a%21b@example.net", None),
        ("mailto:a@example.net%0d%0aBcc:x@example.org", None),
        ("mailto:a@example.net?subject=x", None),
        ("mailto:a@example.net!10x", None),
        ("https://example.net/report", None),
        ("file:///etc/passwd", None),
    ],
)
def test_uris(uri: str, expected: object) -> None:
    assert read_uri(uri) == expected


AUTHORITY = "example.net._report._dmarc."
ZONE: dict[str, Any] = {
    f"{AUTHORITY}agrees.example": {"TXT": ["v=DMARC1"]},
    f"{AUTHORITY}spaced.example": {"TXT": ["other", " V = DMARC1 ; "]},
    "*.net._report._dmarc.all.example": {"TXT": ["v=DMARC1;"]},
    f"{AUTHORITY}moved.example": {"TXT": ["v=DMARC1; rua=mailto:new@moved.example!1m"]},
    f"{AUTHORITY}points.example": {"TXT": ["v=DMARC1; rua=mailto:victim@elsewhere.example"]},
    f"{AUTHORITY}broken.example": {"TXT": ["v=DMARC1; rua=mailto:a@broken.example; =;"]},
    f"{AUTHORITY}wrong.example": {"TXT": ["v=DMARC10", "v=dmarc1", "x v=DMARC1"]},
    f"{AUTHORITY}fails.example": "SERVFAIL",
}
FOREIGN = [
    ("rua@example.net", "good", "rua@example.net", None),
    ("rua@reports.example.net", "good", "rua@reports.example.net", None),
    ("rua@AGREES.example", "good", "rua@AGREES.example", None),
    ("rua@spaced.example", "good", "rua@spaced.example", None),
    ("rua@all.example", "good", "rua@all.example", None),
    ("rua@moved.example", "good", "new@moved.example", 1 << 20),
    ("rua@points.example", "refused", "rua@points.example", None),
    ("rua@broken.example", "good", "a@broken.example", None),
    ("rua@wrong.example", "refused", "rua@wrong.example", None),
    ("rua@unknown.example", "refused", "rua@unknown.example", None),
    ("rua@fails.example", "unknown", "rua@fails.example", None),
    ("rua@net", "refused", "", None),
]


@pytest.fixture(scope="module")
def stub() -> Iterator[DnsStub]:
    with DnsStub(ZONE) as server:
        yield server


@pytest.fixture
def lookup(stub: DnsStub) -> Lookup:
    resolver = Resolver(DnsSettings(nameservers=(stub.nameserver,), timeout=5.0, attempts=1, cache_size=0))
    return Lookup(resolver, time.monotonic() + 20)


@pytest.mark.parametrize(("address", "status", "used", "limit"), FOREIGN)
def test_foreign_destinations_must_agree(
    address: str, status: str, used: str, limit: int | None, lookup: Lookup
) -> None:
    (found,) = destinations([f"mailto:{address}"], "example.net", lookup, "psl", 5)
    assert (found.status, found.address, found.limit) == (status, used, limit)
    assert bool(found.reason) == (status != "good")


def test_few_destinations_are_asked_about(stub: DnsStub, lookup: Lookup) -> None:
    stub.queries.clear()
    uris = ["mailto:a@example.net", "mailto:A@example.net"] + [f"mailto:a@{n}.all.example" for n in range(18)]
    found = destinations(uris, "example.net", lookup, "psl", 5)
    assert [one.address for one in found] == ["a@example.net", *(f"a@{n}.all.example" for n in range(3)), ""]
    assert len(stub.queries) == 3


def test_a_name_that_the_dns_cannot_hold_is_no_agreement(lookup: Lookup) -> None:
    domain = ".".join(["x" * 60] * 4)
    (found,) = destinations(["mailto:a@all.example"], domain, lookup, "psl", 5)
    assert found.status == "refused"


# ---------------------------------------------------------------- sending

TODAY = 20_500
OK = RecipientResult("delivered", 250, "2.0.0", "Ok")


class Office:
    """A database with counts, and a next hop that answers as told."""

    def __init__(self, database: Database, resolver: Resolver) -> None:
        self.database = database
        self.sent: list[tuple[Envelope, bytes]] = []
        self.answers: dict[str, RecipientResult] = {}
        self.reporter = Reporter(SETTINGS, "example.org", "psl", resolver, self.deliver, Signing())

    def deliver(self, envelope: Envelope, raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
        self.sent.append((envelope, raw))
        return {r: self.answers.get(r, OK) for r in envelope.recipients}

    def see(self, record: str = RECORD, domain: str = "example.net", *seen: Observation) -> None:
        counts = Observations(self.database)
        for one in seen or (SEEN,):
            counts.add(TODAY, domain, record, one)
        counts.close()

    def send(self, **changes: Any) -> list[tuple[str, str]] | None:
        (summary,) = summaries(self.database)
        settings = msgspec.structs.replace(SETTINGS, **changes)
        outcomes = send(self.database, summary, replace(self.reporter, settings=settings))
        return None if outcomes is None else [(one.address, one.status) for one in outcomes]


@pytest.fixture
def office(database: Database, lookup: Lookup) -> Office:
    return Office(database, lookup.resolver)


def test_a_report_is_sent_once(office: Office) -> None:
    office.see()
    assert office.send() == [("rua@example.net", "sent")]
    assert office.send() is None
    ((envelope, raw),) = office.sent
    assert envelope == Envelope("bounces@example.org", ("rua@example.net",))
    attached = list(message_from_bytes(raw, policy=default).iter_parts())[1]
    assert b"<domain>example.net</domain>" in gzip.decompress(attached.get_content())
    assert summaries(office.database)[0].state == "done"


def test_what_was_deferred_goes_out_again_and_only_that(office: Office) -> None:
    office.see("v=DMARC1; p=none; rua=mailto:a@example.net,mailto:b@example.net,mailto:c@example.net")
    office.answers["b@example.net"] = RecipientResult("deferred", 451, "4.3.0", "later")
    office.answers["c@example.net"] = RecipientResult("refused", 550, "5.1.1", "no such user")
    assert office.send() == [
        ("a@example.net", "sent"),
        ("b@example.net", "deferred"),
        ("c@example.net", "refused"),
    ]
    del office.answers["b@example.net"]
    assert office.send() == [("b@example.net", "sent")]
    assert office.sent[1][0].recipients == ("b@example.net",)
    assert office.send() is None
    first, second = (message_from_bytes(raw) for _, raw in office.sent)
    assert first["Message-ID"] == second["Message-ID"]
    assert first.get_payload(1).get_filename() == second.get_payload(1).get_filename()  # type: ignore[union-attr]  # a part


def test_unsure_destinations_wait_and_others_do_not(office: Office, stub: DnsStub) -> None:
    office.see("v=DMARC1; p=none; rua=mailto:a@example.net,mailto:b@fails.example,mailto:c@unknown.example")
    assert office.send() == [
        ("b@fails.example", "deferred"),
        ("c@unknown.example", "skipped"),
        ("a@example.net", "sent"),
    ]
    stub.add(f"{AUTHORITY}fails.example", {"TXT": ["v=DMARC1"]})
    assert office.send() == [("c@unknown.example", "skipped"), ("b@fails.example", "sent")]
    stub.add(f"{AUTHORITY}fails.example", "SERVFAIL")
    assert office.send() is None


def test_size_limits_are_kept(office: Office) -> None:
    office.see("v=DMARC1; p=none; rua=mailto:a@example.net!1k,mailto:b@example.net!1m")
    assert office.send() == [("a@example.net", "skipped"), ("b@example.net", "sent")]
    assert len(office.sent[0][1]) > 1_024


def test_records_are_bounded(office: Office) -> None:
    office.see(RECORD, "example.net", *(replace(SEEN, source_ip=f"192.0.2.{n}") for n in range(50)), SEEN)
    office.send(max_records=7)
    attached = list(message_from_bytes(office.sent[0][1], policy=default).iter_parts())[1]
    document = gzip.decompress(attached.get_content())
    assert document.count(b"<record>") == 7
    assert b"<count>2</count>" in document  # the most frequent is there


@pytest.mark.parametrize(
    "record", ["v=DMARC1; p=none", "v=DMARC1; p=none; rua=https://example.net/", "nonsense", "v=DMARC1; x"]
)
def test_nobody_to_report_to(record: str, office: Office) -> None:
    office.see(record)
    assert office.send() == [("", "skipped")]
    assert office.send() is None
    assert not office.sent


def test_a_crash_leaves_the_report_to_be_sent(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.see()

    def crash(*_: object) -> Sequence[object]:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(sending, "attached", crash)
        with pytest.raises(RuntimeError):
            office.send()
    assert office.send() == [("rua@example.net", "sent")]


@pytest.mark.parametrize(
    "bad",
    [
        {"email": "nobody"},
        {"envelope_sender": "a@b\r\n"},
        {"next_hop": "x"},
        {"max_destinations": 1},
        {"format": "x"},
    ],
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, ReportSettings)
