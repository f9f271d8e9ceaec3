# SPDX-License-Identifier: GPL-2.0-or-later
"""DMARC: author domains, records, both ways to find them, alignment, failing DNS."""

from __future__ import annotations

import time
from datetime import date, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth import suffixes
from gateway.auth.author import author_domain, author_domains
from gateway.auth.dmarc import (
    MalformedRecordError,
    Method,
    evaluate,
    evaluate_authors,
    fetch,
    organizational_domain,
    read_record,
    walk,
)
from gateway.dns import Answer
from gateway.mail.mime import parse
from gateway.mail.types import Dkim, Dmarc, Spf

QUOTES = '"\\' * 8_000


class FakeLookup:
    """TXT from a dict; "!" fails. Names with an address exist."""

    def __init__(self, txt: dict[str, str | list[str]], existing: tuple[str, ...] = ()) -> None:
        self.records = txt
        self.existing = existing
        self.names: list[str] = []

    def txt(self, name: str) -> Answer[bytes]:
        self.names.append(name)
        found = self.records.get(name)
        if found == "!":
            return Answer("temperror", reason="timed out")
        if found is None:
            return Answer("nxdomain")
        return Answer("ok", tuple(one.encode() for one in ([found] if isinstance(found, str) else found)))

    def a(self, name: str) -> Answer[str]:
        if self.records.get("a " + name) == "!":
            return Answer("temperror", reason="timed out")
        return Answer("nodata" if name in self.existing else "nxdomain")


def judge(domain: str, lookup: Any, *, spf: Any = (), dkim: Any = (), method: Method = "psl") -> Dmarc:
    above = partial(organizational_domain, lookup=lookup, method=method)
    return evaluate(fetch(domain, lookup, method), spf, dkim, above)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("From: a@example.com", "example.com"),
        ('From: "x, y: z;" <a@Example.COM.>', "example.com"),
        ("From: a@example.com (a: comment)", "example.com"),
        ("From: a@col\u00b7legi.example", "xn--collegi-xma.example"),
        ("From: a@b\u00fccher.example", "xn--bcher-kva.example"),
        ("Subject: x", "no From field"),
        ("From: a@example.com\r\nFROM: a@example.com", "2 From fields"),
        ("From: a@example.com, b@example.com", "From has several addresses"),
        ("From: a@example.com <b@example.net>", "example.net"),
        ("From: team: a@example.com;", "From has a group"),
        ("From: undisclosed:;", "From has no address"),
        ("From:", "From has no address"),
        ("From: alice", "From has no address"),
        ("From: a@" + "x" * 70 + ".com", "From has no domain"),
    ],
)
def test_author_domains(fields: str, expected: str) -> None:
    domain, problem = author_domain(parse(f"{fields}\r\n\r\nbody\r\n".encode()))
    assert expected in (domain, problem)
    assert not (domain and problem)


def test_records() -> None:
    record = read_record(
        "v=DMARC1; p=Reject; sp=none; adkim=s; pct=20; rua=mailto:a@example.com!10m, mailto:b, x"
    )
    assert record is not None
    assert (record.p, record.sp, record.np, record.adkim, record.aspf) == ("reject", "none", None, "s", "r")
    assert (record.percent, record.rua, record.psd) == (20, ("mailto:a@example.com!10m",), "u")
    later = read_record("v=DMARC1; t=y; psd=n; p=quarantine", any_order=True)
    assert later is not None
    assert (later.p, later.testing, later.psd) == ("quarantine", True, "n")
    assert read_record("v=spf1 -all") is None
    with pytest.raises(MalformedRecordError):
        read_record("v=DMARC1; p=none; p=none")


