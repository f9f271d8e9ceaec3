# SPDX-License-Identifier: GPL-2.0-or-later
"""EICAR in encodings, archives and nestings, judged whole with a real clamd: detected, or held."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from gateway import assembly
from gateway.auth.settings import AuthSettings
from gateway.config import Config
from gateway.mail.types import Action, Direction, Envelope, Mail, Session, new_id
from gateway.metrics import Metrics
from gateway.pipeline import Gateway, consider
from gateway.policy.rules import PolicySettings
from gateway.scanners.clamd import ClamdSettings
from tests.shared import SHARED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrib.lab.clamd import Clamd

pytestmark = [
    pytest.mark.server("clamd"),
    pytest.mark.skipif(SHARED is None, reason="the public suites are not here"),
]

SUITE = (SHARED or Path()) / "conformance" / "eicar-nested"
# No virus, and no archive: it is enough that it is tagged, and why.
FLAGGED = {"svg-script": "ATTACHMENT_SVG_SCRIPT"}
# A password that stands in the text opens the archive, and clamd sees what is inside.
OPENED = "zip-password-in-body"


def rows() -> list[dict[str, str]]:
    path = SUITE / "cases.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def gateway(clamd: Clamd) -> Iterator[Gateway]:
    config = Config(
        hostname="mx.example.org",
        auth=AuthSettings(spf=False, dkim=False, dmarc=False, arc=False, iprev=False),
        antivirus=ClamdSettings(addresses=(clamd.addresses[0],)),
        policy=PolicySettings(weights={"CLASSIFIER": 0.0}),
    )
    log = structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
    opened = assembly.assemble(assembly.load(config), Metrics(1).slot(0), log, threads=4, keep=False)
    yield opened.gateway
    opened.close()


def test_detected_or_held(gateway: Gateway) -> None:
    passed, found = {}, {}
    for row in rows():
        raw = re.sub(rb"\r?\n", b"\r\n", (SUITE / row["file"]).read_bytes())
        session = Session(client_ip="192.0.2.10", direction=Direction.INBOUND)
        mail = Mail(new_id(), session, Envelope("a@example.net", ("b@example.com",)), raw, time.time())
        judgement = consider(mail, gateway)
        assert judgement.evidence.antivirus.status in ("clean", "infected", "limit"), row["id"]
        found[row["id"]] = judgement.evidence.antivirus.status
        if judgement.verdict.action is Action.TAG and FLAGGED.get(row["id"]) in {
            s.name for s in judgement.signals
        }:
            continue
        if judgement.verdict.action in (Action.RELAY, Action.TAG):
            passed[row["id"]] = [f"{s.name} {s.text}" for s in judgement.signals]
    assert passed == {}
    assert found[OPENED] == "infected"
    assert sum(status == "infected" for status in found.values()) >= 60
