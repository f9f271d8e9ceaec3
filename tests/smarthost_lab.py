# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door on a free port with a scripted judgement, and a client that speaks raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvloop

from gateway.delivery.client import RelayTimeouts
from gateway.delivery.protocol import stuffed_blocks
from gateway.delivery.routes import RouteSettings, routes
from gateway.delivery.ways import Ways
from gateway.log import LogSettings, open_log
from gateway.mail.types import Action, Edit, Mail, Outcome, Reply, Session, Thresholds, Verdict, Versions
from gateway.reply import reply_to
from gateway.smarthost.server import serve
from gateway.smarthost.settings import Door, Judgement, Listener, SmarthostSettings
from gateway.tls.inbound import ServerTls
from tests.hop import Hop, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from concurrent.futures import Future

    from gateway.logins.sources import Logins
    from gateway.store.deliveries import Delivery
    from gateway.store.queued import Outgoing
    from gateway.tls.outbound import OutboundTlsRule

MESSAGE = b"From: a@example.net\r\nSubject: x\r\n\r\n.dot\r\n\xe9\r\n"
SENT = b"".join(stuffed_blocks(MESSAGE))

LISTENER = Listener("smarthost")
THRESHOLDS = Thresholds(5, 8, 15)
FAST = RelayTimeouts(connect=2, greeting=1, command=1, data=1, end_of_data=1, quit=0.3)


@dataclass
class Bench:
    """Judges every message as `actions` says (by recipient), and remembers what it saw."""

    actions: dict[str, Action] = field(default_factory=dict)
    default: Action = Action.RELAY
    edits: tuple[Edit, ...] = ()
    refuse: Callable[[Session, str | None, str | None], Reply | None] = lambda _s, _f, _r: None
    judging: Callable[[Mail], None] = lambda _mail: None
    hold_fails: bool = False
    mails: list[Mail] = field(default_factory=list)
    held: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    ends: list[Delivery] = field(default_factory=list)

    def judge(self, mail: Mail) -> tuple[Verdict, Reply]:
        self.mails.append(mail)
        self.judging(mail)
        outcomes = tuple(
            Outcome(r, self.actions.get(r, self.default), 0.0, THRESHOLDS) for r in mail.envelope.recipients
        )
        action = min((o.action for o in outcomes), key=list(Action).index)
        verdict = Verdict(
            id=mail.id,
            action=action,
            outcomes=outcomes,
            score=0.0,
            reason="score",
            reason_text="",
            contributions=(),
            edits=self.edits,
            versions=Versions("0", "0", "0"),
        )
        return verdict, reply_to(verdict)

    def hold_undelivered(self, mail: Mail, verdict: Verdict, recipients: tuple[str, ...], why: str) -> None:
        del mail, verdict
        if self.hold_fails:
            raise OSError("no space")
        self.held.append((recipients, why))


@contextlib.asynccontextmanager
async def door(
    bench: Bench,
    hop: Hop | None = None,
    *,
    other: Hop | None = None,
    domains: tuple[str, ...] = ("example.com", "example.org"),
    relay_networks: tuple[str, ...] = (),
    tls: ssl.SSLContext | None = None,
    tls_rules: tuple[OutboundTlsRule, ...] = (),
    settings: SmarthostSettings | None = None,
    submit: Callable[[Outgoing], Future[None]] | None = None,
    room: Callable[[int], bool] = lambda _octets: True,
    listener: Listener = LISTENER,
    logins: Logins | None = None,
) -> AsyncIterator[int]:
    """The door's port. Mail for example.org goes to `other`, all else to `hop`; `submit` is a queue."""
    rows = [RouteSettings(domains=("example.org",), next_hop=str(other.next_hop))] if other else []
    built = Door(
        settings=settings or SmarthostSettings(relay=FAST, threads=2),
        hostname="gw.example.com",
        judgement=Judgement(bench.judge, bench.refuse, bench.hold_undelivered, bench.ends.append),
        routes=routes(rows, str(hop.next_hop) if hop else "smtp:127.0.0.1:1"),
        domains=domains,
        relay_networks=relay_networks,
        grace=2.0,
        log=open_log(LogSettings(level="error")),
        ways=Ways(rules=tls_rules),
        submit=submit,
        room=room,
        logins=logins,
        count=bench.counted.append,
    )
    listening = socket.create_server(("127.0.0.1", 0))
    stop = asyncio.Event()
    task = asyncio.create_task(serve([(listener, listening)], built, stop, ServerTls(tls) if tls else None))
    await asyncio.sleep(0)
    try:
        yield listening.getsockname()[1]
    finally:
        stop.set()
        await task


