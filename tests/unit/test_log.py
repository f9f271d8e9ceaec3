# SPDX-License-Identifier: GPL-2.0-or-later
"""The log: what cannot be written stops nobody."""

from __future__ import annotations

import io
import smtplib
import sys
from pathlib import Path

import pytest

from contrib.lab.gateway import Gateway
from contrib.lab.process import free_port, wait_for
from contrib.lab.sink import Sink
from gateway.log import LogSettings, open_log


class Disk(io.StringIO):
    """A stream on a disk that may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are lost, and the first that is written again says how many."""
    disk = Disk()
    monkeypatch.setattr(sys, "stderr", disk)
    log = open_log(LogSettings())
    disk.full = True
    for number in range(3):
        log.info("unheard", number=number)
    disk.full = False
    log.info("heard")
    log.info("heard again")
    first, second = disk.getvalue().splitlines()
    assert first.endswith("event=heard lines_lost=3")
    assert second.endswith("event=heard again")


def test_a_closed_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log = open_log(LogSettings())
    stream.close()
    log.error("unheard")


@pytest.mark.server
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_mail_goes_on_without_a_log(lab: Path) -> None:
    """Both doors, the delivery, a reload and new workers, while no line can be written."""
    folder, port = lab / "full", free_port()
    with Sink() as sink:
        config = {
            "hostname": "mx.example.org",
            "domains": ["example.com"],
            "next_hop": f"smtp:{sink.address}",
            "grace": 5,
            "milter": {"listen": [f"unix:{folder}/milter.sock"], "workers": 1},
            "smarthost": {"listen": [f"127.0.0.1:{port}"], "workers": 1},
            "queue": {"workers": 1},
            "antivirus": {"enabled": False},
            "auth": {"spf": False, "dkim": False, "dmarc": False, "arc": False, "iprev": False},
            "http": {"listen": ""},
            "store": {"database": f"sqlite:///{folder}/mailwarden.db"},
        }
        gateway = Gateway(folder, config)
        gateway.log = Path("/dev/full")
        with gateway:

            def send() -> None:
                with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                    client.sendmail("a@example.net", ["b@example.com"], b"Subject: minutes\r\n\r\nHere.\r\n")

            send()
            sink.wait_for(1)
            before = set(gateway.workers())
            gateway.reload()
            wait_for(lambda: not before & set(gateway.workers()) and gateway.is_up(), 20, "the reload")
            for pid in gateway.workers():
                gateway.kill(pid)
            wait_for(gateway.is_up, 20, "new workers")
            send()
            sink.wait_for(2)
