# SPDX-License-Identifier: GPL-2.0-or-later
"""A next hop for tests: an SMTP or LMTP server whose every answer can be scripted.

Runs in the test's own event loop. It records what it was sent, octet for octet.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from gateway.delivery.routes import NextHop, Route
from gateway.delivery.ways import Target, Ways
from gateway.tls.outbound import OutboundTlsRule, TlsPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OFFERED = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")


@dataclass
class Received:
    """A message the hop has taken: envelope lines as sent, and the data as sent, dots and all."""

    mail: bytes
    rcpts: list[bytes]
    data: bytes
    tls: str
    replies: list[bytes]
    chunked: bool = False  # by BDAT, which knows no dots

    @property
    def message(self) -> bytes:
        if self.chunked:
            return self.data
        body = self.data[:-3] if self.data.endswith(b".\r\n") else self.data
        return b"".join(
            line[1:] if line.startswith(b".") else line for line in body.splitlines(keepends=True)
        )


@dataclass
class Hop:
    """`answers` maps the start of a command line to the bytes answered (b"" hangs, None closes)."""

    protocol: str = "smtp"
    offered: tuple[str, ...] = OFFERED
    greeting: bytes | None = b"220 hop.example.net ready\r\n"
    answers: dict[bytes, bytes | None] = field(default_factory=dict)
    final: list[bytes | None] = field(default_factory=list)
    context: ssl.SSLContext | None = None
    implicit: bool = False  # TLS from the first octet
    drop_after: int = -1  # close once, after that many accepted RCPT
    taken: list[Received] = field(default_factory=list)
    commands: list[bytes] = field(default_factory=list)
    octets: bytearray = field(default_factory=bytearray)
    sessions: int = 0
    port: int = 0

    @property
    def next_hop(self) -> NextHop:
        protocol: Literal["smtp", "lmtp"] = "lmtp" if self.protocol == "lmtp" else "smtp"
        return NextHop(protocol, "127.0.0.1", self.port, implicit=self.implicit)

    @property
    def route(self) -> Route:
        """The route whose only server it is."""
        return Route(((self.next_hop,),))

    def answer(self, line: bytes) -> bytes | None:
        for start, reply in self.answers.items():
            if line.upper().startswith(start.upper()):
                return reply
        return b"250 2.0.0 ok\r\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        try:
            await self._session(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.greeting is None:
            return
        writer.write(self.greeting)
        mail, tls = b"", ""
        rcpts: list[bytes] = []
        while True:
            line = await reader.readuntil(b"\n")
            self.octets += line
            self.commands.append(line.rstrip())
            verb = line[:4].upper()
            reply = self.answer(line)
            if verb in (b"EHLO", b"LHLO") and reply == b"250 2.0.0 ok\r\n":
                words = list(self.offered)
                if self.context and not tls and not self.implicit:
                    words.append("STARTTLS")
                texts = ["hop.example.net", *words]
                marks = ["-"] * (len(texts) - 1) + [" "]
                reply = "".join(f"250{m}{t}\r\n" for m, t in zip(marks, texts, strict=True)).encode()
            elif verb == b"STAR" and reply == b"250 2.0.0 ok\r\n":
                writer.write(b"220 2.0.0 go\r\n")
                assert self.context
                await writer.start_tls(self.context)
                reader._transport = writer.transport  # type: ignore[attr-defined]  # Python 3.11 forgets it
                tls = writer.get_extra_info("ssl_object").version()
                continue
            elif verb == b"DATA" and reply == b"250 2.0.0 ok\r\n":
                reply = b"354 go\r\n" if rcpts else b"503 5.5.1 no\r\n"
            elif verb == b"BDAT" and reply == b"250 2.0.0 ok\r\n":
                data = await reader.readexactly(int(line.split()[1]))
                self.octets += data
                if not self._answer_data(writer, Received(mail, rcpts, data, tls, [], chunked=True)):
                    return
                mail, rcpts = b"", []
                continue
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                return
            if reply is None:
                return
            writer.write(reply)
            if verb == b"MAIL" and reply.startswith(b"2"):
                mail, rcpts = line.rstrip(), []
            elif verb == b"RCPT" and reply.startswith(b"2"):
                rcpts.append(line.rstrip())
                if self.drop_after == len(rcpts):
                    self.drop_after = -1
                    return
            elif verb == b"RSET":
                mail, rcpts = b"", []
            elif reply.startswith(b"354"):
                lines = [b"\r\n"]
                while lines[-1] != b".\r\n" or not lines[-2].endswith(b"\r\n"):
                    lines.append(await reader.readuntil(b"\n"))
                data = b"".join(lines[1:])
                self.octets += data
                if not self._answer_data(writer, Received(mail, rcpts, data, tls, [])):
                    return
                mail, rcpts = b"", []

    def _answer_data(self, writer: asyncio.StreamWriter, message: Received) -> bool:
        """Answer the end of a message; False: hang up instead."""
        for one in self._final(len(message.rcpts) if self.protocol == "lmtp" else 1):
            if one is None:
                return False
            writer.write(one)
            message.replies.append(one)
        if any(one.startswith(b"2") for one in message.replies):
            self.taken.append(message)
        return True

    def _final(self, count: int) -> list[bytes | None]:
        scripted = [self.final.pop(0) for _ in range(min(count, len(self.final)))]
        return scripted + [b"250 2.0.0 taken\r\n"] * (count - len(scripted))


def straight(hop: NextHop, tls: TlsPolicy) -> tuple[Target, Ways]:
    """The way to one server under one policy."""
    assert tls.level != "dane"
    rule = OutboundTlsRule(
        level=tls.level, match=tls.match, ca_file=tls.ca_file, minimum_version=tls.minimum_version
    )
    return Target(Route(((hop,),))), Ways(rules=(rule,))


@contextlib.asynccontextmanager
async def running(hop: Hop) -> AsyncIterator[Hop]:
    """The hop, listening on a free port of the loopback."""
    context = hop.context if hop.implicit else None
    server = await asyncio.start_server(hop.serve, "127.0.0.1", 0, limit=2**22, ssl=context)
    hop.port = server.sockets[0].getsockname()[1]
    try:
        yield hop
    finally:
        server.close()
