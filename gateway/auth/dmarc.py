# SPDX-License-Identifier: GPL-2.0-or-later
"""DMARC (RFC 7489), with the tags and, if set, the tree walk of RFC 9989.

Reads hostile text: policy records of strangers. Asks the DNS through the message's `Lookup`.

`fetch` asks for the record and may run beside SPF and DKIM; `evaluate` needs their results.
A message without exactly one author domain (`author.py`) never passes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, cast

from gateway.auth import suffixes
from gateway.mail.domains import to_ascii
from gateway.mail.headers import printable
from gateway.mail.types import Dkim, Dmarc, Spf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.dns import Lookup, Question

Method = Literal["psl", "tree-walk"]
Policy = Literal["none", "quarantine", "reject"]
_POLICIES: Final = ("none", "quarantine", "reject")
_REQUESTS: Final = ("p", "sp", "np")
_MAX_RECORD: Final = 4_096
_VERSION: Final = re.compile(r"[ \t]*v[ \t]*=[ \t]*DMARC1[ \t]*\Z", re.IGNORECASE)
_LOOKS_LIKE_ONE: Final = re.compile(rb"[ \t]*v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)", re.IGNORECASE)
_TAG: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_URI: Final = re.compile(r"mailto:[^\s,!]+@[^\s,!@]+(?:![0-9]{1,18}[kmgt]?)?\Z", re.IGNORECASE)
_PSD: Final[dict[str, Literal["y", "n"]]] = {"y": "y", "n": "n"}
_MAX_WALK: Final = 8  # labels; a longer name is asked for itself and then for its last seven


class MalformedRecordError(ValueError):
    """A record that starts like a policy and cannot be read."""


@dataclass(frozen=True, slots=True)
class Record:
    """A policy record. `p` is None where there is none of use: the record then has no effect."""

    text: str
    p: Policy | None
    sp: Policy | None = None
    np: Policy | None = None
    adkim: Literal["r", "s"] = "r"
    aspf: Literal["r", "s"] = "r"
    percent: int = 100
    testing: bool = False
    psd: Literal["y", "n", "u"] = "u"
    rua: tuple[str, ...] = ()
    ruf: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What `fetch` found out about the author domain."""

    status: Literal["found", "none", "temperror", "permerror"]
    domain: str = ""
    record_domain: str = ""  # where the record is
    record: Record | None = None
    organizational: str = ""
    exists: bool | None = True  # False: the author domain is NXDOMAIN; None: the DNS failed
    reason: str = ""
    doubt: str = ""  # how the DNS failed at a name whose record might count in place of this one


# ---------------------------------------------------------------- the record


def read_record(text: str, *, any_order: bool = False) -> Record | None:
    """Read a policy record; None if it is none, MalformedRecordError if nobody can say what it asks for.

    `any_order` lets `p` stand anywhere, or be left out for "none" (RFC 9989 §4.7); RFC 7489 §6.4 wants
    it first after `v`. What is no tag is passed over (§6.3), so that a slip of the pen behind
    "p=reject" is no way round it; a record that asks for nothing is malformed by it.
    """
    version, semicolon, rest = text.partition(";")
    # The word DMARC1 is case-sensitive (RFC 7489 §6.3), the tag's name is not.
    if not semicolon or not _VERSION.match(version) or "DMARC1" not in version:
        return None
    tags, junk, doubled = _read_tags(rest)
    rua = _addresses(tags.get("rua", ""))
    p, sp, np = (_policy(tags, name) for name in ("p", "sp", "np"))
    misplaced = "p" in tags and not any_order and next(iter(tags)) != "p"
    broken = misplaced or ("sp" in tags and sp is None) or (any_order and "np" in tags and np is None)
    if p is None or broken or doubled:
        # RFC 7489 §6.6.3: without a valid policy, a record that asks for reports counts as p=none.
        harmless = rua or (any_order and "p" not in tags and not broken and not junk)
        if not harmless and (doubled or junk):
            raise MalformedRecordError(f"malformed tag {printable(junk or doubled, 40)}")
        p, sp, np = ("none" if harmless else None), None, None
    elif junk and {p, sp, np} <= {"none", None}:
        raise MalformedRecordError(f"malformed tag {printable(junk, 40)}")
    percent = tags.get("pct", "100")
    return Record(
        text=printable(text, 2_000),
        p=p,
        sp=sp,
        np=np,
        adkim="s" if tags.get("adkim", "r").lower() == "s" else "r",
        aspf="s" if tags.get("aspf", "r").lower() == "s" else "r",
        percent=int(percent) if re.fullmatch(r"[0-9]{1,2}|100", percent) else 100,
        testing=tags.get("t", "n").lower() == "y",
        psd=_PSD.get(tags.get("psd", "").lower(), "u"),
        rua=rua,
        ruf=_addresses(tags.get("ruf", "")),
    )


