# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections to the web page: who says nothing, or has too many, keeps nobody else out."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from contrib.lab.process import wait_for
from gateway.web import connections
from gateway.web.connections import protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 60.0  # seconds after which what must come has failed


async def _app(_scope: Any, _receive: Any, send: Any) -> None:
    """Answers everything."""
    length = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": b"Ok"})


class Served:
    """A server with one of the protocols, and clients of it."""

    def __init__(self, **bounds: Any) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        http: Any = protocol((), **bounds)
        made = uvicorn.Config(
            _app, http=http, lifespan="off", log_config=None, timeout_keep_alive=int(PATIENCE) * 2
        )
        self.server = uvicorn.Server(made)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        self.open: list[socket.socket] = []

    def client(self, said: bytes = b"") -> socket.socket:
        made = socket.create_connection(self.listener.getsockname(), timeout=PATIENCE)
        self.open.append(made)
        with suppress(OSError):  # on a busy machine it may be closed already
            made.sendall(said)
        return made

    def status(self) -> int:
        """What a whole request is answered."""
        host, port = self.listener.getsockname()
        asked = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        asked.request("GET", "/")
        answer = asked.getresponse()
        answer.read()
        asked.close()
        return answer.status

    def close(self) -> None:
        for one in self.open:
            one.close()
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def ended(client: socket.socket) -> bool:
    """Whether the server ends a connection; waits for that."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def hurried() -> Iterator[Served]:
    made = Served(seconds=1.0)
    yield made
    made.close()


def answered(served: Served, *, once_more: bytes = b"") -> socket.socket:
    """A client whose request was answered. On a busy machine it may be too late itself: then another asks."""
    found: list[socket.socket] = []

    def asked() -> bool:
        try:
            client = served.client(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            got = b""
            while not got.endswith(b"Ok"):
                if not (more := client.recv(1_000)):
                    return False
                got += more
            client.sendall(once_more)
        except OSError:
            return False
        found.append(client)
        return True

    wait_for(asked, PATIENCE, "an answer")
    return found[0]


@pytest.mark.parametrize("said", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_who_says_too_little_is_not_waited_for(hurried: Served, said: bytes) -> None:
    assert ended(hurried.client(said))
    answered(hurried)


def test_a_second_request_has_no_longer_than_the_first(hurried: Served) -> None:
    assert ended(answered(hurried, once_more=b"GET / HTTP/1.1\r\nX: "))


def test_nobody_has_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [""]
    monkeypatch.setattr(connections, "_counted", lambda *_who: counted[0])
    served = Served(seconds=PATIENCE * 2, most=2)
    try:
        counted[0] = "192.0.2.1"
        first, _second, third = (served.client() for _ in range(3))
        assert ended(third)
        counted[0] = "192.0.2.2"
        assert served.status() == 200  # somebody else
        counted[0] = "192.0.2.1"
        first.close()

        def again() -> bool:
            try:
                return served.status() == 200
            except (http.client.HTTPException, OSError):
                return False

        wait_for(again, PATIENCE, "the place that was left")
    finally:
        served.close()


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::/64"),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("198.51.100.3", ""),  # a proxy
    ],
)
def test_proxies_and_this_machine_are_not_counted(client: str, name: str) -> None:
    assert connections._counted(client, ("198.51.100.0/24",)) == name
