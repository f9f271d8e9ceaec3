# SPDX-License-Identifier: GPL-2.0-or-later
"""What is counted for DMARC reports, and what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gateway.mail.mime import parse
from gateway.mail.types import Action, Contribution, Dkim, Dmarc, Evidence, Spf
from gateway.reports.observe import Observer, disposition, is_domain, observation_of
from gateway.store.dmarc import Observation
from tests.observed import RECORD, SETTINGS
from tests.stored import RAW, mail_for, verdict_for

if TYPE_CHECKING:
    from gateway.mail.types import Mail, Verdict
    from gateway.reports.settings import ReportSettings


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