def _read_tags(text: str) -> tuple[dict[str, str], str, str]:
    """The tags behind the version, names in lower case; the first that is none; a policy tag given twice."""
    tags: dict[str, str] = {}
    junk = doubled = ""
    for spec in text.split(";"):
        name, equals, value = spec.partition("=")
        name = name.strip(" \t").lower()
        if not equals or not _TAG.match(name):
            junk = junk or spec.strip(" \t")
        elif name not in tags:
            tags[name] = value.strip(" \t")
        elif name in _REQUESTS:
            doubled = doubled or name
    return tags, junk, doubled


def _policy(tags: dict[str, str], name: str) -> Policy | None:
    value = tags.get(name, "").lower()
    return cast("Policy", value) if value in _POLICIES else None


def _addresses(text: str) -> tuple[str, ...]:
    uris = [uri.strip(" \t") for uri in text.split(",", 20)[:20]]
    return tuple(uri for uri in uris if _URI.match(uri))


# ---------------------------------------------------------------- finding it


@dataclass(slots=True)
class _Search:
    """The names that are asked for a record, and what went wrong at one of them."""

    lookup: Lookup
    any_order: bool
    failure: str = ""  # how the DNS failed
    note: str = ""  # why what is published there is no record

    def at(self, domain: str) -> Record | None:
        """The one record of a name; several are none at all (RFC 7489 §6.6.3)."""
        answer = self.lookup.txt("_dmarc." + domain)
        if answer.status == "temperror":
            why = printable(answer.reason) or "no answer"
            self.failure = self.failure or f"{why} for _dmarc.{domain}"
            return None
        texts = [value for value in answer.values if _LOOKS_LIKE_ONE.match(value)]
        if len(texts) > 1:
            self.note = self.note or f"{domain} has {len(texts)} records, which count as none"
        if len(texts) != 1:
            return None
        if len(texts[0]) > _MAX_RECORD:
            raise MalformedRecordError("record too long")
        return read_record(texts[0].decode("utf-8", "replace"), any_order=self.any_order)

    def found(self, domain: str, name: str, record: Record, organizational: str) -> Found:
        """A record; one without effect is no answer as long as another might have one."""
        if record.p:
            return Found("found", domain, name, record, organizational, doubt=self.failure)
        if self.failure:
            return self.nothing(domain, organizational)
        reason = "the record has neither a valid p= nor addresses for reports, so it has no effect"
        return Found("none", domain, name, record, organizational, reason=reason)

    def nothing(self, domain: str, organizational: str) -> Found:
        """No record, or none known."""
        if self.failure:
            return Found("temperror", domain, reason=self.failure)
        return Found("none", domain, organizational=organizational, reason=self.note)


def record_questions(domain: str, method: Method) -> list[Question]:
    """The DNS questions that `fetch` will ask, so that they can be asked at once."""
    names = walk(domain) if method == "tree-walk" else [domain, suffixes.organizational(domain) or domain]
    return [("_dmarc." + name, "TXT") for name in names]


