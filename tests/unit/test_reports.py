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
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrib.lab.dns import DnsStub
from gateway.auth.dkim import check_dkim, read_signatures
from gateway.auth.dmarc import read_record
from gateway.auth.outgoing import Signing, signed_by_us
from gateway.auth.settings import AuthSettings
from gateway.auth.sign import SigningKey, generate_key, key_record, read_private_key
from gateway.auth.signature import Material
from gateway.delivery.relay import RecipientResult
from gateway.dns import DnsSettings, Lookup, Resolver
from gateway.mail.headers import split
from gateway.mail.mime import parse
from gateway.mail.types import Action, Contribution, Dkim, Dmarc, Envelope, Evidence, Spf
from gateway.reports import send as sending
from gateway.reports.aggregate import NAMESPACE, Report, attached, packed, xml
from gateway.reports.destinations import destinations, is_address, read_uri
from gateway.reports.heading import Heading, mail
from gateway.reports.observe import Observer, disposition, is_domain, observation_of
from gateway.reports.send import Reporter, send
from gateway.reports.settings import ReportSettings
from gateway.store.counts import DAY
from gateway.store.dmarc import Observation, Observations, summaries
from tests.shared import SHARED
from tests.stored import RAW, mail_for, verdict_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.mail.types import Mail, Verdict
    from gateway.reports.aggregate import Format
    from gateway.store.database import Database

RECORD = "v=DMARC1; p=reject; sp=quarantine; adkim=s; pct=40; fo=1:d; rua=mailto:rua@example.net"
SETTINGS = ReportSettings(enabled=True, email="dmarc@example.org", envelope_sender="bounces@example.org")
SEEN = Observation(
    source_ip="192.0.2.7",
    header_from="news.example.net",
    envelope_from="example.net",
    envelope_to="example.com",
    policy="quarantine",
    disposition="none",
    dkim=True,
    spf=False,
    signatures=(("example.net", "s1", "pass"), ("example.org", "x", "permerror")),
    spf_domain="example.net",
    spf_result="softfail",
)
FAILED = replace(SEEN, disposition="quarantine", dkim=False, reason="local_policy", envelope_to="")
FORMATS: list[Format] = ["rfc7489", "rfc9990"]


def report(*rows: tuple[Observation, int], record: str = RECORD, **changes: Any) -> Report:
    read = read_record(record, any_order=True)
    assert read
    about = Heading(
        domain="example.net",
        day=20_000,
        submitter="mx.example.org",
        organization="Example & Söhne",
        email="dmarc@example.org",
        contact="https://example.org/?a=1&b=2",
    )
    return Report(replace(about, **changes), read, "psl", rows or ((SEEN, 3), (FAILED, 1)))


# ---------------------------------------------------------------- the XML against the schemas

# Content of each element: "," is a sequence, "&" any order; ? * + as in a DTD. RFC 7489 Appendix C.
_ANY, _NUMBER, _ALIGNMENT = r".*", r"[0-9]+", "[rs]"
_POLICY, _PASS = "none|quarantine|reject", "pass|fail"
_DKIM = "none|pass|fail|policy|neutral|temperror|permerror"
SCHEMA_7489: dict[str, str | tuple[str, str]] = {
    "feedback": (",", "version report_metadata policy_published record+"),
    "feedback/version": r"1\.0",
    "report_metadata": (",", "org_name email extra_contact_info? report_id date_range error*"),
    "date_range": ("&", "begin end"),
    "policy_published": ("&", "domain adkim? aspf? p sp pct fo"),
    "record": (",", "row identifiers auth_results"),
    "row": ("&", "source_ip count policy_evaluated"),
    "policy_evaluated": (",", "disposition dkim spf reason*"),
    "reason": ("&", "type comment?"),
    "identifiers": ("&", "envelope_to? envelope_from header_from"),
    "auth_results": (",", "dkim* spf+"),
    "auth_results/dkim": ("&", "domain selector result human_result?"),
    "auth_results/spf": ("&", "domain scope result"),
    "begin": _NUMBER,
    "end": _NUMBER,
    "adkim": _ALIGNMENT,
    "aspf": _ALIGNMENT,
    "p": _POLICY,
    "sp": _POLICY,
    "pct": _NUMBER,
    "fo": "[01ds](:[01ds])*",
    "source_ip": r"[0-9.]+|[0-9a-f:]+",
    "count": _NUMBER,
    "disposition": _POLICY,
    "policy_evaluated/dkim": _PASS,
    "policy_evaluated/spf": _PASS,
    "type": "forwarded|sampled_out|trusted_forwarder|mailing_list|local_policy|other",
    "scope": "helo|mfrom",
    "dkim/result": _DKIM,
    "spf/result": "none|neutral|pass|fail|softfail|temperror|permerror",
}
SCHEMA_9990 = SCHEMA_7489 | {  # RFC 9990 Appendix A
    "report_metadata": ("&", "org_name email extra_contact_info? report_id date_range error? generator?"),
    "policy_published": ("&", "domain discovery_method? p sp? np? fo? adkim? aspf? testing?"),
    "identifiers": ("&", "envelope_to? envelope_from? header_from"),
    "auth_results": (",", "dkim* spf?"),
    "auth_results/spf": ("&", "domain scope? result human_result?"),
    "discovery_method": "psl|treewalk",
    "np": _POLICY,
    "testing": "[ny]",
    "disposition": "none|pass|quarantine|reject",
    "type": "local_policy|mailing_list|other|policy_test_mode|trusted_forwarder",
    "scope": "mfrom",
}
SCHEMAS: dict[str, Mapping[str, str | tuple[str, str]]] = {"rfc7489": SCHEMA_7489, "rfc9990": SCHEMA_9990}


