# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals of sender authentication: what a domain publishes, what passed, who vouches, what is made of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.auth.results import read_results
from gateway.data import data_dir
from gateway.mail import mime
from gateway.mail.types import (
    Action,
    Arc,
    Dkim,
    Dmarc,
    Envelope,
    Evidence,
    Iprev,
    Mail,
    Session,
    Signal,
    Spf,
    Versions,
    new_id,
)
from gateway.policy import rules
from gateway.policy.decide import decide
from gateway.policy.forwarders import Forwarders, ForwarderSettings
from gateway.policy.rules import PolicySettings
from gateway.policy.sender import examine

RAW = b"From: Alice <alice@news.example.com>\r\nSubject: hello\r\n\r\nText.\r\n"
FAILED = Dmarc(
    "fail",
    "news.example.com",
    "example.com",
    "reject",
    record="v=DMARC1; p=reject; sp=reject",
    reason="nothing aligned",
)
TRUSTED = Forwarders(
    networks=("198.51.100.0/24",),
    domains=("lists.example.org", ".forwarder.example"),
    sealers=("sealer.example", ".seal.example"),
)


def mail(ip: str = "192.0.2.1", number: str = "0" * 16, raw: bytes = RAW) -> Mail:
    return Mail(number, Session(client_ip=ip), Envelope("a@example.net", ("b@example.org",)), raw)


def dmarc_signals(
    evidence: Evidence, message: Mail | None = None, forwarders: Forwarders = TRUSTED
) -> list[Signal]:
    message = message or mail()
    found = examine(message, mime.parse(message.raw), evidence, forwarders)
    return [one for one in found if one.name.startswith("DMARC")]


def names(evidence: Evidence, **more: Any) -> list[str]:
    return [one.name for one in dmarc_signals(evidence, **more)]


# ---------------------------------------------------------------- policies and results


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"result": "pass", "aligned": ("dkim",)}, "DMARC_PASS"),
        ({}, "DMARC_REJECT"),
        ({"policy": "quarantine"}, "DMARC_QUARANTINE"),
        ({"policy": "none"}, "DMARC_FAIL"),
        ({"percent": 0}, "DMARC_QUARANTINE"),
        ({"policy": "quarantine", "percent": 0}, "DMARC_FAIL"),
        ({"policy": "none", "percent": 0}, "DMARC_FAIL"),
        ({"result": "temperror", "policy": ""}, "DMARC_ERROR"),  # no record was had
        ({"result": "permerror", "policy": "", "reason": "record too long"}, "DMARC_PERMERROR"),
        ({"result": "none"}, ""),
    ],
)
def test_each_result_has_its_signal(changes: dict[str, Any], name: str) -> None:
    found = dmarc_signals(Evidence(dmarc=replace(FAILED, **changes)))
    assert [one.name for one in found] == ([name] if name else [])
    assert [one.state for one in found] == (["error" if name == "DMARC_ERROR" else "hit"] if name else [])


def test_a_client_without_a_name_is_told_of() -> None:
    found = list(examine(mail(), mime.parse(b""), Evidence(iprev=Iprev("permerror")), TRUSTED))
    assert [(one.name, one.text) for one in found] == [("IPREV_FAIL", "the client's address has no name")]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"From: a@example.com, b@example.net\r\n", ["DMARC_NO_AUTHOR", "DMARC_REJECT"]),
        (b"From: root\r\n", ["DMARC_NO_AUTHOR", "DMARC_REJECT"]),
        (b"From: team: a@example.com;\r\n", ["DMARC_NO_AUTHOR", "DMARC_REJECT"]),
        (b"From: a@example.com\r\nFrom: b@example.net\r\n", ["DMARC_REJECT"]),  # and FROM_SEVERAL
        (b"", ["DMARC_REJECT"]),  # and FROM_MISSING
    ],
)
def test_an_unclear_author_is_a_signal_and_its_policy_counts(header: bytes, expected: list[str]) -> None:
    dmarc = Dmarc("permerror", policy="reject", reason="From has several addresses")
    message = mail(raw=header + b"Subject: x\r\n\r\nText.\r\n")
    assert names(Evidence(dmarc=dmarc), message=message) == expected
    unknown = replace(dmarc, policy="")
    assert names(Evidence(dmarc=unknown), message=message) == expected[:-1]


