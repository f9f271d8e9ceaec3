# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports about mail through both doors of a running gateway: who may, what is learned, what is said."""

from __future__ import annotations

import smtplib
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.gateway import Gateway
from contrib.lab.milter_client import MilterClient, Peer
from contrib.lab.process import free_port, wait_for
from contrib.lab.sink import Sink
from gateway.classifier.site import SiteFile
from gateway.policy.examine import GTUBE
from gateway.store.database import StoreSettings, open_database
from gateway.store.samples import Samples, SampleState
from tests.teaching import message
from tests.unit.test_feedback_attached import ARF, NOTE, TOP, multipart, part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPAM, HAM, BOB = "spam@example.com", "ham@example.com", "bob@example.com"
OWN = Peer(address="203.0.113.7", name="pc.example.com")
LOGIN = Peer(login="alice")
STRANGER = Peer()


class Site:
    """A gateway with both doors that takes reports."""

    def __init__(self, directory: Path, sink: Sink, *, queue: bool) -> None:
        self.sink = sink
        self.settings = StoreSettings(database=f"sqlite:///{directory}/store/served.db")
        self.model = SiteFile(directory / "store" / "site-model.npy")
        config: dict[str, Any] = {
            "hostname": "mx.example.com",
            "domains": ["example.com"],
            "relay_networks": ["203.0.113.0/24"],
            "next_hop": f"smtp:127.0.0.1:{sink.port}",
            "grace": 3,
            "milter": {"listen": [f"inet:127.0.0.1:{free_port()}"], "workers": 2},
            "smarthost": {
                "listen": [f"127.0.0.1:{free_port()}"],
                "workers": 2,
                "queue": queue,
                "xclient_networks": ["127.0.0.1/32"],
            },
            "auth": {"spf": False, "dkim": False, "dmarc": False, "arc": False},
            "dns": {"nameservers": ["127.0.0.1:9"], "timeout": 0.2, "attempts": 1},
            "antivirus": {"enabled": False},
            "learning": {"spam_addresses": [SPAM, "junk@Example.com"], "ham_addresses": [HAM]},
            "classifier": {"reports_per_day": 6},
            "http": {"listen": ""},
            "store": {"database": self.settings.database},
            "log": {"format": "json"},
        }
        self.gateway = Gateway(directory / "gateway", config)

    def milter(self, peer: Peer, raw: bytes, *recipients: str) -> tuple[str, str, tuple[str, ...]]:
        """What Postfix would be told: status, reply, and the recipients that remain."""
        with MilterClient(self.gateway.milters[0]) as client:
            client.open(peer)
            done = client.send("alice@example.com", recipients, raw)
        return done.status, done.reply, done.recipients if done.status == "accept" else ()

    def smarthost(self, peer: Peer, raw: bytes, *recipients: str) -> str:
        """The last reply over SMTP."""
        host = self.gateway.smarthosts[0]
        assert isinstance(host, tuple)
        with smtplib.SMTP(*host, timeout=20) as client:
            login = f" LOGIN={peer.login}" if peer.login else ""
            client.docmd("XCLIENT", f"ADDR={peer.address} NAME={peer.name}{login}")
            client.ehlo(peer.helo)
            client.docmd("MAIL", "FROM:<alice@example.com>")
            for recipient in recipients:
                code, text = client.docmd("RCPT", f"TO:<{recipient}>")
                if code != 250:
                    return f"{code} {text.decode()}"
            code, text = client.data(raw)
            return f"{code} {text.decode()}"

    def labels(self) -> list[tuple[bool, str, str]]:
        """Label, origin and source of all that was learned or waits to be.

        What waits is learned meanwhile, and is there twice for a moment: so each digest counts once, and what
        waits is read first, or one could be missed that has just been learned.
        """
        database = open_database(self.settings)
        try:
            samples = Samples(database)
            rows = [*samples.read(SampleState.WAITING), *samples.read(SampleState.LEARNED)]
            return sorted(
                {(one.digest, one.spam): (one.spam, one.origin, one.source) for one in rows}.values()
            )
        finally:
            database.close()

    def said(self, count: int) -> list[dict[str, Any]]:
        """What the gateway logged about so many reports."""
        wait_for(lambda: len(self.gateway.events("report")) >= count, 20, f"{count} lines of the log")
        return self.gateway.events("report")


