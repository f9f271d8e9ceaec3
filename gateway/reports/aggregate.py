# SPDX-License-Identifier: GPL-2.0-or-later
"""The XML of an aggregate report (RFC 7489 Appendix C, RFC 9990), and its name.

Writes hostile text: domains and selectors of strangers. Every value passes `_element`: printable
first, which leaves no character that XML cannot hold, then escaped. Written line by line: a tree
of ten thousand records would cost more, and the schema fixes the order of elements anyway.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from xml.sax.saxutils import escape  # writes only; nothing is parsed

from gateway import __version__
from gateway.mail.headers import printable
from gateway.reports.heading import Attached

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.auth.dmarc import Method, Record
    from gateway.reports.heading import Heading
    from gateway.store.dmarc import Observation

Format = Literal["rfc7489", "rfc9990"]
NAMESPACE: Final = "urn:ietf:params:xml:ns:dmarc-2.0"
_LONGEST: Final = 300  # characters of a value
_OPTIONS: Final = re.compile(r";[ \t]*fo[ \t]*=[ \t]*([01ds](?:[ \t]*:[ \t]*[01ds]){0,3})[ \t]*(?:;|\Z)")


@dataclass(frozen=True, slots=True)
class Report:
    """One report: what was seen of a policy domain on a day, and how often, under its record."""

    about: Heading
    record: Record
    method: Method
    rows: Sequence[tuple[Observation, int]]

    @property
    def filename(self) -> str:
        """The name that RFC 7489 §7.2.1.1 prescribes. Both domains are plain: no slash, no space."""
        about = self.about
        return f"{about.submitter}!{about.domain}!{about.begin}!{about.end}.xml.gz"


def packed(report: Report, form: Format) -> bytes:
    """The XML in gzip, the same octets each time."""
    return gzip.compress(xml(report, form).encode(), mtime=0)


def xml(report: Report, form: Format) -> str:
    """The report as an XML document.

    RFC 7489's schema has a namespace that no sender writes and no consumer expects; nor do we.
    """
    root = f'<feedback xmlns="{NAMESPACE}">' if form == "rfc9990" else "<feedback>"
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', root, "<version>1.0</version>"]
    lines += _metadata(report, form)
    lines += _policy(report, form)
    for observation, count in report.rows:
        lines += _record(observation, count, form)
    return "\n".join([*lines, "</feedback>", ""])


def attached(report: Report, form: Format) -> Attached:
    """The report as the mail of RFC 7489 §7.2.1.1 carries it."""
    domain, submitter = report.about.domain, report.about.submitter
    return Attached(
        id=report.about.id(),
        filename=report.filename,
        data=packed(report, form),
        part="application/gzip",
        whole="multipart/mixed",
        told=f"This is a DMARC aggregate report by {submitter} about mail from {domain}",
        record="policy",
    )


def _element(name: str, value: object) -> str:
    return f"<{name}>{escape(printable(str(value), _LONGEST))}</{name}>"


def _metadata(report: Report, form: Format) -> Iterator[str]:
    about = report.about
    yield "<report_metadata>"
    yield _element("org_name", about.organization)
    yield _element("email", about.email)
    if about.contact:
        yield _element("extra_contact_info", about.contact)
    yield _element("report_id", about.id())
    yield f"<date_range>{_element('begin', about.begin)}{_element('end', about.end)}</date_range>"
    if form == "rfc9990":
        yield _element("generator", f"Mailwarden {__version__}")
    yield "</report_metadata>"


def _policy(report: Report, form: Format) -> Iterator[str]:
    record = report.record
    fo = _OPTIONS.search(record.text.lower())
    yield "<policy_published>"
    yield _element("domain", report.about.domain)
    if form == "rfc9990":
        yield _element("discovery_method", "treewalk" if report.method == "tree-walk" else "psl")
    yield _element("adkim", record.adkim)
    yield _element("aspf", record.aspf)
    yield _element("p", record.p)
    yield _element("sp", record.sp or record.p)
    if form == "rfc9990":
        yield _element("np", record.np or record.sp or record.p)
        yield _element("testing", "y" if record.testing else "n")
    else:
        yield _element("pct", record.percent)
    yield _element("fo", "".join(fo[1].split()) if fo else "0")
    yield "</policy_published>"


def _record(seen: Observation, count: int, form: Format) -> Iterator[str]:
    """One record: row, identifiers, results, in this order."""
    done = seen.disposition
    if form == "rfc9990" and (seen.dkim or seen.spf) and seen.policy != "none" and done == "none":
        done = "pass"  # RFC 9990: nothing was done, and something would have been
    yield "<record><row>"
    yield _element("source_ip", seen.source_ip) + _element("count", count)
    yield "<policy_evaluated>"
    yield _element("disposition", done)
    yield _element("dkim", "pass" if seen.dkim else "fail") + _element("spf", "pass" if seen.spf else "fail")
    if seen.reason:
        sampled = seen.reason == "sampled_out" and form == "rfc9990"
        yield f"<reason>{_element('type', 'policy_test_mode' if sampled else seen.reason)}</reason>"
    yield "</policy_evaluated></row><identifiers>"
    if seen.envelope_to:
        yield _element("envelope_to", seen.envelope_to)
    yield _element("envelope_from", seen.envelope_from)
    yield _element("header_from", seen.header_from)
    yield "</identifiers><auth_results>"
    for domain, selector, result in seen.signatures:
        values = (
            _element("domain", domain) + _element("selector", selector) + _element("result", _dkim(result))
        )
        yield f"<dkim>{values}</dkim>"
    # RFC 9990 knows no other scope; for the null sender the domain is HELO's (RFC 7208 §2.4).
    scope = "mfrom" if form == "rfc9990" else seen.spf_scope
    values = _element("domain", seen.spf_domain or seen.envelope_from or seen.header_from)
    values += _element("scope", scope) + _element("result", _spf(seen.spf_result))
    yield f"<spf>{values}</spf>"
    yield "</auth_results></record>"


def _dkim(result: str) -> str:
    return "fail" if result == "softfail" else result


def _spf(result: str) -> str:
    """Our word for a result that we set aside is in no schema of reports: no opinion."""
    return "neutral" if result == "policy" else result
