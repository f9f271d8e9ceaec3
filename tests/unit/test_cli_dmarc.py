# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden dmarc`: what it lists, writes, sends and refuses, and what it shows of a domain."""

from __future__ import annotations

import gzip
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from contrib.lab.dns import DnsStub
from contrib.lab.sink import Sink
from gateway.cli.dmarc import dmarc
from gateway.config import Config
from gateway.dns import DnsSettings
from gateway.reports.settings import ReportSettings
from gateway.store.counts import DAY
from gateway.store.database import StoreSettings, open_database
from gateway.store.dmarc import Observation, Observations
from tests.stored import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEEN = Observation(
    "192.0.2.1", "example.net", "example.net", "", "reject", "reject", dkim=False, spf=False, reason=""
)
RECORD = "v=DMARC1; p=reject; rua=mailto:rua@example.net"
ZONE: dict[str, Any] = {
    "_dmarc.example.net": {
        "TXT": ["v=DMARC1; p=reject; sp=none; pct=50; rua=mailto:a@example.net,mailto:\x1b[31m@x"]
    },
    "_dmarc.example.org": {"TXT": ["v=DMARC1; p=quarantine; rua=mailto:a@elsewhere.example"]},
    "_dmarc.fails.example": "SERVFAIL",
    "_dmarc.lame.example.org": "SERVFAIL",
    "_dmarc.slip.example": {"TXT": ["v=DMARC1; p=rejct"]},
    "_dmarc.two.example": {"TXT": ["v=DMARC1; p=reject", "v=DMARC1; p=none"]},
}


def day_of(ago: int) -> str:
    """That day, as it is when it is asked for: the tests may have been collected on another one."""
    return (datetime.now(UTC) - timedelta(days=ago)).date().isoformat()


class Bench:
    """A configuration of its own, and counts for yesterday and today."""

    def __init__(self, directory: Path, sink: Sink, stub: DnsStub) -> None:
        self.config = Config(
            hostname="mx.example.com",
            store=settings_for(directory),
            next_hop=f"smtp:{sink.address}",
            dns=DnsSettings(nameservers=(stub.nameserver,), timeout=5.0, attempts=1),
            report=ReportSettings(enabled=True, email="dmarc@example.com"),
        )
        self.sink = sink

    def see(
        self, *, days_ago: int = 1, domain: str = "example.net", record: str = RECORD, count: int = 2
    ) -> None:
        database = open_database(self.config.store)
        store = Observations(database)
        for _ in range(count):
            store.add(int(time.time()) // DAY - days_ago, domain, record, SEEN)
        store.close()
        database.close()

    def change(self, **changes: Any) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)

    def run(self, *words: str) -> Result:
        context = SimpleNamespace(config=self.config, given=True)
        return CliRunner().invoke(dmarc, words, obj=context)

    def json(self, *words: str, status: int = 0) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def stub() -> Iterator[DnsStub]:
    with DnsStub(ZONE) as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path, stub: DnsStub) -> Iterator[Bench]:
    with Sink() as sink:
        yield Bench(tmp_path, sink, stub)


def test_list(bench: Bench) -> None:
    assert "nothing to report" in bench.run("report").stdout
    bench.see()
    bench.see(days_ago=0, count=5)
    first, second = bench.json("report")
    assert first == {
        "day": day_of(1),
        "domain": "example.net",
        "messages": 2,
        "records": 1,
        "state": "due",
    }
    assert (second["messages"], second["state"]) == (5, "today")
    assert bench.json("report", "--day", day_of(1)) == [first]
    assert bench.json("report", "--domain", "Example.NET.") == [first, second]
    assert bench.json("report", "--domain", "example.com") == []
    header, *lines = bench.run("report").stdout.splitlines()
    assert header.split() == ["Day", "Domain", "Messages", "Records", "State"]
    assert lines[0].split() == [day_of(1), "example.net", "2", "1", "due"]
    assert not bench.sink.transactions


def test_write(bench: Bench, tmp_path: Path) -> None:
    bench.see()
    bench.see(domain="example.org", record="v=DMARC1; p=none")
    out = tmp_path / "new" / "reports"
    written, skipped = bench.json("report", "--out", str(out))
    (file,) = out.iterdir()
    assert file.name.startswith("example.com!example.net!")
    assert written["file"] == str(file)
    assert b"<count>2</count>" in gzip.decompress(file.read_bytes())
    assert (skipped["status"], skipped["note"]) == ("skipped", "no address for reports")
    assert bench.json("report")[0]["state"] == "due"
    (tmp_path / "file").write_text("")
    assert bench.run("report", "--out", str(tmp_path / "file" / "below")).exit_code == 1


