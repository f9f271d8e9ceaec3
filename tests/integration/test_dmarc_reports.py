# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages in through the milter door of a real gateway, their DMARC report out at a next hop."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from email import message_from_bytes
from email.policy import default
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from sqlalchemy import update

from contrib.lab.dns import DnsStub
from contrib.lab.gateway import Gateway
from contrib.lab.milter_client import MilterClient, Peer
from contrib.lab.process import free_port
from contrib.lab.sink import Sink
from gateway.store import schema
from gateway.store.database import StoreSettings, open_database
from gateway.store.dmarc import summaries

if TYPE_CHECKING:
    from pathlib import Path

ZONE: dict[str, Any] = {
    "example.net": {"TXT": ["v=spf1 ip4:192.0.2.10 -all"]},
    "_dmarc.example.net": {
        "TXT": ["v=DMARC1; p=reject; rua=mailto:rua@reports.example!1m,mailto:x@victim.example"]
    },
    "example.net._report._dmarc.reports.example": {"TXT": ["v=DMARC1"]},
    "silent.example": {"TXT": ["v=spf1 -all"]},
    "_dmarc.silent.example": {"TXT": ["v=DMARC1; p=none"]},
    "_dmarc.example.org": {"TXT": ["v=DMARC1; p=none; rua=mailto:own@example.org"]},
}
GOOD, BAD = "192.0.2.10", "192.0.2.66"
# client, envelope sender, author, how often
TRAFFIC = [
    (GOOD, "alice@example.net", "alice@example.net", 3),
    (BAD, "eve@silent.example", "alice@example.net", 2),
    (BAD, "eve@silent.example", "eve@silent.example", 1),
    (BAD, "eve@silent.example", "dmarc@example.org", 1),  # as if from our own report address
]


def send(gateway: Gateway, client: str, sender: str, author: str) -> str:
    raw = (
        f"From: <{author}>\r\nTo: <bob@example.org>\r\nSubject: figures\r\nMessage-ID: <1@{client}>\r\n"
        "Date: Mon, 2 Nov 2026 10:00:00 +0000\r\n\r\nHello Bob,\r\nhere they are.\r\n"
    )
    with MilterClient(gateway.milters[0]) as milter:
        assert milter.open(Peer(address=client, name="mail.example.net", helo="mail.example.net")) is None
        return milter.send(sender, ["bob@example.org"], raw.encode()).status


def command(gateway: Gateway, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "dmarc", "report", *words, "--json", "--config", str(gateway.file)],
        env=dict(gateway.environment()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def settings(directory: Path, stub: DnsStub, sink: Sink, *, enabled: bool) -> dict[str, Any]:
    return {
        "hostname": "mx.example.org",
        "domains": ["example.org"],
        "next_hop": f"smtp:{sink.address}",
        "milter": {"listen": [f"inet:127.0.0.1:{free_port()}"], "workers": 2},
        "antivirus": {"enabled": False},
        "dns": {"nameservers": [stub.nameserver]},
        "store": {"database": f"sqlite:///{directory}/store/test.db"},
        "http": {"listen": ""},
        "report": {"enabled": enabled, "email": "dmarc@example.org", "organization": "Example <&>"},
    }


def test_from_the_milter_door_to_the_destination(tmp_path: Path) -> None:
    with DnsStub(ZONE) as stub, Sink() as sink:
        config = settings(tmp_path, stub, sink, enabled=True)
        with Gateway(tmp_path / "gateway", config) as gateway:
            statuses = [
                send(gateway, client, sender, author)
                for client, sender, author, times in TRAFFIC
                for _ in range(times)
            ]
        assert statuses[:5] == ["accept"] * 3 + ["reject"] * 2
        # The gateway has ended, and what it counted is written. A day is reported when it is over.
        database = open_database(StoreSettings(database=config["store"]["database"]))
        for table in (schema.dmarc_observations, schema.dmarc_policies):
            database.write(lambda c, table=table: c.execute(update(table).values(day=table.c.day - 1)))  # type: ignore[misc]  # a lambda
        assert [(one.domain, one.count, one.rows) for one in summaries(database)] == [("example.net", 5, 2)]
        database.close()

        told = {row["destination"]: row["status"] for row in command(gateway, "--send")}
        assert told == {"rua@reports.example": "sent", "x@victim.example": "skipped"}
        assert command(gateway, "--send") == []
        (taken,) = sink.wait_for(1)
    assert (taken.mail_from, taken.recipients) == ("", ("rua@reports.example",))
    message = message_from_bytes(taken.data, policy=default)
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Subject"].startswith("Report Domain: example.net Submitter: example.org Report-ID: <")
    attached = list(message.iter_parts())[1]
    root = ET.fromstring(gzip.decompress(attached.get_content()))
    assert root.findtext("report_metadata/org_name") == "Example <&>"
    rows = [
        (
            record.findtext("row/source_ip"),
            record.findtext("row/count"),
            record.findtext("row/policy_evaluated/disposition"),
            record.findtext("row/policy_evaluated/dkim"),
            record.findtext("row/policy_evaluated/spf"),
            record.findtext("identifiers/envelope_from"),
            record.findtext("identifiers/envelope_to"),
            record.findtext("auth_results/spf/result"),
        )
        for record in root.findall("record")
    ]
    assert rows == [
        (GOOD, "3", "none", "fail", "pass", "example.net", "example.org", "pass"),
        (BAD, "2", "reject", "fail", "fail", "silent.example", "example.org", "fail"),
    ]


def test_nothing_is_counted_unless_asked_for(tmp_path: Path) -> None:
    with DnsStub(ZONE) as stub, Sink() as sink:
        config = settings(tmp_path, stub, sink, enabled=False)
        with Gateway(tmp_path / "gateway", config) as gateway:
            assert send(gateway, *TRAFFIC[0][:3]) == "accept"
        assert command(gateway) == []