@pytest.mark.parametrize(
    ("text", "p", "later"),
    [
        ("v=DMARC1; p=reject;;", "reject", "reject"),
        ("v=DMARC1;; p=reject", "reject", "reject"),
        ("v=DMARC1; p=reject; ; ;", "reject", "reject"),
        ("v=DMARC1; p=reject; junk; =x; a b=c; 9=d", "reject", "reject"),
        ("v=DMARC1; junk; p=quarantine", "quarantine", "quarantine"),
        ("v=DMARC1; p=reject; rua=mailto:a@example.com; rua=mailto:b@example.com", "reject", "reject"),
        ("v=DMARC1; p=reject; pct=all; fo=; ri=x; adkim=x; y=1", "reject", "reject"),
        ("v=DMARC1; p=none; sp=reject; junk", "none", "none"),
        ("v=DMARC1; p=rejected; rua=mailto:a@example.com", "none", "none"),
        ("v=DMARC1; p=reject; sp=x; rua=mailto:a@example.com", "none", "none"),
        ("v=DMARC1; p=reject; p=none; rua=mailto:a@example.com", "none", "none"),
        ("v=DMARC1; p=reject; np=x", "reject", None),  # RFC 7489 knows no np
        ("v=DMARC1; p=reject rua=mailto:a@example.com", None, None),
        ("v=DMARC1; sp=reject; p=reject", None, "reject"),
        ("v=DMARC1; sp=reject", None, "none"),
        ("v=DMARC1; p=none; junk", "!", "!"),
        ("v=DMARC1; p=reject; p=reject", "!", "!"),
        ("v=DMARC1; p=reject; sp=none; sp=reject", "!", "!"),
    ],
)
def test_what_is_no_tag_is_passed_over(text: str, p: str | None, later: str | None) -> None:
    for any_order, expected in ((False, p), (True, later)):
        try:
            record = read_record(text, any_order=any_order)
        except MalformedRecordError:
            assert expected == "!"
        else:
            assert record is not None
            assert record.p == expected


@pytest.mark.parametrize(
    ("dns", "result", "policy"),
    [
        ({"_dmarc.mail.example.com": "v=DMARC1; p=none"}, "fail", "none"),
        ({"_dmarc.example.com": "v=DMARC1; p=reject; sp=quarantine"}, "fail", "quarantine"),
        ({"_dmarc.example.com": ["v=DMARC1; p=reject", "v=DMARC1; p=none"]}, "none", ""),
        ({"_dmarc.example.com": ["v=DMARC1; p=reject", "other"]}, "fail", "reject"),
        ({"_dmarc.example.com": "v=DMARC1; p=reject; x"}, "fail", "reject"),
        ({"_dmarc.example.com": "v=DMARC1; p=none; x"}, "permerror", ""),
        ({"_dmarc.example.com": "v=DMARC1; p=reject; " + "x" * 5000 + "=1"}, "permerror", ""),
        ({"_dmarc.com": "v=DMARC1; p=reject"}, "none", ""),
        ({"_dmarc.mail.example.com": "!"}, "temperror", ""),
        ({"_dmarc.example.com": "!"}, "temperror", ""),
        ({}, "none", ""),
    ],
)
def test_policies_by_suffix(dns: dict[str, Any], result: str, policy: str) -> None:
    found = judge("mail.example.com", FakeLookup(dns))
    assert (found.result, found.policy, found.domain) == (result, policy, "mail.example.com")


def test_the_tree_walk_visits_eight_names_at_most() -> None:
    assert walk("a.example.com") == ["a.example.com", "example.com", "com"]
    names = walk("a.b.c.d.e.f.g.h.i.j.example.com")
    assert names[:2] == ["a.b.c.d.e.f.g.h.i.j.example.com", "f.g.h.i.j.example.com"]
    assert len(names) == 8


WALK: dict[str, Any] = {
    "_dmarc.example.com": "v=DMARC1; sp=quarantine; p=reject; np=reject",
    "_dmarc.dept.example.com": "v=DMARC1; p=none; psd=n",
    "_dmarc.bank": "v=DMARC1; p=reject; psd=y",
    "_dmarc.branch.bank": "v=DMARC1; p=none",
    "_dmarc.broken.example.com": "v=DMARC1; nonsense",
}