class Raw:
    """A client that sends exactly what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(
        cls, port: int, *, greet: bool = True, source: str = "127.0.0.1"
    ) -> AsyncIterator[Raw]:
        self = cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)))
        try:
            if greet:
                assert (await self.reply()).startswith("220 gw.example.com ESMTP")
            yield self
        finally:
            self.writer.close()
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        if not self.writer.transport.is_closing():
            self.writer.write(data)

    async def reply(self, seconds: float = 20) -> str:
        """The next reply, all its lines; "" if the server has closed."""
        lines: list[str] = []
        async with asyncio.timeout(seconds):
            while True:
                line = (await self.reader.readline()).decode()
                if not line:
                    return "".join(lines)
                assert line.endswith("\r\n")
                lines.append(line)
                if line[3:4] != "-":
                    return "".join(lines).removesuffix("\r\n")

    async def ask(self, command: str) -> str:
        self.send(command.encode() + b"\r\n")
        return await self.reply()

    async def dialogue(self, *commands: str) -> list[str]:
        return [await self.ask(command) for command in commands]

    async def rest(self, seconds: float = 20) -> str:
        """All that comes until the server closes."""
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                return (await self.reader.read(-1)).decode()
        return ""

    async def envelope(
        self, *recipients: str, sender: str = "a@example.net", helo: str = "EHLO c.example.net"
    ) -> None:
        assert (await self.ask(helo)).startswith("250")
        assert (await self.ask(f"MAIL FROM:<{sender}>")).startswith("250")
        for recipient in recipients or ("u@example.com",):
            reply = await self.ask(f"RCPT TO:<{recipient}>")
            assert reply.startswith("250"), reply

    async def message(self, data: bytes) -> str:
        """DATA, then exactly these bytes; the final reply."""
        assert (await self.ask("DATA")).startswith("354")
        self.send(data)
        return await self.reply()


def play(
    scene: Callable[[Raw, Hop, Bench], Awaitable[None]],
    hop: Hop | None = None,
    bench: Bench | None = None,
    *,
    other: Hop | None = None,
    greet: bool = True,
    tls: ssl.SSLContext | None = None,
    tls_rules: tuple[OutboundTlsRule, ...] = (),
    relay_networks: tuple[str, ...] = (),
    submit: Callable[[Outgoing], Future[None]] | None = None,
    room: Callable[[int], bool] = lambda _octets: True,
    **settings: object,
) -> tuple[Hop, Bench]:
    """One client plays `scene`; afterwards a fresh client must be served."""
    hop, bench = hop or Hop(), bench or Bench()
    values = {"relay": FAST, "threads": 2, **settings}
    built = SmarthostSettings(**values)  # type: ignore[arg-type]  # from the tests' own keywords

    async def go() -> None:
        async with running(hop), running(other or Hop()) as elsewhere:
            opened = door(
                bench,
                hop,
                other=elsewhere if other else None,
                relay_networks=relay_networks,
                tls=tls,
                tls_rules=tls_rules,
                settings=built,
                submit=submit,
                room=room,
            )
            async with opened as port:
                async with Raw.connected(port, greet=greet) as client:
                    await scene(client, hop, bench)
                async with Raw.connected(port) as client:
                    assert (await client.ask("EHLO c")).endswith("250 HELP")

    uvloop.run(go())
    return hop, bench


async def secure(client: Raw) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    await client.writer.start_tls(context)
    client.reader._transport = client.writer.transport  # type: ignore[attr-defined]  # Python 3.11 forgets it