@pytest.mark.parametrize("percent", [1, 25, 50, 99])
def test_pct_exempts_its_share(percent: int) -> None:
    """The same message always gets the same, and the shares are right within five sigma."""
    evidence = Evidence(dmarc=replace(FAILED, percent=percent))
    messages = [mail(number=new_id()) for _ in range(2000)]
    found = [names(evidence, message=one) for one in messages]
    assert found == [names(evidence, message=one) for one in messages]
    rejected = sum(one == ["DMARC_REJECT"] for one in found)
    assert rejected + sum(one == ["DMARC_QUARANTINE"] for one in found) == 2000
    expected, deviation = 20 * percent, (20 * percent * (100 - percent) / 100) ** 0.5
    assert abs(rejected - expected) < 5 * deviation + 1


def test_the_texts_say_what_is_published_what_passed_and_what_is_made_of_it() -> None:
    evidence = Evidence(
        spf=(Spf("mailfrom", "bounce.example.net", "pass"), Spf("helo", "mx.example.net", "pass")),
        dkim=(Dkim("pass", "esp.example"), Dkim("pass", "news.example.com", covers_all=False)),
        dmarc=replace(FAILED, record="v=DMARC1; p=none; sp=reject; t=y", percent=0),
    )
    [found] = dmarc_signals(evidence)
    assert (found.name, found.text) == (
        "DMARC_QUARANTINE",
        (
            "example.com publishes p=none sp=reject t=y, which makes p=reject for news.example.com; nothing "
            "aligned, though there passed SPF for bounce.example.net, DKIM by esp.example, "
            "DKIM by news.example.com in part; exempt by t=y or pct=0: as p=quarantine"
        ),
    )
    [found] = dmarc_signals(Evidence(dmarc=replace(FAILED, domain="example.com")))
    assert found.text == "example.com publishes p=reject sp=reject; neither SPF nor DKIM passed"
    passed = replace(FAILED, result="pass", aligned=("spf", "dkim"), organizational="news.example.com")
    [found] = dmarc_signals(Evidence(dmarc=passed))
    assert found.text == "news.example.com publishes p=reject sp=reject; aligned: spf and dkim"


@pytest.mark.parametrize(
    ("action", "becomes"),
    [
        (None, Action.REJECT),
        ("reject", Action.REJECT),
        ("quarantine", Action.QUARANTINE),
        ("tag", Action.TAG),
        ("none", Action.RELAY),
    ],
)
def test_enforcement_is_a_setting(action: Any, becomes: Action) -> None:
    settings = PolicySettings(actions={} if action is None else {"DMARC_REJECT": action})
    policy = rules.load(data_dir("rules"), settings)
    found = dmarc_signals(Evidence(dmarc=FAILED), forwarders=policy.forwarders)
    assert decide(found, mail(), policy, Versions("1", "p", "m")).action is becomes


@pytest.mark.parametrize(
    ("changes", "policy_settings", "name", "becomes"),
    [
        ({"policy": ""}, {}, "DMARC_ERROR", Action.RELAY),
        ({"policy": ""}, {"on_error": {"DMARC_ERROR": "defer"}}, "DMARC_ERROR", Action.DEFER),
        ({}, {}, "DMARC_REJECT", Action.DEFER),
        ({"policy": "quarantine"}, {}, "DMARC_QUARANTINE", Action.DEFER),
        ({"policy": "none"}, {}, "DMARC_ERROR", Action.RELAY),
        ({"policy": "quarantine", "percent": 0}, {}, "DMARC_ERROR", Action.RELAY),  # exempt
        ({}, {"on_error": {"DMARC_REJECT": "ignore"}}, "DMARC_REJECT", Action.RELAY),
        ({}, {"actions": {"DMARC_REJECT": "quarantine"}}, "DMARC_REJECT", Action.DEFER),
        ({}, {"actions": {"DMARC_REJECT": "tag"}}, "DMARC_REJECT", Action.TAG),
        ({}, {"actions": {"DMARC_REJECT": "none"}}, "DMARC_REJECT", Action.RELAY),
    ],
)
def test_a_dns_that_fails_is_no_way_round_a_policy(
    changes: dict[str, Any], policy_settings: dict[str, Any], name: str, becomes: Action
) -> None:
    policy = rules.load(data_dir("rules"), PolicySettings(**policy_settings))
    found = dmarc_signals(Evidence(dmarc=replace(FAILED, result="temperror", **changes)))
    assert [(one.name, one.state) for one in found] == [(name, "error")]
    assert (" publishes p=reject" in found[0].text) == bool(changes.get("policy", "reject"))
    assert decide(found, mail(), policy, Versions("1", "p", "m")).action is becomes


