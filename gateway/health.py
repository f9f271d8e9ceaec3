# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics and health over HTTP, on a socket that the supervisor has bound.

Reads requests from whoever reaches its address, loopback unless told otherwise: two paths, no query, no
body. The standard library's server is guarded where it has no bound: it starts a thread for each client
however many there are, waits for the next octet and not for the whole request, and prints a traceback
for each client that hangs up. Here `CLIENTS` are served at once, and the oldest makes room.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest

from gateway.mail.headers import printable
from gateway.store.database import Database, StoreError
from gateway.store.journal import Journal

if TYPE_CHECKING:
    from gateway.metrics import Metrics

CLIENTS = 32  # served at once


class HealthServer(ThreadingMixIn, TCPServer):
    """Answers /metrics and /healthz on `listener`, until `shutdown`."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, metrics: Metrics, database: Database) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener.dup()
        self.registry = CollectorRegistry()
        self.registry.register(metrics)
        self.metrics, self.database = metrics, database
        self._served: dict[socket.socket, None] = {}  # in the order of their coming
        self._lock = threading.Lock()

    def health(self) -> tuple[bool, dict[str, str]]:
        """Say what works: workers that are alive, and a store that answers."""
        state = {"workers": str(int(self.metrics.total("alive")))}
        try:
            Journal(self.database).find("0" * 16)
            state["store"] = _room(self.database) or "ok"
        except (StoreError, OSError) as error:
            state["store"] = printable(str(error), 200)
        return state["store"] == "ok" and state["workers"] not in ("0", "1"), state

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]  # TCP only
        """Serve a client in a thread of its own; the oldest makes room."""
        with self._lock:
            if len(self._served) >= CLIENTS:
                oldest = next(iter(self._served))
                del self._served[oldest]
                with contextlib.suppress(OSError):  # its thread sees the end, and closes
                    oldest.shutdown(socket.SHUT_RDWR)
            self._served[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]  # as above
        """Forget a client, and close."""
        with self._lock:
            self._served.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, _request: object, _client_address: object) -> None:
        """A client that hangs up is no event."""


def _room(database: Database) -> str:
    """Return why the file system of the store cannot take mail, or ""."""
    if database.path is not None and os.statvfs(database.path.parent).f_flag & os.ST_RDONLY:
        return "the file system is read-only"
    return database.lack_of_room()


class _Handler(BaseHTTPRequestHandler):
    server: HealthServer
    timeout = 5
    server_version = "Mailwarden"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._send(200, generate_latest(self.server.registry), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/healthz":
            well, state = self.server.health()
            body = json.dumps({"status": "ok" if well else "failing", **state}).encode() + b"\n"
            self._send(200 if well else 503, body, "application/json")
        else:
            self._send(404, b"try /metrics or /healthz\n", "text/plain")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Requests for metrics are no events."""