@pytest.mark.parametrize(
    ("domain", "signed", "result", "policy"),
    [
        ("a.example.com", "b.example.com", "pass", "quarantine"),
        ("ghost.example.com", "other.example", "fail", "reject"),  # np: the name does not exist
        ("a.dept.example.com", "b.dept.example.com", "pass", "none"),
        ("a.dept.example.com", "example.com", "fail", "none"),  # psd=n ends the walk
        ("x.branch.bank", "branch.bank", "pass", "none"),
        ("branch.bank", "other.bank", "fail", "none"),
        ("new.bank", "other.bank", "fail", "reject"),  # the public suffix domain's own policy
        ("broken.example.com", "example.com", "permerror", ""),
        ("a.broken.example.com", "example.com", "pass", "quarantine"),
    ],
)
def test_the_tree_walk(domain: str, signed: str, result: str, policy: str) -> None:
    existing = ("a.example.com", "a.dept.example.com", "x.branch.bank", "new.bank", "a.broken.example.com")
    found = judge(domain, FakeLookup(WALK, existing), dkim=[Dkim("pass", signed)], method="tree-walk")
    assert (found.result, found.policy) == (result, policy)


def test_a_failing_dns_is_never_a_failed_check() -> None:
    dns: dict[str, Any] = {"_dmarc.example.com": "v=DMARC1; p=none; np=reject"}
    assert judge("a.example.com", FakeLookup(dns | {"a a.example.com": "!"})).result == "temperror"
    signed = [Dkim("pass", "sub.example.com")]
    failing = FakeLookup(dns | {"_dmarc.sub.example.com": "!"}, ("example.com",))
    assert judge("example.com", failing, dkim=signed, method="tree-walk").result == "temperror"


@pytest.mark.parametrize("method", ["psl", "tree-walk"])
def test_a_stranger_whose_dns_fails_is_no_way_round_a_policy(method: Method) -> None:
    """Who is not below the author's organizational domain does not align, whatever his DNS says."""
    lookup = FakeLookup(
        {"_dmarc.example.com": "v=DMARC1; p=reject", "_dmarc.evil.test": "!", "_dmarc.xexample.com": "!"}
    )
    spf = [Spf("mailfrom", "evil.test", "pass"), Spf("mailfrom", "xexample.com", "temperror")]
    dkim = [Dkim("pass", "evil.test"), Dkim("temperror", "evil.test"), Dkim("pass", "com")]
    found = judge("mail.example.com", lookup, spf=spf, dkim=dkim, method=method)
    assert (found.result, found.policy) == ("fail", "reject")
    assert not [name for name in lookup.names if "evil" in name or "xexample" in name]


DOUBT: dict[str, Any] = {
    "_dmarc.lame.bank.test": "!",
    "_dmarc.bank.test": "v=DMARC1; p=reject",
    "_dmarc.lame.mild.test": "!",
    "_dmarc.mild.test": "v=DMARC1; p=reject; sp=none",
    "_dmarc.lame.reports.test": "!",
    "_dmarc.reports.test": "v=DMARC1; rua=none",
    "_dmarc.lame.nobody.test": "!",
    "_dmarc.between.own.test": "!",
    "_dmarc.a.between.own.test": "v=DMARC1; p=quarantine",
    "_dmarc.own.test": "v=DMARC1; p=reject",
    "_dmarc.np.test": "v=DMARC1; p=none; np=reject",
    "a ghost.np.test": "!",
    "_dmarc.strict.test": "v=DMARC1; p=none; sp=reject; np=none",
    "a ghost.strict.test": "!",
}


