# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics and health: what they say, and what clients may cost."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from contrib.lab.process import wait_for
from gateway import health
from gateway.metrics import Metrics
from gateway.store.database import StoreSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.store.database import Database

LEAST = 2 * StoreSettings().minimum_free  # the log of a new database, and more
ROOM = SimpleNamespace(f_flag=0, f_bavail=LEAST, f_frsize=1)


@pytest.fixture
def server(database: Database) -> Iterator[health.HealthServer]:
    metrics = Metrics(4)
    metrics.slot(0).set("alive", value=3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)  # as the supervisor binds it
        made = health.HealthServer(listener, metrics, database)
        yield made
        made.server_close()


@pytest.fixture
def serving(server: health.HealthServer) -> Iterator[health.HealthServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def get(server: health.HealthServer, path: str) -> bytes:
    port = server.socket.getsockname()[1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        text: bytes = answer.read()
        return text


@pytest.mark.parametrize(
    ("changed", "store"),
    [
        ({}, "ok"),
        ({"f_bavail": StoreSettings().minimum_free - 1}, "the disk is nearly full"),
        ({"f_flag": os.ST_RDONLY}, "the file system is read-only"),
    ],
)
def test_room(
    server: health.HealthServer, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], store: str
) -> None:
    """A store that can be read but not written to is no good store."""
    monkeypatch.setattr("os.statvfs", lambda _path: SimpleNamespace(**{**vars(ROOM), **changed}))
    well, state = server.health()
    assert state["store"].startswith(store)
    assert well == (store == "ok")


def test_no_file_system(server: health.HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_path: Path) -> None:
        raise OSError("gone")

    monkeypatch.setattr("os.statvfs", gone)
    assert server.health() == (False, {"workers": "3", "store": "gone"})


def test_slow_clients_make_room(serving: health.HealthServer) -> None:
    """Clients that never finish their request are bounded, and keep nobody out."""
    port = serving.socket.getsockname()[1]
    before = threading.active_count()
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(3 * health.CLIENTS)]
    try:
        for client in slow:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
        wait_for(lambda: threading.active_count() <= before + health.CLIENTS, 30, "the oldest to go")
        assert b"mailwarden_" in get(serving, "/metrics")
        assert get(serving, "/healthz").startswith(b'{"status": "ok"')
    finally:
        for client in slow:
            client.close()


def test_a_client_that_hangs_up_is_no_event(
    serving: health.HealthServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is printed into the log."""
    failed = threading.Event()

    def broken(*_arguments: object) -> None:
        failed.set()
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(health._Handler, "do_GET", broken)
    with socket.create_connection(serving.socket.getsockname()) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(1) == b""
    assert failed.wait(5)
    assert capfd.readouterr().err == ""