def fetch(domain: str, lookup: Lookup, method: Method) -> Found:
    """Find the policy that applies to an author domain. Never raises.

    Where the DNS fails at one name, a record at another one counts in doubt: a name below that its
    owner's servers do not answer for must be no way round the policy above it.
    """
    search = _Search(lookup, any_order=method == "tree-walk")
    try:
        found = (_walk if method == "tree-walk" else _by_suffix)(domain, search)
    except MalformedRecordError as error:
        return Found("permerror", domain, reason=printable(str(error)))
    record = found.record
    differs = record and record.np and record.np != (record.sp or record.p)
    if differs and found.record_domain != domain:
        found = replace(found, exists=_exists(domain, lookup))
    return found


def _exists(domain: str, lookup: Lookup) -> bool | None:
    """Tell whether the name exists; one without data does (RFC 9989 §3.2). None: the DNS failed."""
    answer = lookup.a(domain)
    return None if answer.status == "temperror" else answer.status != "nxdomain"


def organizational_domain(domain: str, lookup: Lookup, method: Method) -> str | None:
    """The organizational domain of any domain, itself if there is none above; None if the DNS failed."""
    if method == "psl":
        return suffixes.organizational(domain) or domain
    search = _Search(lookup, any_order=True)
    records = _records_above(domain, search, own=False)
    return None if search.failure else _organizational(domain, records)


def _by_suffix(domain: str, search: _Search) -> Found:
    """RFC 7489 §6.6.3: the author domain, then its organizational domain."""
    organizational = suffixes.organizational(domain) or domain
    for name in dict.fromkeys((domain, organizational)):
        record = search.at(name)
        if record:
            return search.found(domain, name, record, organizational)
    return search.nothing(domain, organizational)


def walk(domain: str) -> list[str]:
    """The names that the tree walk visits (RFC 9989 §4.10): itself, and its parents up to the top."""
    labels = domain.split(".")
    names = [domain]
    labels = labels[-(_MAX_WALK - 1) :] if len(labels) > _MAX_WALK else labels[1:]
    while labels:
        names.append(".".join(labels))
        labels = labels[1:]
    return names


def _walk(domain: str, search: _Search) -> Found:
    """The record of the author domain, else of the organizational domain, else of a public suffix domain."""
    records = _records_above(domain, search, own=True)
    organizational = _organizational(domain, records)
    for name in dict.fromkeys((domain, organizational, *records)):
        record = records.get(name)
        if record:
            return search.found(domain, name, record, organizational)
    return search.nothing(domain, organizational)


def _records_above(domain: str, search: _Search, *, own: bool) -> dict[str, Record]:
    """The records on the way up. What cannot be read is none, but for the author domain's `own`."""
    records: dict[str, Record] = {}
    for name in walk(domain):
        try:
            record = search.at(name)
        except MalformedRecordError:
            if own and name == domain:
                raise
            continue
        if record:
            records[name] = record
            if record.psd == "n" or (record.psd == "y" and name != domain):
                break
    return records


def _organizational(domain: str, records: dict[str, Record]) -> str:
    """The organizational domain (RFC 9989 §4.10.2)."""
    for name, record in records.items():
        if record.psd == "n":
            return name
        if record.psd == "y" and name != domain:
            return ".".join(domain.split(".")[-name.count(".") - 2 :])
    return min(records, key=lambda name: name.count("."), default=domain)


# ---------------------------------------------------------------- judging