@pytest.mark.parametrize("method", ["psl", "tree-walk"])
@pytest.mark.parametrize(
    ("domain", "proved", "result", "policy"),
    [
        ("lame.bank.test", "", "temperror", "reject"),
        ("lame.bank.test", "evil.test", "temperror", "reject"),
        ("lame.bank.test", "lame.bank.test", "pass", "reject"),
        ("lame.bank.test", "bank.test", "temperror", ""),  # its own record might ask for adkim=s
        ("a.lame.bank.test", "evil.test", {"psl": "fail", "tree-walk": "temperror"}, "reject"),
        ("lame.mild.test", "evil.test", "temperror", "none"),
        ("lame.reports.test", "evil.test", "temperror", None),  # a record without effect is none
        ("lame.nobody.test", "evil.test", "temperror", ""),
        ("a.between.own.test", "", {"psl": "fail", "tree-walk": "temperror"}, "quarantine"),
        ("a.between.own.test", "own.test", {"psl": "pass", "tree-walk": "temperror"}, None),
        ("ghost.np.test", "", "temperror", "reject"),
        ("ghost.np.test", "np.test", "pass", None),
        ("ghost.strict.test", "evil.test", "temperror", "reject"),
    ],
)
def test_a_name_whose_dns_fails_is_no_way_round_the_policy_above(
    method: Method, domain: str, proved: str, result: Any, policy: str | None
) -> None:
    dkim = [Dkim("pass", proved)] if proved else []
    found = judge(domain, FakeLookup(DOUBT, ("evil.test",)), dkim=dkim, method=method)
    assert found.result == (result if isinstance(result, str) else result[method])
    if policy is not None:
        assert found.policy == policy


def test_a_broken_record_of_another_domain_is_none() -> None:
    lookup = FakeLookup(WALK, ("example.com",))
    signed = [Dkim("pass", "broken.example.com")]
    assert judge("example.com", lookup, dkim=signed, method="tree-walk").result == "pass"


def test_existence_is_asked_for_only_where_it_matters() -> None:
    for tags in ("p=reject; np=reject", "p=none; sp=reject; np=reject", "p=reject"):
        lookup = FakeLookup({"_dmarc.example.com": f"v=DMARC1; {tags}", "a a.example.com": "!"})
        assert judge("a.example.com", lookup).policy == "reject"


RECORD: dict[str, Any] = {"_dmarc.example.com": "v=DMARC1; p=reject"}


@pytest.mark.parametrize(
    ("spf", "dkim", "result", "aligned"),
    [
        ([Spf("mailfrom", "bounce.example.com", "pass")], [], "pass", ("spf",)),
        ([Spf("helo", "example.com", "pass")], [], "fail", ()),
        ([Spf("mailfrom", "example.com", "softfail")], [], "fail", ()),
        ([Spf("mailfrom", "example.com", "policy")], [], "fail", ()),
        ([Spf("mailfrom", "example.com", "temperror")], [], "temperror", ()),
        ([Spf("mailfrom", "example.net", "temperror")], [], "fail", ()),
        ([], [Dkim("pass", "example.com")], "pass", ("dkim",)),
        ([], [Dkim("pass", "example.com", covers_all=False)], "fail", ()),
        ([], [Dkim("temperror", "example.com")], "temperror", ()),
        ([], [Dkim("policy", "example.com")], "fail", ()),
        ([], [Dkim("pass", "com")], "fail", ()),
        ([], [Dkim("pass", "badexample.com")], "fail", ()),
        ([Spf("mailfrom", "example.com", "temperror")], [Dkim("pass", "example.com")], "pass", ("dkim",)),
        (
            [Spf("mailfrom", "example.com", "pass")],
            [Dkim("pass", "example.com")] * 3,
            "pass",
            ("spf", "dkim"),
        ),
    ],
)
def test_alignment(spf: list[Spf], dkim: list[Dkim], result: str, aligned: tuple[str, ...]) -> None:
    found = judge("example.com", FakeLookup(RECORD), spf=spf, dkim=dkim)
    assert (found.result, found.aligned) == (result, aligned)


def test_percent_and_testing() -> None:
    for tags, percent in (("pct=0", 0), ("pct=101", 100), ("t=y", 0), ("pct=50; t=n", 50)):
        lookup = FakeLookup({"_dmarc.example.com": f"v=DMARC1; p=reject; {tags}"})
        assert judge("example.com", lookup).percent == percent


def test_the_suffix_list_is_there_and_dated() -> None:
    assert suffixes.organizational("a.b.example.co.uk") == "example.co.uk"
    assert suffixes.organizational("co.uk") is None
    assert suffixes.organizational("..") is None
    assert suffixes.version().startswith("20")
    made = date.fromisoformat(suffixes.version()[:10])
    assert suffixes.age(made + timedelta(days=9)) == 9
    assert suffixes.told().startswith(f"of {made}, ")


