# SPDX-License-Identifier: GPL-2.0-or-later
"""Shadows: what another policy or model makes of live mail is recorded, and nothing comes of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from click.testing import CliRunner, Result

from gateway import assembly, shadow
from gateway.cli.main import cli
from gateway.config import ConfigError, load
from gateway.mail.types import Action, Direction, Envelope, Mail, Session, new_id
from gateway.metrics import Metrics
from gateway.pipeline import Gateway, judge_safely
from gateway.policy.examine import GTUBE
from gateway.store.quarantine import Quarantine
from gateway.store.states import Actor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gateway.store.journal import Record

HAM = b"From: alice@example.net\r\nSubject: hello\r\n\r\nShall we meet on Tuesday?\r\n"
BASE = """
hostname = "mx.example.org"
[auth]
spf = false
dkim = false
dmarc = false
arc = false
iprev = false
[antivirus]
enabled = false
[policy.weights]
CLASSIFIER = 0.0
"""
STRICT = "[policy.thresholds]\ntag = -1.0\nquarantine = 0.0\nreject = 900.0\n"


class Site:
    """Configuration files, and a gateway that has read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[assembly.Opened] = []

    def file(self, name: str, text: str = "", base: str = BASE) -> Path:
        path = self.folder / f"{name}.toml"
        store = f'[store]\ndatabase = "sqlite:///{self.folder}/store.db"\n'
        path.write_text(base + text + store, "utf-8")
        return path

    def live(self, **files: Path | str) -> Path:
        rows = ""
        for name, given in files.items():
            path, _, rules = str(given).partition("|")
            rows += f'[[shadow]]\nname = "{name}"\nfile = "{path}"\n' + (
                f'rules = "{rules}"\n' if rules else ""
            )
        return self.file("live", rows)

    def gateway(self, path: Path) -> Gateway:
        log = structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
        made = assembly.assemble(assembly.load(load(path)), Metrics(1).slot(0), log, threads=4)
        self.opened.append(made)
        return made.gateway

    def judged(self, gateway: Gateway, raw: bytes = HAM) -> Record:
        session = Session(client_ip="192.0.2.10", direction=Direction.INBOUND)
        mail = Mail(new_id(), session, Envelope("alice@example.net", ("bob@example.com",)), raw, time.time())
        judge_safely(mail, gateway, "milter")
        assert gateway.journal is not None
        assert gateway.journal.flush()
        record = gateway.journal.find(mail.id)
        assert record is not None
        return record

    def run(self, *words: object) -> Result:
        live = str(self.folder / "live.toml")
        return CliRunner().invoke(cli, ["--config", live, "shadow", *map(str, words)])

    def json(self, *words: object, status: int = 0) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for opened in made.opened:
        opened.close()


def test_a_shadow_is_recorded_and_changes_nothing(site: Site) -> None:
    gateway = site.gateway(site.live(strict=site.file("strict", STRICT), same=site.file("same")))
    record = site.judged(gateway)
    assert record.verdict.action is Action.RELAY
    strict, same = record.shaded
    assert (strict.name, strict.error) == ("strict", "")
    assert strict.verdict is not None
    assert strict.verdict.action is Action.QUARANTINE
    assert strict.policy != record.verdict.versions.policy
    assert (same.name, same.verdict) == ("same", None)
    assert gateway.quarantine is not None
    assert gateway.quarantine.find(record.id) is None


def test_without_shadows_nothing_is_recorded(site: Site) -> None:
    assert site.judged(site.gateway(site.live())).shaded == ()


def test_a_rule_in_the_shadow_looks_at_the_text(site: Site) -> None:
    """A pattern of its own, which the live policy has never heard of."""
    patterns = site.folder / "patterns"
    patterns.mkdir()
    (patterns / "site.toml").write_text(
        '[SITE_TUESDAY]\nwhere = "text"\npattern = "Tuesday"\n'
        'must_match = ["on Tuesday"]\nmust_not_match = ["on Monday"]\n',
        "utf-8",
    )
    ruled = f'[policy]\npatterns_dir = "{patterns}"\n'
    base = BASE.replace("CLASSIFIER = 0.0", "CLASSIFIER = 0.0\nSITE_TUESDAY = 9.0")
    path = site.file("ruled", ruled, base)
    record = site.judged(site.gateway(site.live(ruled=path)))
    (shaded,) = record.shaded
    assert shaded.verdict is not None, shaded.error
    assert "SITE_TUESDAY" in [c.name for c in shaded.verdict.contributions]
    assert shaded.verdict.action is Action.QUARANTINE
    assert "SITE_TUESDAY" not in [s.name for s in record.signals]
    assert record.verdict.action is Action.RELAY


def test_a_model_in_the_shadow_scores_by_itself(site: Site) -> None:
    path = site.file(
        "other", '[classifier]\nsite = "off"\n', BASE.replace("CLASSIFIER = 0.0", "CLASSIFIER = 1.0")
    )
    record = site.judged(site.gateway(site.live(other=path)))
    (shaded,) = record.shaded
    assert shaded.error == ""
    assert shaded.model.startswith("base")
    assert shaded.verdict is not None