def wrong(root: ET.Element, form: str) -> list[str]:
    """What does not fit the schema."""
    schema = SCHEMAS[form]
    space = f"{{{NAMESPACE}}}" if form == "rfc9990" else ""
    found: list[str] = []

    def check(element: ET.Element, parent: str) -> None:
        name = element.tag.removeprefix(space)
        rule = schema.get(f"{parent}/{name}", schema.get(name, _ANY))
        if isinstance(rule, str):
            if len(element) or not re.fullmatch(rule, element.text or ""):
                found.append(f"{parent}/{name}: {element.text!r}")
            return
        order, particles = rule
        tags = [child.tag.removeprefix(space) for child in element]
        if order == "&":
            names = [p.rstrip("?") for p in particles.split()]
            tags.sort(key=lambda tag: names.index(tag) if tag in names else len(names))
        pattern = "".join(
            f"(?:{p.rstrip('?*+')} ){p[-1] if p[-1] in '?*+' else ''}" for p in particles.split()
        )
        if not re.fullmatch(pattern, "".join(f"{tag} " for tag in tags)):
            found.append(f"{parent}/{name}: {tags}")
        for child in element:
            check(child, name)

    check(root, "")
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_xml_fits_its_schema(form: Format) -> None:
    null_sender = replace(SEEN, envelope_from="", spf_domain="mx.example.net", spf_scope="helo")
    bare = Observation("2001:db8::1", "example.net", "", "", "none", "none", dkim=False, spf=False)
    set_aside = replace(FAILED, spf_result="policy", reason="trusted_forwarder")
    sampled = replace(FAILED, reason="sampled_out")
    made = report(*((seen, 1) for seen in (SEEN, FAILED, null_sender, bare, set_aside, sampled)))
    root = ET.fromstring(xml(made, form))
    assert wrong(root, form) == []
    assert len(root.findall("{*}record")) == 6
    assert wrong(ET.fromstring(xml(replace(made, rows=()), form)), form) != []  # the check can fail


@pytest.mark.skipif(SHARED is None, reason="the samples are not here")
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("aggregate/rfc9990-sample.xml", "rfc9990"),
        ("mail-auth/dmarc-feedback/004.xml", "rfc9990"),
        ("mail-auth/dmarc-feedback/003.xml", "rfc7489"),
        ("aggregate/protection.outlook.com!example.com!1711756800!1711843200.xml", "rfc7489"),
    ],
)
def test_schemas_here_are_those_that_others_write_by(name: str, form: str) -> None:
    assert SHARED
    path = SHARED / "conformance" / "dmarc-rua-samples" / "data" / name
    assert wrong(ET.fromstring(path.read_bytes()), form) == []


