# SPDX-License-Identifier: GPL-2.0-or-later
"""Postfix with the gateway as its filter, a real clamd and a sink: what the tests of the milter share."""

from __future__ import annotations

import contextlib
import json
import smtplib
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from contrib.lab.dns import DnsStub
from contrib.lab.gateway import ROOT, Gateway
from contrib.lab.gateway import to_toml as as_toml
from contrib.lab.postfix import Postfix
from contrib.lab.process import free_port, wait_for
from contrib.lab.sink import Sink, Transaction
from tests import case as cases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.lab.certificates import Authority
    from contrib.lab.clamd import Clamd

SENDER = "alice@example.net"
CLIENT = "NAME=mail.example.net ADDR=192.0.2.10 HELO=mail.example.net"


def message(name: str, body: bytes = b"Text.\r\n", fields: bytes = b"", sender: str = SENDER) -> bytes:
    """A message with an identity of its own; odd spaces and a raw octet in its header section."""
    head = (
        f"From:  Alice Archer <{sender}>\r\nTo:bob@example.com\r\nSubject:   {name}  \r\n"
        f"Date: Mon, 06 Oct 2025 10:00:00 +0200\r\nMessage-ID: <{name}@example.net>\r\n"
    )
    return head.encode() + b"X-Raw: Gr\xfc\xdfe\r\n" + fields + b"\r\n" + body


class Site:
    """One Postfix with the gateway as its filter, and what stands around them."""

    def __init__(self, directory: Path, clamd: Clamd, authority: Authority) -> None:
        self.directory = directory
        self.clamd = clamd
        self.authority = authority
        self.dns = DnsStub(cases.zone())
        self.sink = Sink()
        self.milter = f"inet:127.0.0.1:{free_port()}"
        self.postfix = Postfix(
            directory / "postfix",
            milter=self.milter,
            relay_to=self.sink.address,
            domains=("example.com", "strict.example.com"),
            tls=authority.issue("mx.example.org"),
            authority=authority,
            submission=True,
        )
        self.gateway = Gateway(directory / "gateway", self.settings())

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The gateway's configuration."""
        return {
            "hostname": "mx.example.org",
            "domains": ["example.com", "strict.example.com"],
            "next_hop": f"smtp:{self.sink.address}",
            "grace": 10,
            "milter": {"listen": [self.milter], "workers": 2},
            "dns": {"nameservers": [self.dns.nameserver], "timeout": 2, "attempts": 1},
            "antivirus": {"addresses": [self.clamd.addresses[0]]},
            "policy": {
                "recipients": [
                    {"recipients": ["strict.example.com"], "tag": 1, "quarantine": 2, "reject": 50}
                ],
                "weights": {"CLASSIFIER": 0},
                "actions": {"ATTACHMENT_EXECUTABLE": "strip"},
            },
            "tls": {
                "inbound": [
                    {"sender_domains": ["tls-required.example"]},
                    {"sender_domains": ["partner.example"], "client_subjects": ["partner.example"]},
                ]
            },
            "release": {"next_hop": f"smtp:127.0.0.1:{self.postfix.port}"},
            "http": {"listen": ""},
            "store": {"database": f"sqlite:///{self.directory}/gateway/mailwarden.db"},
            "log": {"format": "json"},
            **changes,
        }

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for server in (self.dns, self.sink, self.gateway, self.postfix):
                stack.enter_context(server)
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    # ------------------------------------------------------------ sending

    def client(self, *, submission: bool = False) -> smtplib.SMTP:
        """A session with Postfix, in which it takes us for somebody in the world."""
        port = self.postfix.submission_port if submission else self.postfix.port
        client = smtplib.SMTP("127.0.0.1", port, timeout=60)
        client.ehlo("peer.example.org")
        assert client.docmd("XCLIENT", CLIENT)[0] == 220
        client.ehlo("mail.example.net")
        return client

    def send(
        self, raw: bytes, *recipients: str, sender: str = SENDER, submission: bool = False
    ) -> tuple[int, str]:
        """Send one message; return the first refusal, or the reply to the message."""
        with self.client(submission=submission) as client:
            return transact(client, raw, recipients or ("bob@example.com",), sender)

    def arrived(self, name: str, count: int = 1) -> list[Transaction]:
        """Wait for a message by its name."""
        wanted = f"Message-ID: <{name}@example.net>".encode()
        return self.sink.wait_for(count, 40, lambda one: wanted in one.data)

    def arrivals(self, name: str) -> int:
        """How often a message has arrived, now that Postfix's queue is empty."""
        self.postfix.wait_empty()
        return sum(f"Message-ID: <{name}@example.net>".encode() in t.data for t in self.sink.transactions)

    # ------------------------------------------------------------ the gateway

    def command(self, *arguments: str, status: int = 0) -> Any:
        """Run `mailwarden` with `--json`, and read what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "--config", str(self.gateway.file), *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    def held(self, name: str) -> list[dict[str, Any]]:
        """What is held under a subject."""
        found: list[dict[str, Any]] = self.command("quarantine", "list", "--subject", name)
        return found

    def reload(self, text: str, event: str = "reloaded") -> dict[str, Any]:
        """Give the gateway another configuration; return what it logs about that."""
        before = len(self.gateway.events(event))
        self.gateway.file.write_text(text)
        self.gateway.reload()
        wait_for(lambda: len(self.gateway.events(event)) > before, 30, f"the event {event!r}")
        return self.gateway.events(event)[-1]

    @contextlib.contextmanager
    def configured(self, **changes: Any) -> Iterator[None]:
        """Run on a changed configuration for a while, all workers; nobody may have a session open."""
        self.replace_all(as_toml(self.settings(**changes)))
        try:
            yield
        finally:
            self.replace_all(as_toml(self.settings()))

    def replace_all(self, text: str) -> None:
        """Reload, and wait until no worker of before is left that would take a connection."""
        before = set(self.gateway.workers())
        self.reload(text)
        wait_for(lambda: not before & set(self.gateway.workers()), 30, "the workers of before to go")


def transact(
    client: smtplib.SMTP, raw: bytes, recipients: tuple[str, ...], sender: str = SENDER
) -> tuple[int, str]:
    """One transaction; the first refusal, or the reply to the message."""
    commands = [("MAIL", f"FROM:<{sender}>"), *(("RCPT", f"TO:<{r}>") for r in recipients), ("DATA", "")]
    code, text = 0, b""
    for verb, argument in commands:
        code, text = client.docmd(verb, argument)
        if code not in (250, 354):
            return code, text.decode()
    client.send(raw.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    code, text = client.getreply()
    return code, text.decode()