def test_a_shadow_that_fails_is_told_and_harms_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = site.gateway(site.live(strict=site.file("strict", STRICT)))

    def fails(*_: object) -> None:
        raise KeyError("boom\r\n\x1b[31m")

    monkeypatch.setattr(shadow, "decide", fails)
    record = site.judged(gateway)
    assert record.verdict.action is Action.RELAY
    (shaded,) = record.shaded
    assert shaded.verdict is None
    assert "boom" in shaded.error
    assert "\x1b" not in shaded.error


def test_what_a_release_lifted_counts_in_the_shadow_too(site: Site) -> None:
    gateway = site.gateway(site.live(strict=site.file("strict", STRICT)))
    record = site.judged(gateway, HAM.replace(b"Tuesday", GTUBE.encode()))
    (shaded,) = record.shaded
    assert shaded.verdict is not None
    assert "GTUBE" in [c.name for c in shaded.verdict.contributions]


@pytest.mark.parametrize(
    "text",
    [
        '[[shadow]]\nname = "x"\nfile = "/nonexistent.toml"\n',
        '[[shadow]]\nname = "../x"\nfile = "x"\n',
        '[[shadow]]\nname = "x"\n',
    ],
)
def test_a_shadow_that_cannot_be_read_stops_the_start(site: Site, text: str) -> None:
    with pytest.raises(ConfigError):
        assembly.load(load(site.file("live", text)))


# ---------------------------------------------------------------- the command


def test_report(site: Site) -> None:
    gateway = site.gateway(site.live(strict=site.file("strict", STRICT), same=site.file("same")))
    for _ in range(5):
        site.judged(gateway)
    found = site.json("report", "strict", status=1)
    assert (found["records"], found["changed"], found["identical"]) == (5, 5, 0)
    assert found["changes"] == {"newly held": 5}
    found = site.json("report", "same")
    assert (found["records"], found["changed"], found["identical"]) == (5, 0, 5)
    assert "newly held" in site.run("report", "strict").output
    assert site.run("report", "nobody").exit_code == 66


def test_report_against_what_reviewers_said(site: Site) -> None:
    live = site.live(loose=site.file("loose", '[policy.actions]\nGTUBE = "none"\n'))
    gateway = site.gateway(live)
    record = site.judged(gateway, HAM.replace(b"Tuesday", GTUBE.encode()))
    quarantine = gateway.quarantine
    assert isinstance(quarantine, Quarantine)
    if quarantine.find(record.id) is not None:
        assert quarantine.delete(record.id, Actor("cli:eve"))
        found = site.json("report", "loose", status=1)
        assert found["known"]["spam"]["messages"] == 1


def test_list(site: Site) -> None:
    site.live(strict=site.file("strict", STRICT))
    (row,) = site.json("list")
    assert (row["name"], row["model"], row["looks"]) == ("strict", "", False)
    assert "strict" in site.run("list").output


def test_promote(site: Site) -> None:
    strict = site.file("strict", STRICT)
    live = site.live(strict=strict)
    live.chmod(0o640)
    before = live.read_bytes()
    assert site.run("promote", "strict").exit_code == 1  # nobody confirms
    assert live.read_bytes() == before
    done = site.run("promote", "strict", "--yes")
    assert done.exit_code == 0, done.output
    assert live.read_bytes() == strict.read_bytes()
    assert live.stat().st_mode & 0o777 == 0o640
    (kept,) = site.folder.glob("live.toml.before-strict-*")
    assert kept.read_bytes() == before
    assert assembly.load(load(live)).policy.thresholds.quarantine == 0.0


def test_promote_refuses_what_changes_more(site: Site) -> None:
    site.live(strict=site.file("strict", STRICT, BASE.replace("mx.example.org", "other.example.org")))
    done = site.run("promote", "strict", "--yes")
    assert done.exit_code == 64
    assert "hostname" in done.output
    assert site.run("promote", "strict", "--yes", "--all").exit_code == 0


def test_promote_refuses_what_does_not_load(site: Site) -> None:
    site.live(strict=site.file("strict", "[policy.weights]\nNO_SUCH_SIGNAL = 1.0\n", ""))
    assert site.run("promote", "strict", "--yes").exit_code == 78
    assert site.run("promote", "nobody", "--yes").exit_code == 66


def test_a_shadow_costs_little(site: Site) -> None:
    """Weighing the same signals once more: some tens of microseconds, beside milliseconds of judging."""
    gateway = site.gateway(site.live(strict=site.file("strict", STRICT)))
    record = site.judged(gateway)
    mail = Mail(record.id, record.session, record.envelope, HAM, record.received)
    verdict = replace(record.verdict, edits=(), cuts=())
    seen = shadow.Seen(mail, None, None, record.evidence, None, record.signals, verdict)  # type: ignore[arg-type]

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(200):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return min(times)

    # No model stands beside it, so that content is not looked at.
    assert fastest(lambda: shadow.shade(gateway.shadows, seen)) < 0.001