def test_send_once(bench: Bench) -> None:
    bench.see()
    bench.see(days_ago=0)
    (sent,) = bench.json("report", "--send")
    assert (sent["destination"], sent["status"], sent["day"]) == ("rua@example.net", "sent", day_of(1))
    (transaction,) = bench.sink.transactions
    assert (transaction.mail_from, transaction.recipients) == ("", ("rua@example.net",))
    assert b"Subject: Report Domain: example.net\r\n Submitter: example.com\r\n" in transaction.data
    assert bench.json("report", "--send") == []
    assert len(bench.sink.transactions) == 1
    assert [row["state"] for row in bench.json("report")] == ["done", "today"]


def test_what_fails_is_told_and_tried_again(bench: Bench) -> None:
    bench.see()
    rule = bench.sink.on("rcpt", "451 4.3.0 later")
    (row,) = bench.json("report", "--send", status=1)
    assert row["status"] == "deferred"
    assert "451 4.3.0 later" in row["note"]
    rule.times = 0
    (row,) = bench.json("report", "--send")
    assert row["status"] == "sent"


def test_a_way_of_its_own(bench: Bench) -> None:
    bench.see()
    bench.change(
        next_hop="", report=msgspec.structs.replace(bench.config.report, next_hop=bench.config.next_hop)
    )
    assert bench.json("report", "--send")[0]["status"] == "sent"


@pytest.mark.parametrize(
    ("words", "changes", "status", "told"),
    [
        (("--send", "--out", "x"), {}, 64, "one of"),
        (("--send", "--day", "today"), {}, 64, "is over"),
        (("--day", "yesterday"), {}, 64, "does not match"),
        (("--send",), {"report": ReportSettings()}, 78, "report.email"),
        (("--send",), {"next_hop": ""}, 78, "next hop"),
        ((), {"store": StoreSettings(database="sqlite:////proc/nothing/test.db")}, 69, "/proc/nothing"),
    ],
)
def test_refusals(
    bench: Bench, words: tuple[str, ...], changes: dict[str, Any], status: int, told: str
) -> None:
    bench.see()
    bench.change(**changes)
    done = bench.run("report", *(day_of(0) if word == "today" else word for word in words))
    assert done.exit_code == status
    assert told in done.output
    assert not bench.sink.transactions


def test_show(bench: Bench) -> None:
    told = bench.json("show", "News.Example.NET")
    assert (told["domain"], told["found_at"], told["policy"]) == ("news.example.net", "example.net", "none")
    assert (told["percent"], told["on_failure"]) == (50, "DMARC_FAIL: 1 points")
    good, refused = told["reports"]
    assert good == {"destination": "a@example.net", "status": "good", "limit": None, "reason": ""}
    assert (refused["status"], refused["reason"]) == ("refused", "not usable: mailto:?[31m@x")
    text = bench.run("show", "example.net").stdout
    assert "DMARC_REJECT: reject" in text
    assert " days old" in text
    assert "\x1b" not in text
    told = bench.json("show", "example.org")
    assert told["on_failure"] == "DMARC_QUARANTINE: quarantine"
    assert told["reports"][0]["status"] == "refused"


def test_show_what_is_not_there(bench: Bench) -> None:
    assert bench.json("show", "nothing.example")["status"] == "none"
    assert bench.json("show", "fails.example", status=1)["status"] == "temperror"
    for text in ("no domain..name", "a@example.net", "com/x", "\x1b[31m.example"):
        done = bench.run("show", text)
        assert (done.exit_code, "\x1b" in done.output) == (64, False)


def test_show_says_why_there_is_no_policy(bench: Bench) -> None:
    told = bench.json("show", "slip.example")
    assert (told["status"], told["on_failure"]) == ("none", "nothing, as without a record")
    assert "no effect" in told["reason"]
    assert bench.json("show", "two.example")["reason"] == "two.example has 2 records, which count as none"
    told = bench.json("show", "lame.example.org")
    assert (told["policy"], told["on_failure"]) == ("quarantine", "DMARC_QUARANTINE: quarantine")
    assert "deferred" in told["in_doubt"]