def evaluate(
    found: Found, spf: Iterable[Spf], dkim: Iterable[Dkim], organizational: Callable[[str], str | None]
) -> Dmarc:
    """Judge by what `fetch` found.

    `organizational` gives the organizational domain of an authenticated domain, None if the DNS
    failed. SPF counts for MAIL FROM alone, a signature only if nothing can be added to what it signs (`l=`, a
    field beside a signed one). Which fields he leaves out, From apart, a signer has to know; ARC is stricter.
    With a record in doubt the author domain itself is proof enough, whatever counts; another domain of the
    organization is neither that nor a failure, and then there is no policy.
    """
    record = found.record
    if found.status != "found" or record is None or record.p is None:
        result = "none" if found.status == "found" else found.status
        text = record.text if record else ""
        return Dmarc(result, found.domain, found.organizational, record=text, reason=found.reason)
    checks = [("spf", c.domain, c.result, record.aspf) for c in spf if c.identity == "mailfrom"]
    checks += [("dkim", s.domain, s.result, record.adkim) for s in dkim if s.covers_all]
    passed: list[str] = []
    failing = nearly = False  # a check that might have passed and aligned could not be made, or counted
    for method, domain, word, mode in checks:
        if word in ("pass", "temperror"):
            aligned = _aligned(found, domain, mode, organizational)
            if found.doubt and word == "pass" and aligned is not False and to_ascii(domain) != found.domain:
                nearly = True
            elif aligned and word == "pass":
                passed.append(method)
            failing |= aligned is None or (aligned and word == "temperror")
    unknown = failing or bool(found.doubt) or found.exists is None
    reason = found.doubt or ("no answer from the DNS" if unknown else "nothing aligned")
    return Dmarc(
        result="pass" if passed else "temperror" if unknown else "fail",
        domain=found.domain,
        organizational=found.record_domain,
        policy="" if nearly and not passed else _applied(found, record),
        percent=0 if record.testing else record.percent,
        aligned=tuple(dict.fromkeys(passed)),
        record=record.text,
        reason="" if passed else reason,
    )


def evaluate_authors(problem: str, several: Iterable[Dmarc], *, too_many: bool = False) -> Dmarc:
    """The result of a message without a single author domain: never a pass.

    `several` are the results of its author domains, of which the strictest policy that is failed
    counts (RFC 7489 §6.6.1): an author more must not help a forger. Where there are `too_many` to be
    asked for their policies, it is as if one of them had the strictest: a bound is no place to hide.
    """
    if too_many:
        reason = f"{problem}; too many domains to be asked for their policy, so the strictest counts"
        return Dmarc("permerror", policy="reject", reason=reason)
    # What could not be checked is no proof either, and one of these must be somebody else's anyway.
    failed = [one for one in several if one.result in ("fail", "temperror") and one.policy]
    strictest = max(failed, key=lambda one: (_POLICIES.index(one.policy), one.percent), default=None)
    if strictest is None:
        return Dmarc("permerror", reason=problem)
    reason = f"{problem}; {strictest.domain} fails p={strictest.policy}"
    return Dmarc("permerror", policy=strictest.policy, percent=strictest.percent, reason=reason)


def _aligned(
    found: Found, domain: str, mode: str, organizational: Callable[[str], str | None]
) -> bool | None:
    """Tell whether an authenticated domain aligns with the author domain (RFC 7489 §3.1); None: unknown."""
    name = to_ascii(domain)
    if name is None:
        return False
    if name == found.domain or mode == "s":
        return name == found.domain
    # Its organizational domain is above it. What the DNS of a stranger answers, or does not, changes nothing.
    if name != found.organizational and not name.endswith("." + found.organizational):
        return False
    above = organizational(name)
    return None if above is None else above == found.organizational


def _applied(found: Found, record: Record) -> Policy:
    """The policy for the author domain: p, or for a subdomain np or sp (RFC 9989 §4.7)."""
    policy = cast("Policy", record.p)
    if found.domain == found.record_domain:
        return policy
    below = record.sp or policy
    if found.exists or not record.np:
        return below
    # Of a name that may exist or not, the stricter one is what is looked for proof of.
    return record.np if found.exists is False else max(record.np, below, key=_POLICIES.index)