@pytest.fixture(params=[False, True], ids=["relaying", "queueing"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with Sink() as sink:
        made = Site(tmp_path, sink, queue=request.param)
        with made.gateway:
            yield made


def report(*numbers: int, spam: bool = True) -> bytes:
    return TOP + multipart(NOTE, *(part(b"message/rfc822", message(n, spam=spam)) for n in numbers))


def test_reports_teach_through_both_doors(site: Site) -> None:
    assert site.milter(LOGIN, report(1, 2), SPAM)[0] == "discard"
    assert site.milter(OWN, report(3), "JUNK@example.com")[0] == "discard"
    assert site.smarthost(OWN, report(1, spam=False), HAM).startswith("250 2.0.0 Ok: report taken")
    # What was said to be taken is on disk.
    assert site.labels() == [
        (False, "report", "203.0.113.7"),
        (True, "report", "203.0.113.7"),
        (True, "report", "alice"),
        (True, "report", "alice"),
    ]
    # About one second where nothing else runs.
    wait_for(lambda: (model := site.model.current()) is not None and model.spam == 3, 30, "a model")
    assert not site.sink.transactions
    assert [line["messages"] for line in site.said(3)] == [2, 1, 1]


def test_what_is_no_report_is_refused_with_a_word(site: Site) -> None:
    inline = TOP + multipart(NOTE)
    abuse = TOP + multipart(ARF % b"not-spam", part(b"message/rfc822", message(1, spam=True)), kind=b"report")
    for raw in (inline, abuse):
        status, reply, _ = site.milter(LOGIN, raw, SPAM)
        assert status == "reject"
        assert reply.startswith("550 5.6.0 Nothing to learn from, forward the message as an attachment")
        assert site.smarthost(OWN, raw, SPAM)[:60] == reply[:60]
    assert site.smarthost(OWN, report(1), SPAM, HAM).startswith("550 5.6.0")
    assert site.labels() == []
    assert site.said(5)[-1]["why"].strip(chr(34)) == "sent to addresses for spam and for ham"


def test_mail_from_strangers_is_mail_like_any_other(site: Site) -> None:
    assert site.milter(STRANGER, report(1), SPAM)[::2] == ("accept", (SPAM,))
    assert site.smarthost(STRANGER, report(1), SPAM).startswith("250 2.0.0 Ok: ")
    [passed] = site.sink.wait_for(1)
    assert passed.recipients == (SPAM,)
    assert site.labels() == []
    assert not site.gateway.events("report")


def test_others_get_their_copy(site: Site) -> None:
    assert site.milter(LOGIN, report(1), BOB, SPAM)[::2] == ("accept", (BOB,))
    assert site.smarthost(OWN, report(2), SPAM, BOB).startswith("250 2.0.0 Ok: ")
    [passed] = site.sink.wait_for(1)
    assert passed.recipients == (BOB,)
    assert len(site.labels()) == 2
    # What is refused for them is not taken.
    gtube = report(3).replace(b"Please learn this.", GTUBE.encode())
    assert site.milter(LOGIN, gtube, BOB, SPAM)[0] == "reject"
    assert site.smarthost(OWN, gtube, BOB, SPAM).startswith("5")
    assert len(site.labels()) == 2


def test_a_reporter_has_a_limit_and_test_strings_are_left_out(site: Site) -> None:
    assert site.milter(LOGIN, report(*range(10)), SPAM)[0] == "discard"
    assert len(site.labels()) == 6
    assert site.milter(LOGIN, report(20), SPAM)[0] == "discard"
    assert len(site.labels()) == 6
    assert site.said(2)[-1]["why"].strip(chr(34)) == "1 over a daily limit"
    test = TOP + multipart(part(b"message/rfc822", b"From: a@example.net\r\n\r\n" + GTUBE.encode()))
    assert site.milter(OWN, test, SPAM)[0] == "discard"
    assert len(site.labels()) == 6
    assert site.said(3)[-1]["why"].strip(chr(34)) == "1 not fit to be learned"