@settings(deadline=None)
@given(st.text(alphabet="vDMARC1=;p ronejtqu,mailto:@!\t", max_size=80) | st.text(max_size=80))
def test_any_record_is_read_or_refused(text: str) -> None:
    for record_text in (text, "v=DMARC1;" + text):
        for any_order in (False, True):
            try:
                record = read_record(record_text, any_order=any_order)
            except MalformedRecordError:
                continue
            assert record is None or 0 <= record.percent <= 100


@pytest.mark.parametrize(
    "value",
    [
        "<a@evil.example> <ceo@bank.example>",
        "a@bank.example a@evil.example",
        "<a@bank.example@evil.example>",
        "a@bank.example\0@evil.example",
        "<a@evil.example> ceo@bank.example",
        '"x" <a@evil.example" <ceo@bank.example>',
        "<a@evil.example",
        "a@bank.example%evil.example/x",
        "a@bank.example evil.example",  # once joined to bank.exampleevil.example
        "a@bank.example \u00fc",
        'a@bank.example"x"',
        "a@bank.example (x) y.example",
        "a@evil.example (<a@bank.example>",
        "a@evil.example (<a@bank.example>)",
        '"<a@bank.example>"@evil.example',
        '\\"<a@bank.example>" <b@evil.example>',
        "Ann) <a@bank.example>",
        '"Ann\0" <a@bank.example>',
        "((((((a))))))a@evil.example",
        "a@bank.example\u00a0evil.example",
        "a@bank.example\u200bevil.example",
        "a@bank.example\u3002evil.example",
        'a@bank.example"q"<>',
        "Ann <a@bank\u3002example>",
    ],
)
def test_an_author_that_readers_may_see_otherwise_is_none(value: str) -> None:
    content = parse(f"From: {value}\r\n\r\nx\r\n".encode())
    domain, problem = author_domain(content)
    assert domain == ""
    assert problem


@pytest.mark.parametrize(
    "value",
    [
        "a@bank.example",
        "<a@bank.example>",
        "Ann <a@bank.example>",
        "a@bank.example <a@bank.example>",
        '"ceo@evil.example <b@evil.example>" <a@bank.example>',
        "Ann <a@bank.example> (at work <b@evil.example>)",
        "Ann\r\n <a@bank.example>",
        "=?utf-8?q?J=C3=B6rg?= <a@bank.example>",
        "a@bank.example (Ann (at work) Archer)",
        '"Ann Archer"@bank.example',
        '"Archer, Ann \\"AA\\"" <a@bank.example>',
        " (Ann) a@bank.example ",
        "Ann<a@bank.example>",
    ],
)
def test_one_author_has_one_domain(value: str) -> None:
    content = parse(f"From: {value}\r\n\r\nx\r\n".encode())
    assert author_domain(content) == ("bank.example", "")


@pytest.mark.parametrize("start", ["", "(((((a)))))"])
def test_open_quotes_cost_little(start: str) -> None:
    content = parse(f"From: {start}{QUOTES} <a@bank.example>\r\n\r\nx\r\n".encode())
    began = time.thread_time()
    assert author_domain(content) == ("", "From can be read in more than one way")
    assert time.thread_time() - began < 0.2  # 0.003 where nothing else runs; squares took 2 s


def test_a_from_field_with_a_space_before_its_colon_is_one_more() -> None:
    """It once passed for the separator line of an mbox, and hid from DMARC."""
    content = parse(b"From : ceo@bank.example\r\nFrom: a@evil.example\r\n\r\nx\r\n")
    assert content.from_fields == 2
    assert author_domain(content)[0] == ""


