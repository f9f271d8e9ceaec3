# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue of a real gateway: what waits, what comes back, what nobody is told of, and the command line."""

from __future__ import annotations

import email
import json
import smtplib
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.dns import DnsStub
from contrib.lab.gateway import ROOT, Gateway, to_toml
from contrib.lab.process import free_port, wait_for
from contrib.lab.sink import Sink
from gateway.config import load
from gateway.store.database import open_database
from gateway.store.queue import Queue
from gateway.store.queued import Entry, Filter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MESSAGE = b"From: a@example.net\r\nTo: u@example.com\r\nSubject: hello\r\n\r\nA letter.\r\n"
ZONE: dict[str, Any] = {"forged.example": {"TXT": ["v=spf1 -all"]}}


class House:
    """A gateway with its next hop."""

    def __init__(self, directory: Path, dns: DnsStub) -> None:
        self.port = free_port()  # of the next hop, which may be down
        config = {
            "hostname": "mx.example.com",
            "domains": ["example.com"],
            "next_hop": f"smtp:127.0.0.1:{self.port}",
            "grace": 5,
            "smarthost": {"listen": [f"127.0.0.1:{free_port()}"], "workers": 1, "verify_recipients": False},
            "queue": {
                "retry_first": 0.3,
                "retry_longest": 0.5,
                "pause_longest": 0.5,
                "poll": 0.2,
                "lease": 3.0,
            },
            "dns": {"nameservers": [dns.nameserver], "timeout": 2, "attempts": 1},
            "antivirus": {"enabled": False},
            "policy": {"weights": {"CLASSIFIER": 0, "SPF_FAIL": 0}},
            "store": {"database": f"sqlite:///{directory}/store/mailwarden.db"},
            "http": {"listen": ""},
        }
        self.gateway = Gateway(directory / "gateway", to_toml(config))

    def send(self, sender: str = "a@example.net", *recipients: str) -> str:
        """Hand in a message; its id."""
        (address,) = self.gateway.smarthosts
        assert not isinstance(address, str)
        with smtplib.SMTP(*address, timeout=20) as client:
            client.ehlo("client.example.net")
            assert client.mail(sender)[0] == 250
            for recipient in recipients or ("u@example.com",):
                assert client.rcpt(recipient)[0] == 250
            code, answer = client.data(MESSAGE)
        assert code == 250, answer
        return answer.decode().rpartition("(id ")[2].rstrip(")")

    def queue(self, *words: str, status: int = 0) -> Any:
        """Run `mailwarden queue`, and read its JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "--config", self.gateway.file, "queue", *words, "--json"],
            cwd=ROOT,
            env=dict(self.gateway.environment()),
            capture_output=True,
            check=False,
        )
        assert done.returncode == status, done.stderr.decode()
        return json.loads(done.stdout)

    def entries(self) -> list[Entry]:
        """What is queued."""
        database = open_database(load(self.gateway.file).store)
        try:
            return Queue(database).search(Filter())
        finally:
            database.close()

    def empties(self) -> None:
        """Wait until nothing is queued."""
        wait_for(lambda: not self.entries(), 40, "an empty queue")

    def is_tried(self) -> None:
        """Wait until all that is queued was tried."""
        wait_for(lambda: all(r.reply for one in self.entries() for r in one.recipients), 40, "an attempt")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with DnsStub(ZONE) as dns:
        built = House(tmp_path, dns)
        with built.gateway:
            yield built


def test_what_was_taken_while_the_next_hop_was_down_arrives(house: House) -> None:
    """Also if the gateway is stopped in between, and killed."""
    first = house.send()
    house.is_tried()
    (listed,) = house.queue("list")
    assert (listed["id"], listed["sender"]) == (first, "a@example.net")
    assert listed["recipients"][0]["address"] == "u@example.com"
    assert "cannot connect" in listed["recipients"][0]["reply"]
    assert house.gateway.stop() == 0
    house.gateway.start()
    second = house.send("", "v@example.com")
    for pid in reversed(house.gateway.tree()):
        house.gateway.kill(pid)
    assert house.gateway.process is not None
    house.gateway.process.wait()
    house.gateway.process = None
    with Sink(port=house.port) as sink:
        house.gateway.start()
        arrived = sink.wait_for(2, 40)
        house.empties()
        assert len(sink.transactions) == 2
    assert {t.recipients for t in arrived} == {("u@example.com",), ("v@example.com",)}
    assert all(t.data.endswith(MESSAGE) for t in arrived)
    assert {i for i in (first, second) if any(i.encode() in t.data for t in arrived)} == {first, second}


def test_a_refusal_comes_back_to_its_sender(house: House) -> None:
    with Sink(port=house.port) as sink:
        sink.on("rcpt", "550 5.1.1 no such user", recipient="nobody@example.com")
        item = house.send("a@example.net", "nobody@example.com", "u@example.com")
        found = sink.wait_for(2)
        house.empties()
        assert len(sink.transactions) == 2
    letter = next(t for t in found if t.mail_from)
    assert letter.recipients == ("u@example.com",)
    notice = next(t for t in found if not t.mail_from)
    assert notice.recipients == ("a@example.net",)
    told = email.message_from_bytes(notice.data)
    assert told.get_content_type() == "multipart/report"
    parts = [part for part in told.walk() if not part.is_multipart()]
    text, _, fields, original = (part.as_string() for part in parts)
    assert item in text
    assert "\nFinal-Recipient: rfc822; nobody@example.com\nAction: failed\nStatus: 5.1.1\n" in f"\n{fields}"
    assert "Subject: hello" in original


def test_nobody_is_told_where_the_sender_may_be_forged(house: House) -> None:
    with Sink(port=house.port) as sink:
        sink.on("rcpt", "550 5.1.1 no such user")
        forged = house.send("a@forged.example")
        null = house.send("")
        house.is_tried()
        assert {one["id"] for one in house.queue("list", "--state", "undeliverable")} == {forged, null}
        time.sleep(0.5)
        assert not sink.transactions
        sink.clear()
        assert house.queue("release", forged)["changed"] == [forged]
        sink.wait_for(1)
        assert house.queue("delete", null)["changed"] == [null]
        house.empties()


def test_the_queue_by_hand(house: House) -> None:
    one, two = house.send(), house.send("b@example.net")
    house.is_tried()
    assert house.queue("hold", "--sender", "b@example.net")["changed"] == [two]
    assert house.queue("show", two)["recipients"][0]["state"] == "held"
    assert house.queue("flush", two, status=1) == {"changed": [], "unchanged": [two]}
    with Sink(port=house.port) as sink:
        sink.wait_for(1)
        time.sleep(0.5)
        assert len(sink.transactions) == 1
        assert one.encode() in sink.transactions[0].data
        assert house.queue("release", two)["changed"] == [two]
        sink.wait_for(2)
        house.empties()
