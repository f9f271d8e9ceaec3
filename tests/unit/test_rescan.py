# SPDX-License-Identifier: GPL-2.0-or-later
"""Held mail judged again: what is recorded, what is done about it, and what is left to people."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gateway.dns import DnsSettings, Resolver
from gateway.gather import Sources
from gateway.log import LogSettings, open_log
from gateway.mail.mime import MimeLimits
from gateway.mail.types import Action, Evidence, Scan, Spf
from gateway.metrics import Metrics
from gateway.pipeline import Gateway
from gateway.policy.rescan import RescanSettings
from gateway.rescan import rescan, rescan_all
from gateway.store import held
from gateway.store.quarantine import Quarantine
from gateway.store.states import Actor, State
from tests.recorded import policy_of
from tests.stored import hold, mail_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from gateway.rescan import Rescanned
    from gateway.store.database import Database
    from gateway.store.held import Item


class Scanner:
    """A virus scanner that says what it is told to."""

    def __init__(self) -> None:
        self.answer = Scan("clean", engine="engine 2")

    def scan(self, _parts: object, _deadline: float) -> Scan:
        return self.answer


class Bench:
    def __init__(self, database: Database, pool: Executor) -> None:
        self.quarantine, self.scanner = Quarantine(database), Scanner()
        sources = Sources(
            resolver=Resolver(DnsSettings()),  # nobody is asked about senders
            auth=None,  # type: ignore[arg-type]  # replaced
            antivirus=self.scanner,  # type: ignore[arg-type]  # it scans
            spamd=None,
            check_token=None,
            pool=pool,
            hostname="gw.example.com",
        )
        self.gateway = Gateway(
            authserv_id="gw.example.com",
            deadline=5.0,
            limits=MimeLimits(),
            sources=sources,
            classifier=None,
            policy=policy_of(),
            tls_rules=(),
            signing=None,  # type: ignore[arg-type]  # nothing is signed
            quarantine=self.quarantine,
            journal=None,
            counters=Metrics(1).slot(0),
            log=open_log(LogSettings(level="error")),
        )

    def hold(self, *reasons: str) -> str:
        mail = hold(self.quarantine, mail_for(), reasons=reasons or ("score",))
        return mail.id

    def item(self, name: str) -> Item:
        found = self.quarantine.find(name)
        assert found is not None
        return found

    def again(self, name: str, **settings: Any) -> Rescanned:
        return rescan(self.gateway, self.quarantine, self.item(name), RescanSettings(**settings))


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    with ThreadPoolExecutor(4) as pool:
        yield Bench(database, pool)


@pytest.fixture(autouse=True)
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found about the sender then would hold it still; here it says nothing."""

    def without_sender(evidence: Any, **changes: Any) -> Any:
        if isinstance(evidence, Evidence) and "spf" in changes:
            return replace(evidence, spf=(Spf("mailfrom", "example.net", "none"),))
        return replace(evidence, **changes)

    monkeypatch.setattr("gateway.rescan.replace", without_sender)


def test_by_default_it_is_only_recorded(bench: Bench) -> None:
    name = bench.hold()
    done = bench.again(name)
    assert (done.passes, done.did, done.infection) == (True, "recorded", "")
    assert done.verdict.action in (Action.RELAY, Action.TAG)
    first, second = bench.quarantine.judgements(name)
    assert first.verdict.score == 9.5
    assert second.verdict == done.verdict
    assert second.evidence.antivirus.engine == "engine 2"
    assert bench.item(name).state is State.HELD
    assert bench.quarantine.history(name)[-1].action == "judged"
    assert bench.quarantine.verify_audit() is None


def test_what_is_clean_by_now_may_be_released(bench: Bench) -> None:
    name = bench.hold()
    assert bench.again(name, clean="release").did == "released"
    assert bench.item(name).state is State.SCHEDULED
    [order] = bench.quarantine.decisions.orders(item=name)
    assert order.who == "mailwarden"


@pytest.mark.parametrize("reason", ["VIRUS", "UNDELIVERED"])
def test_what_no_look_can_answer_is_not_released(bench: Bench, reason: str) -> None:
    name = bench.hold(reason)
    assert bench.again(name, clean="release").did == "recorded"
    assert bench.item(name).state is State.HELD


def test_a_denial_outweighs_a_clean_verdict(bench: Bench) -> None:
    name = bench.hold()
    bench.quarantine.decisions.deny(name, None, Actor("eve"))
    assert bench.again(name, clean="release").did == "recorded"
    assert bench.item(name).state is State.DENIED


def test_a_denial_of_one_copy_outweighs_it_for_that_copy(bench: Bench) -> None:
    name = hold(bench.quarantine, mail_for("bob@example.com", "carol@example.com"), reasons=("score",)).id
    bench.quarantine.decisions.deny(name, ["bob@example.com"], Actor("eve"))
    assert bench.again(name, clean="release").did == "released"
    assert [one.state for one in bench.item(name).recipients] == [State.DENIED, State.SCHEDULED]