def test_xml_says_what_was_seen() -> None:
    root = ET.fromstring(xml(report(), "rfc7489"))
    told = {e.tag: e.text for e in root.iter() if not len(e)} | {"sp": root.findtext("*/sp")}
    assert told["org_name"] == "Example & Söhne"
    assert told["extra_contact_info"] == "https://example.org/?a=1&b=2"
    assert (told["p"], told["sp"], told["adkim"], told["aspf"], told["pct"], told["fo"]) == (
        "reject",
        "quarantine",
        "s",
        "r",
        "40",
        "1:d",
    )
    assert (told["begin"], told["end"]) == (str(20_000 * DAY), str(20_001 * DAY - 1))
    first, second = root.findall("record")
    assert (first.findtext("row/count"), second.findtext("row/count")) == ("3", "1")
    assert first.findtext("row/policy_evaluated/dkim") == "pass"
    assert first.findtext("row/policy_evaluated/spf") == "fail"
    assert [e.text for e in first.findall("auth_results/dkim/result")] == ["pass", "permerror"]
    assert second.findtext("row/policy_evaluated/reason/type") == "local_policy"
    assert second.find("identifiers/envelope_to") is None
    modern = ET.fromstring(xml(report(record="v=DMARC1; np=none; t=y; p=reject"), "rfc9990"))
    told = {e.tag.rpartition("}")[2]: e.text for e in modern.iter() if not len(e)}
    assert (told["testing"], told["np"], told["discovery_method"], told["sp"]) == (
        "y",
        "none",
        "psl",
        "reject",
    )
    assert modern.findtext("{*}record/{*}row/{*}policy_evaluated/{*}disposition") == "pass"


HOSTILE = '</domain><script>&lt;\x00\x1b[31m\r\n"\ud800\ufffe]]><!--\u202e'


@pytest.mark.parametrize("form", FORMATS)
@given(text=st.text(st.characters(), max_size=400) | st.just(HOSTILE))
def test_hostile_values_stay_values(text: str, form: Format) -> None:
    seen = replace(
        SEEN,
        header_from=text,
        envelope_from=text,
        envelope_to=text,
        spf_domain=text,
        signatures=((text, text, "pass"),),
    )
    document = xml(report((seen, 1)), form)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff\ufffe\uffff]", document)
    root = ET.fromstring(document.encode())
    assert wrong(root, form) == []
    assert len(list(root.iter())) <= 50
    assert len(document) < 15_000


def test_packed_is_the_same_each_time() -> None:
    data = packed(report(), "rfc7489")
    assert data == packed(report(), "rfc7489")
    assert gzip.decompress(data).decode() == xml(report(), "rfc7489")


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
    resolver = Resolver(DnsSettings(nameservers=(stub.nameserver,), timeout=0.5, attempts=1, cache_size=0))
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


# ---------------------------------------------------------------- what is counted


def judged(mail: Mail | None = None, **changes: Any) -> tuple[Mail, Evidence, Verdict]:
    """A message that failed p=reject, or was changed so."""
    mail = mail or mail_for(raw=RAW)
    evidence = Evidence(
        spf=(Spf("mailfrom", "example.net", "fail"), Spf("helo", "mx.example.net", "none")),
        dkim=(
            Dkim("fail", "example.org", "z"),
            Dkim("pass", "other.example", "o"),
            Dkim("pass", "example.net", "s1", covers_all=False),
            Dkim("permerror"),
        ),
        dmarc=Dmarc("fail", "news.example.net", "example.net", "reject", 100, (), RECORD),
    )
    dmarc = {key: changes.pop(key) for key in list(changes) if key in Dmarc.__slots__}
    assert evidence.dmarc
    evidence = replace(evidence, dmarc=replace(evidence.dmarc, **dmarc))
    verdict = replace(
        verdict_for(mail),
        action=changes.pop("action", Action.REJECT),
        contributions=(Contribution("DMARC_REJECT", 0.0, "", changes.pop("decides", Action.REJECT)),),
    )
    return mail, replace(evidence, **changes), verdict


def test_observation() -> None:
    mail, evidence, verdict = judged()
    assert evidence.dmarc
    assert observation_of(mail, evidence, evidence.dmarc, verdict) == Observation(
        source_ip="203.0.113.5",
        header_from="news.example.net",
        envelope_from="example.net",
        envelope_to="example.com",
        policy="reject",
        disposition="reject",
        dkim=False,
        spf=False,
        signatures=(
            ("other.example", "o", "pass"),
            ("example.net", "s1", "policy"),
            ("example.org", "z", "fail"),
        ),
        spf_domain="example.net",
        spf_result="fail",
    )


