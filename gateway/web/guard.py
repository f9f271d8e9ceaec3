# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in front of every page: bounds on requests, the host check, and what browsers must not do.

Reads requests of whoever connects, before anybody is known. A body is read whole, within octets and seconds,
so that what follows works in threads and never waits for a client. Requests for a host that is not ours
are refused: else a page of somebody else could read ours under a name of its own (DNS rebinding).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response

from gateway.listeners import split_host_port
from gateway.mail.headers import printable
from gateway.mail.networks import address, inside
from gateway.web.settings import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gateway.log import Log
    from gateway.web.settings import WebSettings

BODY: Final = 65_536  # octets
_SECONDS: Final = 15.0  # for a body
_URL: Final = 4_096  # octets of path and query
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})

# Nothing but our own style, script and forms; no page may frame ours. The script asks for counts.
POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Robots-Tag": "noindex, nofollow",
}


class Guard:
    """ASGI: checks each request, reads its body into `scope["state"]`, and marks each answer."""

    def __init__(self, app: ASGIApp, settings: WebSettings, log: Log) -> None:
        self._app = app
        self._settings = settings
        self._log = log
        self._hosts = hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started = False

        async def marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._mark(MutableHeaders(raw=message["headers"]))
            await send(message)

        scope.setdefault("state", {})["client"] = self._client(scope)
        answer = self._refusal(scope)
        if answer is None:
            body = await _body(receive)
            answer = body if isinstance(body, Response) else None
            scope["state"]["body"] = body
        try:
            await (answer or self._app)(scope, receive, marked)
        except Exception as error:  # noqa: BLE001  # told to the log, and nothing of it to the client
            # The exception's text may quote the request, and goes to the log alone.
            self._log.error("a page failed", path=printable(scope["path"], 200), exc_info=error)
            if not started:
                await PlainTextResponse("Something went wrong; the log says what.\n", 500)(
                    scope, receive, marked
                )

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] not in _METHODS:
            return PlainTextResponse("No such method.\n", 405)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > _URL:
            return PlainTextResponse("The address is too long.\n", 414)
        host = headers.getlist("host")
        if len(host) != 1 or _name(host[0]) not in self._hosts:
            return PlainTextResponse("Not served under this name; see web.names.\n", 421)
        size = headers.get("content-length", "0")
        if not size.isdecimal() or len(size) > 9 or int(size) > BODY:
            return PlainTextResponse("Too much.\n", 413)
        return None

    def _mark(self, headers: MutableHeaders) -> None:
        for name, value in _HEADERS.items():
            headers[name] = value
        headers.setdefault("Cache-Control", "no-store")
        if self._settings.secure:
            headers["Strict-Transport-Security"] = "max-age=31536000"

    def _client(self, scope: Scope) -> str:
        """The client's address: of the hops that proxies of ours named, the last that is no proxy."""
        found: str = (scope.get("client") or ("", 0))[0]
        # Some proxies add a field of their own behind the client's, others add to the client's field.
        hops = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        for hop in reversed(hops[-20:]):
            if not inside(found, self._settings.proxies) or not (hop := hop.strip()):
                break
            found = hop if address(hop) is not None else _name(hop)  # some say the port as well
        return printable(found, 64)


def hosts(settings: WebSettings) -> frozenset[str]:
    """The names that requests may be for, without ports, in lower case."""
    host, _ = split_host_port(settings.listen)
    local = {"localhost", "127.0.0.1", "::1"} if is_loopback(host) else set()
    return frozenset({host.lower(), *local, *(name.lower().rstrip(".") for name in settings.names)} - {""})


def _name(host: str) -> str:
    """The name in a Host field, without its port."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name = host
    return name.strip("[]").lower().rstrip(".")


async def _body(receive: Receive) -> bytes | Response:
    """The body, or the answer to one that is too long or too slow."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return PlainTextResponse("Gone.\n", 400)
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > BODY:
                    return PlainTextResponse("Too much.\n", 413)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        return PlainTextResponse("Too slow.\n", 408)
