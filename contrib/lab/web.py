# SPDX-License-Identifier: GPL-2.0-or-later
"""An HTTPS server for tests: one port, a certificate and an answer for each host name.

with WebServer() as web:
    web.serve("mta-sts.example.com", authority.issue("mta-sts.example.com"), text)
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from contrib.lab.certificates import Pair


@dataclass
class Site:
    """What one host answers. `raw` is sent as it is, in place of all else; "" closes at once."""

    context: ssl.SSLContext
    body: bytes = b""
    status: str = "200 OK"
    kind: str = "text/plain"
    fields: tuple[str, ...] = ()
    raw: bytes | None = None
    pause: float = 0.0  # seconds before each octet, for those that trickle


@dataclass
class Request:
    """What was asked."""

    host: str
    line: str
    head: bytes
    body: bytes = field(repr=False)


class WebServer:
    """The server on 127.0.0.1:`port`; `requests` is what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._sites: dict[str, Site] = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sni_callback = self._choose
        self._stopping = threading.Event()

    def serve(self, host: str, pair: Pair, body: bytes = b"", **values: object) -> Site:
        """Set what `host` answers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._sites[host] = site = Site(context, body, **values)  # type: ignore[arg-type]  # from a test's keywords
        return site

    def forget(self, host: str) -> None:
        """Have `host` refuse the handshake."""
        self._sites.pop(host, None)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _choose(self, connection: ssl.SSLObject, host: str | None, _: ssl.SSLContext) -> int | None:
        site = self._sites.get(host or "")
        if site is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = site.context
        return None

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(10)
        with plain, contextlib.suppress(OSError, ValueError):
            connection = self._context.wrap_socket(plain, server_side=True)
            with connection:
                request = self._read(connection)
                self.requests.append(request)
                self._answer(connection, self._sites[request.host])

    def _read(self, connection: ssl.SSLSocket) -> Request:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65_536) or b"\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if b": " in line)
        size = int(fields.get(b"content-length", b"0"))
        while len(body) < size:
            body += connection.recv(65_536)
        line = head.split(b"\r\n")[0].decode()
        return Request(fields.get(b"host", b"").decode(), line, head, body)

    def _answer(self, connection: ssl.SSLSocket, site: Site) -> None:
        head = [f"HTTP/1.1 {site.status}", f"Content-Type: {site.kind}", *site.fields]
        if not any(one.lower().startswith(("content-length", "transfer-encoding")) for one in site.fields):
            head.append(f"Content-Length: {len(site.body)}")
        data = "\r\n".join([*head, "", ""]).encode() + site.body if site.raw is None else site.raw
        if not site.pause:
            connection.sendall(data)
            return
        for number in range(len(data)):
            if self._stopping.wait(site.pause):
                return
            connection.sendall(data[number : number + 1])