@pytest.mark.parametrize(
    ("decides", "action", "expected", "reason"),
    [
        (Action.REJECT, Action.REJECT, "reject", ""),
        (Action.REJECT, Action.QUARANTINE, "quarantine", "local_policy"),
        (Action.QUARANTINE, Action.REJECT, "quarantine", "local_policy"),  # rejected for something else
        (Action.TAG, Action.TAG, "none", "local_policy"),
        (None, Action.QUARANTINE, "none", "local_policy"),
    ],
)
def test_disposition(decides: Action | None, action: Action, expected: str, reason: str) -> None:
    mail, evidence, verdict = judged(decides=decides, action=action)
    assert disposition(verdict) == expected
    assert evidence.dmarc
    seen = observation_of(mail, evidence, evidence.dmarc, verdict)
    assert seen
    assert seen.reason == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"percent": 10}, "sampled_out"),
        ({"spf": (Spf("mailfrom", "example.net", "policy"),)}, "trusted_forwarder"),
        ({"result": "pass", "aligned": ("spf",)}, ""),
        ({"policy": "none"}, ""),
    ],
)
def test_reasons(changes: dict[str, Any], reason: str) -> None:
    mail, evidence, verdict = judged(decides=None, action=Action.TAG, **changes)
    assert evidence.dmarc
    seen = observation_of(mail, evidence, evidence.dmarc, verdict)
    assert seen
    assert seen.reason == reason


class Counted:
    """In place of `Observations`."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, str, Observation]] = []

    def add(self, *what: Any) -> None:
        self.seen.append(what)


def count(mail: Mail, evidence: Evidence, verdict: Verdict, settings: ReportSettings = SETTINGS) -> int:
    store = Counted()
    Observer(store, settings).observe(mail, parse(mail.raw), evidence, verdict)  # type: ignore[arg-type]  # stands in
    return len(store.seen)


A_REPORT = RAW.replace(b"Subject: A chance", b"Subject: Report Domain: example.org Submitter: example.net")
WITHOUT_IP = replace(mail_for(), session=replace(mail_for().session, client_ip=""))


@pytest.mark.parametrize(
    ("mail", "changes", "expected"),
    [
        (None, {}, 1),
        (None, {"action": Action.DEFER}, 0),  # comes again
        (None, {"record": "v=DMARC1; p=reject"}, 0),
        (None, {"record": "v=DMARC1; p=reject; RUA = mailto:a@example.net"}, 1),
        (None, {"policy": ""}, 0),
        (None, {"organizational": "a/../b.example"}, 0),
        (None, {"organizational": "a b.example"}, 0),
        (None, {"organizational": ""}, 0),
        (mail_for(raw=A_REPORT), {}, 1),  # forged: failed
        (mail_for(raw=A_REPORT), {"result": "pass", "aligned": ("dkim",)}, 0),
        (mail_for("Dmarc@example.org"), {}, 0),
        (mail_for("dmarc@example.org", "bounces@example.org"), {}, 0),
        (mail_for("dmarc@example.org", "bob@example.com"), {}, 1),
        (mail_for(raw=RAW.replace(b"alice@example.net", b"DMARC@example.org")), {}, 0),
        (WITHOUT_IP, {}, 0),
    ],
)
def test_what_is_counted(mail: Mail | None, changes: dict[str, Any], expected: int) -> None:
    assert count(*judged(mail, **changes)) == expected
    if expected == 0:
        assert count(*judged()) == 1


def test_no_dmarc_is_not_counted() -> None:
    mail, _, verdict = judged()
    assert count(mail, Evidence(), verdict) == 0


def test_a_failure_to_count_is_not_the_messages() -> None:
    class Broken:
        def add(self, *_: object) -> None:
            raise RuntimeError

    mail, evidence, verdict = judged()
    Observer(Broken(), SETTINGS).observe(mail, parse(mail.raw), evidence, verdict)  # type: ignore[arg-type]  # stands in


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "a.", "A.b", "a/b.c", "../x", "a\n.b", "-a.b", "x" * 64, "ä.b"]
)
def test_no_policy_domains(text: str) -> None:
    assert not is_domain(text)
    assert is_domain("_x.a-1.example")


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
