# SPDX-License-Identifier: GPL-2.0-or-later
"""The age of the antivirus signatures, as the housekeeper watches it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import Mock

from contrib.lab.faults import CLEAN, FakeClamd
from gateway.housekeeper import SignatureWatch
from gateway.metrics import Metrics
from gateway.scanners.clamd import ClamdSettings, signatures_made

if TYPE_CHECKING:
    import pytest

OLD = b"ClamAV 1.4.6/25700/Wed Jan  1 09:00:00 2020"
NEW = b"ClamAV 1.4.6/99999/Mon Jan  1 09:00:00 2190"


def test_stale_signatures_are_measured_and_said_once_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, log = Metrics(2), Mock()
    with FakeClamd(CLEAN) as old, FakeClamd(CLEAN) as new:
        old.version, new.version = OLD, NEW
        settings = ClamdSettings(addresses=(new.address, old.address), version_interval=1e-9)
        watch = SignatureWatch(settings, metrics.slot(1), log)
        watch.look()
        watch.look()
        assert [call.kwargs["server"] for call in log.warning.call_args_list] == [old.address]
        assert log.warning.call_args.kwargs["days"] > 2_000
        assert metrics.highest("antivirus_database") == signatures_made(OLD.decode())
        monkeypatch.setattr("gateway.housekeeper._HOUR", 0.0)
        watch = SignatureWatch(settings, metrics.slot(1), log)
        watch.look()
        watch.look()
        assert log.warning.call_count == 3
        old.version = NEW
        watch.look()
        assert log.warning.call_count == 3
        assert metrics.highest("antivirus_database") == signatures_made(NEW.decode())


def test_servers_that_do_not_answer_have_no_age() -> None:
    metrics, log = Metrics(1), Mock()
    SignatureWatch(ClamdSettings(addresses=("127.0.0.1:1",)), metrics.slot(0), log).look()
    assert metrics.highest("antivirus_database") == 0.0
    log.warning.assert_not_called()


def test_the_gauge_has_a_name() -> None:
    metrics = Metrics(2)
    metrics.slot(0).set("antivirus_database", value=5.0)
    [gauge] = [m for m in metrics.collect() if m.name == "mailwarden_antivirus_database_timestamp_seconds"]
    assert [sample.value for sample in gauge.samples] == [5.0]
