# SPDX-License-Identifier: GPL-2.0-or-later
"""The XML of DMARC reports: by the schemas, and with hostile values."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reports.aggregate import NAMESPACE, packed, xml
from gateway.store.counts import DAY
from gateway.store.dmarc import Observation
from tests.observed import FAILED, FORMATS, SEEN, report
from tests.shared import SHARED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.reports.aggregate import Format
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
