# SPDX-License-Identifier: GPL-2.0-or-later
"""The servers of the demonstration, and the two ways to send a message to them.

Everything is real but the DNS and the delivery server, lies in one private directory, listens on
loopback, and is gone at the end.
"""

from __future__ import annotations

import json
import smtplib
import ssl
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cryptography.hazmat.primitives.asymmetric import rsa

from contrib.demo.cases import ABUSE, OUR_NAME, STRICT, cases, zone
from contrib.lab.certificates import Authority
from contrib.lab.clamd import Clamd
from contrib.lab.dns import DnsStub
from contrib.lab.gateway import ROOT, Gateway, to_toml
from contrib.lab.postfix import Postfix
from contrib.lab.process import free_port
from contrib.lab.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.demo.cases import Case

Door = Literal["milter", "smart host"]
DOORS: tuple[Door, ...] = ("milter", "smart host")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client heard: at which command, and what."""

    command: str
    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(slots=True)
class Stage:
    """All servers, running."""

    gateway: Gateway
    postfix: Postfix
    clamd: Clamd
    sink: Sink
    cases: list[Case]
    into_postfix: Path  # a configuration that releases into Postfix
    _read: int = field(default=0)

    def send(self, case: Case, door: Door) -> Answer:
        """Send one message as its client would, and return the decisive answer."""
        port = self.postfix.port if door == "milter" else _port(self.gateway)
        client = case.client
        with smtplib.SMTP("127.0.0.1", port, local_hostname=client.helo, timeout=60) as smtp:
            smtp.ehlo()
            if case.tls:
                smtp.starttls(context=_unchecked())
                smtp.ehlo()
            code, said = smtp.docmd("XCLIENT", f"ADDR={client.address} NAME={client.name} HELO={client.helo}")
            assert code == 220, said
            smtp.ehlo()
            code, said = smtp.mail(case.sender)
            if code != 250:
                return Answer("MAIL", code, said.decode("ascii", "replace"))
            answers = [smtp.rcpt(recipient) for recipient in case.recipients]
            if not any(code == 250 for code, _ in answers):
                code, said = answers[0]
                return Answer("RCPT", code, said.decode("ascii", "replace"))
            code, said = smtp.data(case.message)
            return Answer("DATA", code, said.decode("ascii", "replace"))

    def decision(self) -> dict[str, Any]:
        """Return the line of the gateway's log about the message just sent; {} if it judged none."""
        lines = self.gateway.log.read_bytes().splitlines()
        new, self._read = lines[self._read :], len(lines)
        found = [json.loads(line) for line in new if line.startswith(b"{")]
        return next((entry for entry in found if entry.get("event") == "decision"), {})

    def command(self, *arguments: str, config: Path | None = None) -> list[str]:
        """Return the command line of a call of `mailwarden`."""
        return [sys.executable, "-m", "gateway", "--config", str(config or self.gateway.file), *arguments]

    def ask(self, *arguments: str) -> Any:
        """Call `mailwarden` and return the JSON that it prints."""
        done = subprocess.run(
            self.command(*arguments, "--json"), cwd=ROOT, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)


@contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """Start everything below `directory`, and stop it at the end."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pair = Authority(directory / "tls").issue(OUR_NAME)
    with ExitStack() as stack:
        dns = stack.enter_context(DnsStub(zone(key)))
        sink = stack.enter_context(Sink())
        clamd = stack.enter_context(Clamd(directory / "clamd"))
        milter, smarthost = free_port(), free_port()
        config: dict[str, Any] = {
            "hostname": OUR_NAME,
            "domains": ["example.org"],
            "next_hop": f"smtp:{sink.address}",
            "milter": {"listen": [f"inet:127.0.0.1:{milter}"]},
            "smarthost": {
                "listen": [f"127.0.0.1:{smarthost}"],
                "certificate": str(pair.certificate),
                "key": str(pair.key),
                "xclient_networks": ["127.0.0.0/8"],
            },
            "dns": {"nameservers": [dns.nameserver]},
            "antivirus": {"addresses": [clamd.addresses[0]]},
            "tls": {"inbound": [{"sender_domains": [STRICT]}]},
            "policy": {
                "recipients": [{"recipients": [ABUSE], "tag": 100, "quarantine": 1000, "reject": 1000}]
            },
            "store": {"database": f"sqlite:///{directory}/store/mailwarden.db"},
            "http": {"listen": ""},
            "log": {"format": "json"},
        }
        gateway = stack.enter_context(Gateway(directory / "gateway", to_toml(config)))
        postfix = stack.enter_context(
            Postfix(
                directory / "postfix",
                milter=f"inet:127.0.0.1:{milter}",
                relay_to=sink.address,
                domains=["example.org"],
                tls=pair,
            )
        )
        into_postfix = directory / "into-postfix.toml"
        into_postfix.write_text(
            to_toml({**config, "release": {"next_hop": f"smtp:127.0.0.1:{postfix.port}"}})
        )
        yield Stage(gateway, postfix, clamd, sink, cases(key), into_postfix)


def _port(gateway: Gateway) -> int:
    address = gateway.smarthosts[0]
    assert isinstance(address, tuple)
    return address[1]


def _unchecked() -> ssl.SSLContext:
    """Return a client's context as mail servers use it: encrypted, with any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
