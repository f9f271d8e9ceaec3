# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Postfix that asks the gateway under which TLS policy it may deliver."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from contrib.lab.gateway import Gateway
from contrib.lab.postfix import Postfix
from contrib.lab.process import free_port, listens, wait_for
from contrib.lab.sink import Sink
from gateway.dns import DnsSettings, Resolver
from gateway.log import LogSettings, open_log
from gateway.socketmap import Answerer, serve
from gateway.tls.demands import Demands
from gateway.tls.mta_sts import Policy
from gateway.tls.policies import Found
from gateway.tls.settings import TlsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.lab.certificates import Authority

pytestmark = pytest.mark.server("postfix")

ROWS = [
    {"domains": ["table.example"], "level": "encrypt"},
    {"domains": ["localhost"], "level": "verify"},
]


@pytest.fixture(scope="module")
def sink(authority: Authority) -> Iterator[Sink]:
    with Sink(tls=authority.server_context(authority.issue("localhost"))) as running:
        yield running


@contextlib.contextmanager
def postfix(directory: Path, sink: Sink, where: str, **parameters: str) -> Iterator[Postfix]:
    settings = {
        "smtp_tls_policy_maps": f"socketmap:{where}:tls",
        "smtp_tls_security_level": "may",
        "smtp_tls_loglevel": "1",
        "smtp_host_lookup": "native",
        **parameters,
    }
    with Postfix(directory, relay_to=f"localhost:{sink.port}", parameters=settings) as running:
        yield running


def send(site: Postfix, word: str) -> None:
    with smtplib.SMTP("127.0.0.1", site.port) as client:
        client.sendmail("alice@example.net", ["bob@example.org"], f"Subject: {word}\r\n\r\nhello\r\n")


def delivered(sink: Sink, word: str) -> list[str]:
    return [one.tls for one in sink.transactions if f"Subject: {word}".encode() in one.data]


def test_the_service_answers_postmap_and_holds_a_delivery(lab: Path, sink: Sink) -> None:
    port = free_port()
    config = {
        "hostname": "gw.example.com",
        "store": {"database": f"sqlite:///{lab}/socketmap-store/mailwarden.db"},
        "dns": {"nameservers": ["127.0.0.1:9"], "timeout": 0.2, "attempts": 1},
        "http": {"listen": ""},
        "antivirus": {"enabled": False},
        "tls": {"socketmap": [f"inet:127.0.0.1:{port}"], "outbound": ROWS},
    }
    with (
        Gateway(lab / "socketmap-gateway", config),
        postfix(lab / "socketmap-postfix", sink, f"inet:127.0.0.1:{port}") as site,
    ):
        wait_for(lambda: listens(("127.0.0.1", port)), 30, "the socketmap")
        asked = f"socketmap:inet:127.0.0.1:{port}:tls"
        assert site._run("postmap", "-q", "table.example", asked).stdout == "encrypt\n"
        assert site._run("postmap", "-q", "[192.0.2.1]:25", asked, check=False).returncode == 1
        lost = site._run("postmap", "-q", "lost.example", asked, check=False)
        assert "MX records cannot be looked up" in lost.stderr  # no answer is not "no policy"
        send(site, "distrusted")  # the policy says verify, and Postfix knows no such authority
        site.logged("certificate not verified")
        assert not delivered(sink, "distrusted")
        assert site.queue()


class Enforced:
    """An MTA-STS policy that is known already; `hosts` are its MX patterns."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts

    def find(self, _domain: str) -> Found:
        return Found(Policy("enforce", 1_000, self.hosts))


@contextlib.contextmanager
def answering(policies: Enforced) -> Iterator[str]:
    """The worker in a thread of ours, so that it can be given what no web server has to serve."""
    bound = socket.create_server(("127.0.0.1", 0))
    resolver = Resolver(DnsSettings(nameservers=("127.0.0.1:9",), timeout=0.1, attempts=1))
    demands = Demands(TlsSettings(dane=False), resolver, policies)  # type: ignore[arg-type]  # finds as it does
    answerer = Answerer(demands, open_log(LogSettings(level="error")))
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(bound, answerer, stop)))
    thread.start()
    try:
        yield f"inet:127.0.0.1:{bound.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


@pytest.mark.parametrize(("pattern", "sent"), [("localhost", True), ("other.example", False)])
def test_mta_sts_binds_postfix(lab: Path, sink: Sink, authority: Authority, pattern: str, sent: bool) -> None:
    trusting = {"smtp_tls_CAfile": str(authority.certificate)}
    with (
        answering(Enforced(pattern)) as where,
        postfix(lab / f"sts-{pattern}", sink, where, **trusting) as site,
    ):
        word = f"sts-{pattern}"
        send(site, word)
        if sent:
            site.wait_empty()
            assert delivered(sink, word) == ["TLSv1.3"]
            assert site.logged("Verified TLS connection established")
        else:
            site.logged("Server certificate not verified")
            assert not delivered(sink, word)


def test_nothing_in_clear_under_enforcement(lab: Path) -> None:
    with Sink() as plain, answering(Enforced("localhost")) as where:
        with postfix(lab / "sts-clear", plain, where) as site:
            send(site, "clear")
            site.logged("TLS is required")
        assert not plain.transactions