# ---------------------------------------------------------------- forwarders

GOOGLE = (
    "mx.google.example; dkim=pass header.i=@news.example.com header.s=s1 header.b=abcdefgh; "
    "spf=pass (google.example: domain of a@b.example designates 192.0.2.7 as permitted sender) "
    "smtp.mailfrom=a@b.example; dmarc=pass (p=REJECT sp=REJECT dis=NONE) header.from=news.example.com"
)
MICROSOFT = (
    "mx.microsoft.example 1; spf=pass smtp.mailfrom=b.example; dmarc=pass action=none "
    "header.from=news.example.com; dkim=pass header.d=b.example; arc=none"
)
SEALED = Arc("pass", ("sealer.example",), GOOGLE, covers_all=True)


@pytest.mark.parametrize(
    ("changes", "vouched"),
    [
        ({"ip": "198.51.100.9"}, "198.51.100.9"),
        ({"ip": "198.51.101.9"}, ""),
        ({"ip": ""}, ""),
        ({"spf": Spf("mailfrom", "lists.example.org", "pass")}, "SPF pass for lists.example.org"),
        ({"spf": Spf("mailfrom", "sub.lists.example.org", "pass")}, ""),
        ({"spf": Spf("mailfrom", "lists.example.org", "softfail")}, ""),
        ({"spf": Spf("helo", "lists.example.org", "pass")}, ""),
        ({"dkim": Dkim("pass", "a.forwarder.example")}, "DKIM pass by a.forwarder.example"),
        ({"dkim": Dkim("pass", "forwarder.example")}, ""),
        ({"dkim": Dkim("pass", "notforwarder.example")}, ""),
        ({"dkim": Dkim("pass", "a.forwarder.example", covers_all=False)}, ""),
        ({"dkim": Dkim("fail", "a.forwarder.example")}, ""),
        (
            {"arc": Arc("pass", ("sealer.example",), GOOGLE, covers_all=True)},
            "sealer.example has sealed: dmarc=pass",
        ),
        (
            {"arc": Arc("pass", ("eu.seal.example",), MICROSOFT, covers_all=True)},
            "eu.seal.example has sealed: dmarc=pass",
        ),
        (
            {"arc": Arc("pass", ("other.example", "sealer.example"), GOOGLE, covers_all=True)},
            "",
        ),  # the newest counts
        ({"arc": replace(SEALED, covers_all=False, reason="l= leaves the end of the body unsigned")}, ""),
        ({"arc": replace(SEALED, result="fail")}, ""),
        ({"arc": Arc("temperror", ("sealer.example",), GOOGLE)}, ""),
        ({"arc": Arc("pass", (), GOOGLE)}, ""),
        ({"arc": Arc("none")}, ""),
    ],
)
def test_who_vouches(changes: dict[str, Any], vouched: str) -> None:
    evidence = Evidence(
        dmarc=FAILED,
        spf=(changes["spf"],) if "spf" in changes else (),
        dkim=(changes["dkim"],) if "dkim" in changes else (),
        arc=changes.get("arc"),
    )
    [found] = dmarc_signals(evidence, mail(changes.get("ip", "192.0.2.1")))
    assert found.name == ("DMARC_FORWARDED" if vouched else "DMARC_REJECT")
    assert vouched in found.text
    # Whom nobody trusts, nobody believes.
    assert names(evidence, message=mail(changes.get("ip", "192.0.2.1")), forwarders=Forwarders()) == [
        "DMARC_REJECT"
    ]