@pytest.mark.parametrize(
    ("value", "domains"),
    [
        ("a@bank.example%evil.example", ("bank.example", "evil.example")),
        ("a%bank.example@evil.example/x", ("bank.example", "evil.example")),
        ("bank.example!a@evil.example!", ("evil.example", "bank.example")),
        ("<a@evil.example> <ceo@bank.example>", ("evil.example", "bank.example")),
        ("<a@bank.example@evil.example>", ("evil.example", "bank.example")),
        ("a@bank.example\0@evil.example", ("evil.example", "bank.example")),
        ("a@bank\0.example", ("bank.example",)),
        ("a@bank.example\0.evil.example", ("bank.example", "bank.example.evil.example")),
        ("<@bank.example:a@evil.example>", ("evil.example", "bank.example")),
        ('"x" <a@evil.example" <ceo@bank.example>', ("evil.example", "bank.example")),
        ("=?utf-8?q?ceo=40bank.example?=", ("bank.example",)),
        ("=?utf-8?q?=3Cceo=40bank.example=3E?= a@b@evil.example", ("evil.example", "bank.example")),
        ("a@fa\u00df.example", ("xn--fa-hia.example", "fass.example")),
        ("a@exam\u200dple.com", ("example.com",)),
        ("ceo\uff20bank.example", ("bank.example",)),
        ("a@[192.0.2.1]", ()),
        ("a@mail..bank.example", ("mail.bank.example",)),
        ("a@bank.example$", ("bank.example",)),
        ("a@[bank.example]", ("bank.example",)),
        ("a@mail-.bank.example", ("mail.bank.example",)),
        ("a@x&y.bank.example", ("bank.example",)),
        ("a@'bank.example", ("bank.example",)),
        ("a@http://bank.example", ("bank.example",)),
        (f"a@{'y' * 64}.bank.example", ("bank.example",)),
        (f"a@{'y.' * 140}bank.example", (f"{'y.' * 120}bank.example",)),
    ],
)
def test_all_that_may_be_an_author_is_found(value: str, domains: tuple[str, ...]) -> None:
    content = parse(f"From: {value}\r\n\r\nx\r\n".encode())
    assert author_domain(content)[0] == ""
    found = author_domains(content)
    assert set(found) >= set(domains)
    assert all(name.isascii() for name in found)
    assert bool(found) == bool(domains)


def test_a_hostile_from_field_costs_little() -> None:
    for value in (
        "@" * 49_000,
        "a@b.example," * 4_000,
        "((" * 20_000,
        '"' * 49_000,
        "a.!" * 16_000,
        "@a.\0" * 9_000,
        "\u00fc" * 24_000,
        "a.b-" * 12_000,
        ", ".join("a@" + "\u00fc\u0640" * 20 + f"{number}.example" for number in range(400)),
    ):
        content = parse(f"From: {value}\r\n\r\nx\r\n".encode())
        start = time.thread_time()
        assert author_domain(content)[0] == ""
        assert len(author_domains(content)) <= 6
        content = parse(f"From: {value}\r\n".encode() * 60 + b"\r\nx\r\n")
        start = time.thread_time()
        assert author_domains(content)[-1] == ""
        assert time.thread_time() - start < 0.05


@pytest.mark.parametrize(
    "header",
    [
        "X: y\r\n" * 6_000 + "From: a@example.com\r\n",
        "From: a@example.com\r\n" + "X: y\r\n" * 5_000,
        "From: " + " " * 60_000 + "a@example.com\r\n",
    ],
)
def test_what_is_not_read_has_no_author(header: str) -> None:
    assert author_domain(parse(header.encode() + b"\r\nx\r\n"))[0] == ""


def test_of_several_authors_a_proof_that_could_not_be_checked_is_none() -> None:
    undecided = Dmarc("temperror", "bank.example", policy="reject")
    found = evaluate_authors(
        "From has several addresses", [Dmarc("pass", "a.example", policy="none"), undecided]
    )
    assert (found.result, found.policy) == ("permerror", "reject")
    assert evaluate_authors("x", [Dmarc("temperror", "bank.example")]).policy == ""


def test_letters_of_an_unknown_charset_are_no_domain() -> None:
    content = parse("From: a@b\u00fccher.example\r\n\r\nx\r\n".encode("latin-1"))
    assert author_domain(content) == ("", "From has a domain that is read in more than one way")
    assert author_domains(content) == ("xn--bcher-kva.example",)
    content = parse("From: J\u00f6rg <a@bank.example>\r\n\r\nx\r\n".encode("latin-1"))
    assert author_domain(content) == ("bank.example", "")
