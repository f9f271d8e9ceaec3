# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits on a client hold whatever worker it comes to: four of them, one killed, all of them reloaded."""

from __future__ import annotations

import base64
import contextlib
import smtplib
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.gateway import Gateway
from contrib.lab.process import free_port, wait_for
from gateway.logins.hashes import new

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.server()
PROXY = "127.0.0.2"


@pytest.fixture(scope="module")
def site(lab: Path) -> Iterator[tuple[Gateway, int, Authority]]:
    """A gateway, its port for submission, and who vouches for it."""
    directory = lab / "clients"
    authority = Authority(directory / "ca")
    pair = authority.issue("localhost")
    (directory / "users").write_text(f"alice:{new(b'right', bytes(16))}\n")
    port = free_port()
    config = {
        "hostname": "gw.example.com",
        "domains": ["example.com"],
        "next_hop": "smtp:127.0.0.1:9",
        "grace": 3,
        "smarthost": {
            "listen": [f"127.0.0.1:{free_port()}"],
            "submissions": [f"127.0.0.1:{port}"],
            "certificate": str(pair.certificate),
            "key": str(pair.key),
            "workers": 4,
            "proxy_networks": [f"{PROXY}/32"],
            "client_connection_limit": 12,
            "rates": {"messages": 20},
        },
        "login": {"users": f"file:{directory}/users", "client_failures": 6, "delay": 0.01},
        "antivirus": {"enabled": False},
        "classifier": {"enabled": False},
        "http": {"listen": ""},
        "store": {"database": f"sqlite:///{directory}/mailwarden.db"},
    }
    with Gateway(directory, config) as gateway:
        complete(gateway)
        yield gateway, port, authority


class Client:
    """A connection from `address`, as a proxy says."""

    def __init__(self, where: Any, address: str) -> None:
        self.socket = socket.create_connection(where, timeout=20, source_address=(PROXY, 0))
        self._file = self.socket.makefile("rb")
        self.socket.sendall(f"PROXY TCP4 {address} 192.0.2.1 1 25\r\n".encode())
        self.greeting = self._file.readline()

    def ask(self, line: bytes) -> bytes:
        self.socket.sendall(line + b"\r\n")
        return self._file.readline()

    def alive(self) -> bool:
        try:
            return self.greeting.startswith(b"220") and self.ask(b"NOOP").startswith(b"250")
        except OSError:
            return False

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def came(where: Any, address: str, stack: contextlib.ExitStack, many: int) -> list[Client]:
    """Connections at the same time, of which some may be refused, or die with their worker."""
    found = []
    for _ in range(many):
        with contextlib.suppress(OSError):
            found.append(Client(where, address))
            stack.callback(found[-1].close)
    return found


def complete(gateway: Gateway) -> None:
    """Wait for all of its workers: those of the door, the delivery agents, and the housekeeper."""
    wait_for(lambda: len(gateway.workers()) == 6, 40, "all workers")


def doors(gateway: Gateway) -> list[int]:
    """The workers of the smart host: they are started first."""
    return sorted(gateway.workers())[:4]


def test_connections_of_a_client_are_counted_over_all_workers(site: tuple[Gateway, int, Authority]) -> None:
    gateway, where = site[0], site[0].smarthosts[0]
    with contextlib.ExitStack() as stack:
        first = came(where, "198.51.100.7", stack, 40)
        here = [one for one in first if one.alive()]
        assert 6 <= len(here) <= 12
        refused = [one.greeting for one in first if not one.greeting.startswith(b"220")]
        assert all(b"421 4.7.0 Too many connections from your address" in one for one in refused)
        killed = doors(gateway)[:3]
        for pid in killed:
            gateway.kill(pid)
        wait_for(lambda: not set(killed) & set(gateway.workers()), 30, "the supervisor")
        complete(gateway)
        left = [one for one in here if one.alive()]
        assert len(left) < len(here)
        more = [one for one in came(where, "198.51.100.7", stack, 40) if one.alive()]
        assert more, "those who went with a worker are counted no more"
        assert len([one for one in left if one.alive()]) + len(more) <= 12


def test_rates_are_those_of_all_workers_whether_killed_or_reloaded(
    site: tuple[Gateway, int, Authority],
) -> None:
    gateway, where = site[0], site[0].smarthosts[0]
    complete(gateway)
    begin, answers = time.monotonic(), []
    for turn in range(60):
        if turn == 10:
            gateway.kill(doors(gateway)[0])
        if turn == 15:
            gateway.reload()
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for client in came(where, "198.51.100.9", stack, 1):
                client.ask(b"HELO c.example.net")
                answers.append(client.ask(b"MAIL FROM:<a@example.net>")[:9])
    more = int((time.monotonic() - begin) / 3) + 1  # one comes free every three seconds
    assert 16 <= answers.count(b"250 2.1.0") <= 20 + more, answers
    assert answers.count(b"451 4.7.1") >= 20


def test_wrong_passwords_are_counted_over_all_workers(site: tuple[Gateway, int, Authority]) -> None:
    gateway, port, authority = site
    complete(gateway)
    context, codes = authority.client_context(), []
    wrong = base64.b64encode(b"\0alice\0wrong").decode()
    for turn in range(24):
        if turn == 12:
            gateway.kill(doors(gateway)[0])
        with (
            contextlib.suppress(OSError, smtplib.SMTPException),
            smtplib.SMTP_SSL("localhost", port, timeout=20, context=context) as client,
        ):
            client.ehlo()
            codes.append(client.docmd("AUTH", f"PLAIN {wrong}")[0])
    assert 5 <= codes.count(535) <= 6
    assert codes.count(454) >= 12
    assert set(codes) == {535, 454}
