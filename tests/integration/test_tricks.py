# SPDX-License-Identifier: GPL-2.0-or-later
"""Tricks of clients against a real gateway with its queue: what must not reach the server behind it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.gateway import Gateway
from contrib.lab.process import free_port
from contrib.lab.sink import Sink
from gateway.delivery.protocol import is_sound

if TYPE_CHECKING:
    from collections.abc import Iterator

TRICKS = tomllib.loads((Path(__file__).parents[1] / "tricks.toml").read_text("utf-8"))
BEGIN = [
    "EHLO c\r\n",
    "< 250",
    "MAIL FROM:<a@example.net>\r\n",
    "< 250",
    "RCPT TO:<u@example.com>\r\n",
    "< 250",
]
ENVELOPE = [*BEGIN, "DATA\r\n", "< 354"]
HIDDEN = (
    b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<evil@example.com>\r\nDATA\r\n"
    b"Subject: evil\r\n\r\nx\r\n.\r\nQUIT\r\n"
)

pytestmark = pytest.mark.server()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Sink, Authority]]:
    directory = tmp_path_factory.mktemp("tricks")
    authority = Authority(directory / "ca")
    pair = authority.issue("localhost")
    port = free_port()
    with Sink() as sink:
        config = {
            "hostname": "gw.example.com",
            "domains": ["example.com"],
            "next_hop": f"smtp:{sink.address}",
            "grace": 5,
            "smarthost": {
                "listen": [f"127.0.0.1:{port}"],
                "certificate": str(pair.certificate),
                "key": str(pair.key),
                "workers": 1,
            },
            "antivirus": {"enabled": False},
            "classifier": {"enabled": False},
            "policy": {"thresholds": {"tag": 900, "quarantine": 950, "reject": 1000}},
            "http": {"listen": ""},
            "store": {"database": f"sqlite:///{directory}/mailwarden.db"},
        }
        with Gateway(directory, config):
            yield port, sink, authority


def octets(text: str) -> bytes:
    r"""What \r, \n, \0, \t and \xHH stand for."""
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


class Client:
    """Plays steps, and says what went wrong."""

    def __init__(self, port: int, authority: Authority) -> None:
        self.authority = authority
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.lines = self.socket.makefile("rb")
        self.expect("220")

    def close(self) -> None:
        self.lines.close()
        self.socket.close()

    def expect(self, code: str) -> str:
        line = b"xxx-"
        while line[3:4] == b"-":
            line = self.lines.readline()
        assert line.decode().startswith(code), (code, line)
        return line.decode()

    def play(self, steps: list[str]) -> None:
        for step in steps:
            if step == "tls":
                self.socket = self.authority.client_context().wrap_socket(
                    self.socket, server_hostname="localhost"
                )
                self.lines = self.socket.makefile("rb")
            elif step == "end":
                with contextlib.suppress(ConnectionError):
                    assert self.lines.read() == b""
            elif step.startswith("< "):
                self.expect(step[2:])
            elif step == "@BEGIN":
                self.play(BEGIN)
            else:
                self.socket.sendall(octets(step) if "\\" in step else step.encode())


def settled(sink: Sink, wanted: int) -> None:
    """As many messages as may arrive have, and none more does; none has what was hidden for its envelope."""
    if wanted:
        sink.wait_for(wanted)
    time.sleep(0.1)
    taken = list(sink.transactions)
    assert len(taken) == wanted, taken
    for one in taken:
        assert "evil" not in f"{one.mail_from} {one.recipients}"
        assert is_sound(one.data)


ENDS = [(end, row["delivered"]) for row in TRICKS["end"] for end in row["octets"]]


@pytest.mark.parametrize(("end", "delivered"), ENDS, ids=[end for end, _ in ENDS])
def test_no_second_message(end: str, delivered: int, site: tuple[int, Sink, Authority]) -> None:
    port, sink, authority = site
    sink.clear()
    client = Client(port, authority)
    try:
        client.play(ENVELOPE)
        with contextlib.suppress(ConnectionError):
            client.socket.sendall(b"Subject: x\r\n\r\nbody" + octets(end) + HIDDEN)
        if delivered:
            # What was hidden ends the message, as part of it, and QUIT behind it is a command.
            client.expect("250")
            client.expect("221")
        else:
            answer = client.lines.readline()
            assert answer[:4] in (b"521 ", b"554 "), answer
            with contextlib.suppress(ConnectionError):
                assert client.lines.read() == b""
    finally:
        client.close()
    settled(sink, delivered)


@pytest.mark.parametrize("row", TRICKS["session"], ids=lambda row: row["name"])
def test_sessions(row: dict[str, Any], site: tuple[int, Sink, Authority]) -> None:
    port, sink, authority = site
    sink.clear()
    client = Client(port, authority)
    try:
        client.play(row["steps"])
    finally:
        with contextlib.suppress(ssl.SSLError):
            client.close()
    settled(sink, row["delivered"])
