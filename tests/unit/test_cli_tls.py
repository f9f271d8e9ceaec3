# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden tls`: what it says of a domain, and how a host is forgotten."""

from __future__ import annotations

import gzip
import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from contrib.lab.dns import DnsStub
from contrib.lab.sink import Sink
from gateway.cli.tls import tls
from gateway.config import Config
from gateway.dns import DnsSettings
from gateway.reports.settings import TlsReportSettings
from gateway.store.counts import DAY
from gateway.store.database import open_database
from gateway.store.hosts import Hosts, StsPolicies
from gateway.store.tlsrpt import TlsResult, TlsResults
from gateway.tls.mta_sts import Policy
from gateway.tls.outbound import OutboundTlsRule
from gateway.tls.policies import Kept
from gateway.tls.settings import TlsSettings
from tests.stored import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ZONE: dict[str, Any] = {
    "example.com": {"MX": ["10 mx.example.com", "20 other.example.net"]},
    "mx.example.com": {"A": ["192.0.2.1"]},
    "other.example.net": {"A": ["192.0.2.2"]},
    "_25._tcp.mx.example.com": {"TLSA": [f"3 1 1 {'ab' * 32}"]},
    "_smtp._tls.example.com": {"TXT": ["v=TLSRPTv1; rua=mailto:tls@example.com"]},
    "table.example.com": {"MX": ["10 other.example.net"]},
    "null.example.com": {"MX": ["0 ."]},
    "lost.example.com": {"MX": ["10 lost.example.com"], "A": ["192.0.2.3"]},
    "_25._tcp.lost.example.com": "SERVFAIL",
}
FAR = 4_000_000_000.0


class Bench:
    """A configuration of its own, and a policy that is kept."""

    def __init__(self, directory: Path, stub: DnsStub) -> None:
        self.config = Config(
            store=settings_for(directory),
            dns=DnsSettings(nameservers=(stub.nameserver,), timeout=5.0, attempts=1),
            tls=TlsSettings(
                downgrade="defer",
                outbound=(OutboundTlsRule(domains=("table.example.com",), level="encrypt"),),
            ),
        )
        database = open_database(self.config.store)
        policy = Policy("enforce", 1_000, ("other.example.net",))
        StsPolicies(database).keep(Kept("example.com", "7", policy, FAR - 1_000, FAR, FAR))
        Hosts(database, 30).saw("other.example.net", "verified")
        database.close()

    def run(self, *arguments: str) -> Result:
        context = SimpleNamespace(config=self.config, given=True, path=None)
        return CliRunner().invoke(tls, arguments, obj=context)

    def json(self, domain: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("explain", domain, "--json").stdout)
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with DnsStub(ZONE) as stub:
        stub.authentic = True
        yield Bench(tmp_path, stub)


def test_what_a_domain_asks_for(bench: Bench) -> None:
    found = bench.json("example.com")
    assert (found["mta_sts"], found["mta_sts_mx"], found["mta_sts_id"]) == (
        "enforce",
        "other.example.net",
        "7",
    )
    assert found["dnssec"] == "the MX records are validated"
    assert found["tls_rpt"] == "mailto:tls@example.com"
    assert found["postfix"] == "dane-only"
    rows = [(row["host"], row["level"], row["source"], row["remembered"]) for row in found["mx"]]
    assert rows == [
        ("mx.example.com", "dane", "dane", ""),
        ("other.example.net", "verify", "mta-sts", "verified"),
    ]
    shown = bench.run("explain", "example.com")
    assert shown.exit_code == 0
    assert "a certificate that fits TLSA 3 1 1" in shown.stdout


@pytest.mark.parametrize(
    ("domain", "level", "source", "status"),
    [
        ("table.example.com", "encrypt", "table", 0),
        ("lost.example.com", "refused", "dane", 1),
        ("null.example.com", "", "", 1),
        ("nowhere.example.org", "", "", 1),
    ],
)
def test_other_domains(bench: Bench, domain: str, level: str, source: str, status: int) -> None:
    rows = bench.json(domain)["mx"]
    assert [(row["level"], row["source"]) for row in rows] == ([(level, source)] if level else [])
    assert bench.run("explain", domain).exit_code == status


