# SPDX-License-Identifier: GPL-2.0-or-later
"""Short dialogues over HTTPS with hosts that strangers name: an MTA-STS policy file, a report handed in.

Reads hostile bytes: a whole HTTP answer, bounded in octets and by one deadline for all of it. The
certificate is always verified, nothing is ever followed, no proxy of the environment is used, and a host is
reached only at a global address, so that no domain can have us ask inside our own network. A host that the
administrator names, such as a server for logins, may be anywhere (`named`).

The standard library's client parses the answer over a wire of ours, since its time-outs are
for each read: who sends an octet now and then would hold it for ever.
"""

from __future__ import annotations

import io
import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import WriteableBuffer

    from gateway.dns import Resolver

_MOST_ADDRESSES: Final = 4  # of one host that are tried
_AGENT: Final = "Mailwarden"


class FetchError(Exception):
    """There is no answer to use. `certificate` says whether it was the server's certificate."""

    def __init__(self, text: str, *, certificate: bool = False) -> None:
        super().__init__(text)
        self.certificate = certificate


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; `body` is whole."""

    status: int
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Request:
    """One request (RFC 9112 §3)."""

    method: Literal["GET", "POST"]
    host: str
    path: str
    fields: Mapping[str, str]
    body: bytes = b""
    port: int = 0  # 0: the one for all

    def octets(self) -> bytes:
        """The request as it is sent. Raises ValueError for what is not ASCII."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        fields = {
            "Host": host if self.port in (0, 443) else f"{host}:{self.port}",
            "User-Agent": _AGENT,
            "Accept": "*/*",
            **self.fields,
            "Connection": "close",
        }
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        return "\r\n".join(lines).encode("ascii") + self.body


@dataclass(frozen=True, slots=True)
class Web:
    """How hosts are reached. Tests name another port, an authority, and allow their own machine.

    Without a `resolver` the system finds addresses, as it does for all that the administrator names.
    """

    resolver: Resolver | None
    port: int = 443
    ca_file: str = ""
    allowed: Callable[[str], bool] = lambda address: ipaddress.ip_address(address).is_global

    def get(
        self,
        host: str,
        path: str,
        *,
        limit: int,
        seconds: float,
        port: int = 0,
        fields: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask for `path`, with header `fields` of ours. Raises FetchError."""
        return self._ask(_Request("GET", host, path, fields or {}, port=port), limit, seconds)

    def post(
        self,
        host: str,
        path: str,
        body: bytes,
        kind: str,
        *,
        seconds: float,
        port: int = 0,
        fields: Mapping[str, str] | None = None,
    ) -> Answer:
        """Hand in `body`, which is a `kind`, with header `fields` of ours. Raises FetchError."""
        fields = {"Content-Type": kind, "Content-Length": str(len(body)), **(fields or {})}
        return self._ask(_Request("POST", host, path, fields, body, port), 65_536, seconds)

    def _ask(self, request: _Request, limit: int, seconds: float) -> Answer:
        from http.client import HTTPException  # noqa: PLC0415  # few processes fetch anything

        end, host = time.monotonic() + seconds, request.host
        try:
            with self._connect(host, request.port or self.port, end) as connection:
                return _exchange(connection, request, limit, end)
        except ssl.SSLCertVerificationError as error:
            raise FetchError(
                f"{host}: certificate not accepted, {error.verify_message}", certificate=True
            ) from None
        except (OSError, ValueError, EOFError, HTTPException) as error:
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise FetchError(f"{host}: {what[:200]}") from None

    def _connect(self, host: str, port: int, end: float) -> ssl.SSLSocket:
        """A verified connection. Raises OSError, ValueError."""
        problem: OSError = OSError(None, "has no address")
        for address in self._addresses(host, port, end):
            if not self.allowed(address):
                problem = OSError(None, f"{address} is no global address")
                continue
            try:
                plain = socket.create_connection((address, port), timeout=_left(end))
            except OSError as error:
                problem = error
                continue
            try:
                return _context(self.ca_file).wrap_socket(plain, server_hostname=host)
            except BaseException:
                plain.close()
                raise
        raise problem

    def _addresses(self, host: str, port: int, end: float) -> list[str]:
        if self.resolver is None:
            known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(one[4][0]) for one in known))[:_MOST_ADDRESSES]
        answers = self.resolver.ask([(host, "A"), (host, "AAAA")], end).values()
        found = [address for answer in answers for address in answer.values]
        if not found and any(answer.status == "temperror" for answer in answers):
            raise OSError(None, "its address cannot be found out now")
        return found[:_MOST_ADDRESSES]


def named(ca_file: str = "") -> Web:
    """How hosts are reached that the administrator names: wherever they are."""
    return Web(None, ca_file=ca_file, allowed=lambda _address: True)


@lru_cache(maxsize=4)
def _context(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # RFC 8461 §3.3: a DNS-ID
    return context


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class _Wire(io.RawIOBase):
    """What a server sends, until the deadline."""

    def __init__(self, connection: ssl.SSLSocket, end: float) -> None:
        self._connection = connection
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._connection.settimeout(_left(self._end))
        return self._connection.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As the standard library's client asks a socket for it."""
        return io.BufferedReader(self)


def _exchange(connection: ssl.SSLSocket, request: _Request, limit: int, end: float) -> Answer:
    """One request, one answer. Raises OSError, ValueError, HTTPException."""
    from http.client import HTTPResponse  # noqa: PLC0415  # as above

    connection.settimeout(_left(end))
    connection.sendall(request.octets())
    response = HTTPResponse(_Wire(connection, end), method=request.method)  # type: ignore[arg-type]  # asks for makefile alone
    try:
        response.begin()
        data = response.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"answers with more than {limit} octets")
        if response.length:
            raise ValueError("closes in the middle of its answer")
        kind = (response.getheader("Content-Type") or "").partition(";")[0]
        return Answer(response.status, kind.strip().lower(), data)
    finally:
        response.close()
