# SPDX-License-Identifier: GPL-2.0-or-later
"""What a real gateway recorded is found, and judged again: the same verdicts, to the last contribution."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from contrib.lab.dns import DnsStub
from contrib.lab.gateway import ROOT, Gateway
from contrib.lab.milter_client import MilterClient, Peer
from contrib.lab.process import free_port
from gateway import config
from gateway.data import data_dir
from gateway.mail.types import Action
from gateway.policy import rules
from gateway.replay import judge_again
from gateway.store.database import open_database
from gateway.store.journal import Filter, Journal
from tests import case as cases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLICY = {
    "thresholds": {"quarantine": 7.5},
    "weights": {"CLASSIFIER": 0.5},
    "on_error": {"VIRUS": "quarantine", "SPAMASSASSIN": "ignore"},
    "recipients": [
        {"recipients": ["strict.example.com"], "tag": 1, "quarantine": 2, "reject": 50},
        {"recipients": ["carol@strict.example.com", "lenient.example.com"], "tag": 40, "quarantine": 50,
         "reject": 60},
    ],
}  # fmt: skip


class Site(NamedTuple):
    """A gateway that has judged all cases and ended, and how many it was sent."""

    gateway: Gateway
    sent: int

    def mailwarden(self, *words: str, status: int) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "--config", str(self.gateway.file), *words, "--json"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory: Path = tmp_path_factory.mktemp("replay")
    with DnsStub(cases.zone()) as dns:
        settings = {
            "hostname": "mx.example.org",
            "domains": ["example.com", ".example.com", "example.org"],
            "milter": {"listen": [f"inet:127.0.0.1:{free_port()}"], "workers": 1},
            "dns": {"nameservers": [dns.nameserver], "timeout": 2.0, "attempts": 1},
            "antivirus": {"enabled": False},
            "spamassassin": {"enabled": True, "addresses": [f"127.0.0.1:{free_port()}"]},
            "policy": POLICY,
            "http": {"listen": ""},
            "store": {"database": f"sqlite:///{directory}/store/mailwarden.db"},
        }
        sent = 0
        with Gateway(directory, settings) as gateway:
            for case in cases.load():
                with MilterClient(gateway.milters[0]) as client:
                    if client.open(Peer.of(case.session)) is not None:
                        continue
                    envelope = case.envelope
                    outcome = client.send(
                        envelope.mail_from,
                        envelope.recipients,
                        case.raw,
                        options=envelope.options,
                        queue_id=f"4REPLAY{sent}",
                    )
                    assert not outcome.broken
                    sent += 1
        yield Site(gateway, sent)


def test_nothing_changes_where_nothing_was_changed(site: Site) -> None:
    told = site.mailwarden("replay", status=0)
    assert told["records"] == told["identical"] == site.sent > 100
    assert told["policies"] == {told["policy"]: site.sent}
    assert told["notes"] == []
    assert set(told["copies"]) >= {"relay", "tag", "quarantine", "reject"}


def test_every_verdict_is_the_recorded_one(site: Site) -> None:
    settings = config.load(site.gateway.file)
    policy = rules.load(data_dir("rules"), settings.policy, (), settings.domains)
    database = open_database(settings.store)
    records, unreadable = Journal(database).between(1, 1 << 30, Filter())
    database.close()
    assert (len(records), unreadable) == (site.sent, 0)
    for record in records:
        verdict, gone = judge_again(record, policy)
        assert replace(verdict, edits=record.verdict.edits) == record.verdict
        assert gone == ()
    actions = Counter(record.verdict.action for record in records)
    assert {Action.RELAY, Action.TAG, Action.QUARANTINE, Action.REJECT} <= set(actions)


def test_a_change_is_found_where_it_was_made(site: Site) -> None:
    told = site.mailwarden("replay", "--set-weight", "GTUBE=0", "--set-weight", "SPF_FAIL=20", status=1)
    assert told["changes"]["newly rejected"] >= 1
    assert set(told["causes"]) == {"SPF_FAIL"}  # GTUBE rejects by itself, whatever it weighs
    assert {e["because"][0] for change in told["examples"].values() for e in change} == {"SPF_FAIL"}


def test_what_came_through_the_door_is_traced(site: Site) -> None:
    (found,) = site.mailwarden("trace", "--message-id", "<mixed-hold-and-relay@", status=0)
    assert (found["door"], found["sender"], found["action"]) == ("milter", "alice@example.net", "relay")
    assert found["evidence"].startswith("spf=pass(example.net)")
    assert "SPAMASSASSIN=error" in found["evidence"]
    (passed, held) = found["copies"]
    assert (passed["recipient"], passed["state"], passed["to"]) == ("bob@example.com", "relayed", "Postfix")
    assert (held["recipient"], held["state"], held["item"]) == (
        "dave@strict.example.com",
        "held",
        found["id"],
    )
    assert [event["action"] for event in found["history"]] == ["held"]
    page = site.mailwarden("trace", "--client", "192.0.2.", "--limit", "10000", status=0)
    assert found["id"] in [one["id"] for one in page]
    (same,) = site.mailwarden(
        "trace", "--queue-id", found["queue_id"], "--recipient", "DAVE@strict", status=0
    )
    assert same == found