@pytest.mark.parametrize(
    ("route", "rows"),
    [
        ("smtp:hop.example.org:25", [("hop.example.org", "may", "")]),
        ("lmtp:unix:/run/lmtp", [("lmtp:unix:/run/lmtp", "none", "")]),
        ("mx", [("mx.example.com", "dane", "dane"), ("other.example.net", "verify", "mta-sts")]),
        ("mx:nowhere.example.org", []),
    ],
)
def test_a_route_goes_before_mx_records(bench: Bench, route: str, rows: list[tuple[str, str, str]]) -> None:
    bench.config = msgspec.structs.replace(bench.config, next_hop=route)
    found = bench.json("example.com")
    assert found["routed_by"].startswith(route.replace("mx", "mx:example.com") if route == "mx" else route)
    wanted = [(host, level, source or "nobody asks") for host, level, source in rows]
    assert [(row["host"], row["level"], row["source"]) for row in found["mx"]] == wanted


def test_not_a_domain(bench: Bench) -> None:
    assert bench.run("explain", "a..b").exit_code == 65
    assert bench.run("explain", "localhost").exit_code == 65


def test_a_host_is_forgotten(bench: Bench) -> None:
    assert bench.run("forget", "other.example.net").exit_code == 0
    again = bench.run("forget", "other.example.net", "\x1b[31m.example")
    assert again.exit_code == 1
    assert "\x1b" not in again.stderr
    (row,) = bench.json("table.example.com")["mx"]
    assert row["remembered"] == ""


# ---------------------------------------------------------------- reports


@pytest.fixture
def reporting(bench: Bench) -> Iterator[tuple[Bench, Sink]]:
    with Sink() as sink:
        changes = {
            "hostname": "mx.example.org",
            "next_hop": f"smtp:{sink.address}",
            "tls_report": TlsReportSettings(enabled=True, email="tls@example.org"),
        }
        bench.config = msgspec.structs.replace(bench.config, **changes)
        database = open_database(bench.config.store)
        counts = TlsResults(database)
        today = int(time.time()) // DAY
        for day in (today - 1, today):
            counts.add(day, "example.com", TlsResult("no-policy-found"))
        counts.add(today - 1, "null.example.com", TlsResult("no-policy-found"))
        counts.close()
        database.close()
        yield bench, sink


def test_reports_are_listed_and_written(reporting: tuple[Bench, Sink], tmp_path: Path) -> None:
    bench, sink = reporting
    rows = json.loads(bench.run("report", "--json").stdout)
    assert [(row["domain"], row["state"]) for row in rows] == [
        ("example.com", "due"),
        ("null.example.com", "due"),
        ("example.com", "today"),
    ]
    done = bench.run("report", "--domain", "example.com", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 2
    assert json.loads(gzip.decompress(files[0].read_bytes()))["contact-info"] == "tls@example.org"
    assert not sink.transactions


def test_reports_are_sent_once(reporting: tuple[Bench, Sink]) -> None:
    bench, sink = reporting
    sent = json.loads(bench.run("report", "--send", "--json").stdout)
    assert [(row["domain"], row["status"]) for row in sent] == [
        ("example.com", "sent"),
        ("null.example.com", "skipped"),  # it asks for none
    ]
    (mail,) = sink.transactions
    assert mail.recipients == ("tls@example.com",)
    assert b"TLS-Report-Domain: example.com" in mail.data
    assert json.loads(bench.run("report", "--send", "--json").stdout) == []
    assert len(sink.transactions) == 1


def test_reports_need_an_address(bench: Bench) -> None:
    assert bench.run("report", "--send").exit_code == 78
    assert bench.run("report", "--send", "--out", "x").exit_code == 64