def test_what_is_infected_by_now_is_held_for_that(bench: Bench) -> None:
    name = bench.hold()
    bench.scanner.answer = Scan("infected", "Test.Name", engine="engine 3")
    done = bench.again(name, clean="release")
    assert (done.passes, done.infection, done.did) == (False, "Test.Name", "recorded")
    assert "VIRUS" in bench.item(name).reasons
    assert bench.again(name, infected="delete").did == "deleted"
    assert bench.item(name).state is State.DELETED


def test_a_scanner_that_fails_lets_nothing_pass(bench: Bench) -> None:
    name = bench.hold()
    bench.scanner.answer = Scan("error", detail="refused")
    assert not bench.again(name, clean="release").passes
    assert bench.item(name).state is State.HELD


def test_all_that_others_judged(bench: Bench) -> None:
    names = {bench.hold() for _ in range(3)}
    seen = rescan_all(bench.gateway, bench.quarantine, "engine 2", RescanSettings())
    assert {done.item for done in seen} == names
    assert list(rescan_all(bench.gateway, bench.quarantine, "engine 2", RescanSettings())) == []
    changed = replace(bench.gateway, policy=policy_of(weights={"SPF_FAIL": 1.0}))
    assert len(list(rescan_all(changed, bench.quarantine, "engine 2", RescanSettings()))) == 3


def test_what_the_scanner_was_not_asked_about_is_judged_once(bench: Bench) -> None:
    bench.hold()
    bench.scanner.answer = Scan("limit")
    assert len(list(rescan_all(bench.gateway, bench.quarantine, "engine 2", RescanSettings()))) == 1
    assert list(rescan_all(bench.gateway, bench.quarantine, "engine 2", RescanSettings())) == []


def test_nodes_that_differ_do_not_take_turns_for_ever(bench: Bench) -> None:
    """Each judges all once, whatever the other made of it since."""
    name = bench.hold()
    other = replace(bench.gateway, policy=policy_of(weights={"SPF_FAIL": 1.0}))
    settings = RescanSettings()
    for count in (1, 0, 0):
        for gateway, engine in ((bench.gateway, "engine 2"), (other, "engine 2"), (other, "engine 3")):
            assert len(list(rescan_all(gateway, bench.quarantine, engine, settings))) == count
    assert len(bench.quarantine.judgements(name)) == 4
    stamps = held.stamps(bench.item(name).judged_by)
    assert [stamp.rpartition(" ")[2] for stamp in stamps[:3]] == ["3", "2", "2"]
    for number in range(20):
        held_by = bench.item(name).judged_by
        bench.quarantine.judged_again(name, bench.quarantine.judgements(name)[0], f"stamp {number}")
        assert bench.item(name).judged_by.startswith(f"stamp {number}\n{held_by[:20]}")
    assert len(held.stamps(bench.item(name).judged_by)) == 8


def test_who_is_slower_keeps_nothing_and_does_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    name, settings = bench.hold(), RescanSettings(clean="release", infected="delete")
    whole = bench.scanner.answer

    def meanwhile(_parts: object, _deadline: float) -> Scan:
        monkeypatch.setattr(bench.scanner, "scan", lambda *_: whole)
        others = Bench(bench.quarantine.database, bench.gateway.sources.pool)
        assert [one.did for one in rescan_all(others.gateway, others.quarantine, "engine 2", settings)] == [
            "released"
        ]
        return whole

    monkeypatch.setattr(bench.scanner, "scan", meanwhile)
    assert [one.did for one in rescan_all(bench.gateway, bench.quarantine, "engine 2", settings)] == [
        "recorded"
    ]
    assert len(bench.quarantine.judgements(name)) == 2
    assert [event.action for event in bench.quarantine.history(name)].count("judged") == 1


@pytest.mark.parametrize("at", ["original", "judgements", "judged_again"])
def test_what_goes_away_meanwhile_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    names = {bench.hold() for _ in range(4)}
    gone: list[str] = []
    original = getattr(bench.quarantine, at)

    def going(item: str, *rest: Any) -> Any:
        if not gone:
            gone.append(item)
            bench.quarantine.delete(item, Actor("eve"))
        return original(item, *rest)

    monkeypatch.setattr(bench.quarantine, at, going)
    seen = {one.item for one in rescan_all(bench.gateway, bench.quarantine, "engine 2", RescanSettings())}
    assert seen - set(gone) == names - set(gone)
    assert bench.item(gone[0]).state is State.DELETED
    assert [event.action for event in bench.quarantine.history(gone[0])] == ["held", "deleted"]


def test_verdicts_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.quarantine.MAX_JUDGEMENTS", 3)
    name = bench.hold()
    for _ in range(6):
        bench.again(name)
    kept = bench.quarantine.judgements(name)
    assert len(kept) == 4
    assert kept[0].verdict.score == 9.5