@pytest.mark.parametrize(
    ("results", "vouched"),
    [
        ("x.example; dmarc=pass header.from=news.example.com", True),
        ("x.example; dmarc=pass header.from=NEWS.example.com", True),
        ("x.example; dmarc=fail header.from=news.example.com", False),
        ("x.example; dmarc=pass header.from=example.com", False),
        ("x.example; dmarc=pass", False),
        ("x.example; dmarc=none header.from=news.example.com; dkim=pass header.d=news.example.com", True),
        ("x.example; dmarc=fail header.from=news.example.com; dkim=pass header.d=news.example.com", False),
        (
            "x.example; dmarc=pass header.from=news.example.com; dmarc=fail header.from=news.example.com",
            False,
        ),
        ("x.example; dkim=pass header.d=example.com", True),
        ("x.example; dkim=pass header.i=@other.example.com", True),
        ("x.example; dkim=pass header.d=example.net", False),
        ("x.example; dkim=fail header.d=example.com", False),
        ("x.example; spf=pass smtp.mailfrom=bounce@example.com", True),
        ("x.example; spf=pass smtp.mailfrom=bounce.example.com", True),
        ("x.example; spf=pass smtp.helo=mail.example.com", False),
        ("x.example; spf=pass smtp.mailfrom=com", False),
        ("x.example; arc=pass header.d=example.com", False),
        ("x.example; spf=fail (dkim=pass header.d=example.com) smtp.mailfrom=example.net", False),
        ('x.example; spf=fail reason="; dkim=pass header.d=example.com" smtp.mailfrom=example.net', False),
        ("x.example; nonsense; dkim=pass header.d=example.com", True),
        ("x.example; dkim=pass header.d=example.com; dmarc=fai...", True),  # no result of anything
        ("x.example; dkim=pass header.d=example.com; dmarc=fail", False),
        # What a sender may have stated himself, where his quotes were lost:
        (
            "x.example; spf=pass smtp.mailfrom=x; dmarc=pass header.from=news.example.com a.b=@e; dmarc=none",
            False,
        ),
        ("x.example; spf=pass smtp.mailfrom=example.com smtp.mailfrom=@e.example", False),
        ("x.example; dkim=pass header.d=example.com header.d=e.example", False),
        ("x.example; dkim=pass header.d=example.com (", False),
        ("", False),
        (";;;;=", False),
    ],
)
def test_what_a_sealer_must_have_seen(results: str, vouched: bool) -> None:
    evidence = Evidence(dmarc=FAILED, arc=Arc("pass", ("sealer.example",), results, covers_all=True))
    assert names(evidence) == ["DMARC_FORWARDED" if vouched else "DMARC_REJECT"]


def test_strict_alignment_holds_for_sealers_as_well() -> None:
    strict = replace(FAILED, record="v=DMARC1; p=reject; adkim=s")
    for domain, name in (("example.com", "DMARC_REJECT"), ("news.example.com", "DMARC_FORWARDED")):
        results = f"x.example; dkim=pass header.d={domain}"
        arc = Arc("pass", ("sealer.example",), results, covers_all=True)
        assert names(Evidence(dmarc=strict, arc=arc)) == [name]


def test_tolerance_is_for_sealers_alone() -> None:
    with pytest.raises(ValueError, match="property"):
        read_results(MICROSOFT.encode())
    assert [one.method for one in read_results(MICROSOFT.encode(), tolerant=True)[1]] == [
        "spf",
        "dmarc",
        "dkim",
        "arc",
    ]


def test_forwarders_are_part_of_the_policy() -> None:
    """They change its hash, and the networks are those that SPF knows."""
    settings = PolicySettings(forwarders=ForwarderSettings(sealers=("sealer.example",)))
    policy = rules.load(data_dir("rules"), settings, ("192.0.2.0/24",))
    assert policy.forwarders == Forwarders(("192.0.2.0/24",), (), ("sealer.example",))
    assert len({policy.hash, rules.load(data_dir("rules"), settings).hash}) == 2
    evidence = Evidence(dmarc=FAILED)
    found = dmarc_signals(evidence, forwarders=policy.forwarders)
    verdict = decide(found, mail(), policy, Versions("1", policy.hash, "none"))
    assert (verdict.action, verdict.score, verdict.contributions[0].decides) == (Action.RELAY, 0.0, None)
