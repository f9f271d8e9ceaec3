# SPDX-License-Identifier: GPL-2.0-or-later
"""One client of the smart host: the SMTP dialogue (RFC 5321).

Reads hostile bytes. Guards: one reply for one command, in order, so that pipelining is exact; input
that is there where the client must wait (after EHLO, DATA, or before the greeting) ends the session;
what was sent in clear behind STARTTLS is dropped; every fault in line ends closes the connection, so
that no octet behind it is ever a command.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.delivery.routes import relay_refusal
from gateway.mail.headers import printable
from gateway.mail.networks import inside, same_client
from gateway.mail.types import Envelope, Mail, Reply, Session, new_id
from gateway.smarthost.commands import (
    CommandError,
    MailCommand,
    bdat_command,
    check_address,
    helo_name,
    is_http,
    mail_command,
    rcpt_command,
    split_line,
)
from gateway.smarthost.extensions import ehlo, parameters
from gateway.smarthost.handover import Handover
from gateway.smarthost.intake import Intake
from gateway.smarthost.login import Login
from gateway.smarthost.proxy import ProxyError, client_of
from gateway.smarthost.receive import Message
from gateway.smarthost.replies import CHUNK_FAULTS, CLOSING, FIXED, NO_ROOM, OK, PIPELINED, UNKNOWN, wire
from gateway.smarthost.sasl import LONGEST, challenge
from gateway.smarthost.tls import tls_facts
from gateway.smarthost.transfer import transfer
from gateway.smarthost.wire import LongLineError, Wire
from gateway.smarthost.xclient import XCLIENT, XFORWARD, Client, attributes, merged, session_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from gateway.smarthost.settings import Listener
    from gateway.smarthost.worker import Worker

_JUNK = frozenset(("NOOP", "RSET", "VRFY", "EXPN", "HELP", "HELO", "EHLO", "XFORWARD", "XCLIENT"))
_LONGEST_COMMAND = 2048  # octets; RFC 5321 §4.5.3.1.4 has 512, and parameters come on top
_HANDSHAKE = 60.0  # seconds for a TLS handshake
_HEADER = 5.0  # seconds for a proxy's header
_NO_CLIENT = Client()
_TIMEOUT = Reply(421, "4.4.2", "Timeout, closing")


class Conversation:
    """One client."""

    def __init__(self, worker: Worker, listener: Listener, peer: str) -> None:
        self._worker = worker
        self._listener = listener
        self._logins = listener.submission and worker.guard is not None  # whether clients log in here
        self._door = worker.door
        self._settings = worker.door.settings
        self._hop = (
            Handover(worker.door) if worker.door.submit is None else Intake(worker.door, worker.verifier)
        )
        self._wire = Wire(worker.scratch)
        self._message = Message(self._wire, worker)
        self._began = worker.loop.time()
        self.task: asyncio.Task[None] | None = None
        self.peer = peer  # the client's IP address
        self.client = same_client(peer)  # what counts as one client: the IPv4 address, the IPv6 /64
        self._handed_over = False  # whether asyncio has the socket, and closes it
        self._closing = False
        self._errors = 0
        self._junk = 0
        self._helo = ""
        self._extended = False
        self._identity = _NO_CLIENT  # XCLIENT
        self._forwarded = _NO_CLIENT  # XFORWARD
        self._login = Login(worker)
        self._mail: MailCommand | None = None
        self._tried = 0  # RCPT commands of this transaction
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "HELO": self._helo_command,
            "EHLO": self._ehlo_command,
            "STARTTLS": self._starttls_command,
            "AUTH": self._auth_command,
            "MAIL": self._mail_command,
            "RCPT": self._rcpt_command,
            "DATA": self._data_command,
            "BDAT": self._bdat_command,
            "RSET": self._rset_command,
            "QUIT": self._quit_command,
            "XCLIENT": self._xclient_command,
            "XFORWARD": self._xforward_command,
        }

    # ---------------------------------------------------------------- the connection

    async def run(self, connection: socket.socket) -> None:
        """Serve the client at the other end of `connection` until it or we have had enough."""
        try:
            if await self._begin(connection):
                await self._converse()
        except TimeoutError:
            self._wire.say_now(_TIMEOUT)
        except (OSError, EOFError):
            pass  # the client has gone, or TLS did not come about
        except ProxyError as error:
            self._door.log.warning("no client behind a proxy", proxy=self.peer, why=str(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours costs this client a temporary failure
            self._door.log.error("session failed", client=self.peer, error=printable(repr(error), 300))
            self._wire.say_now(Reply(421, "4.3.0", "Temporary failure, closing"))
        finally:
            self.hang_up()
            if not self._handed_over:
                connection.close()
            self._worker.left(self)
            self._message.drop()
            await self._hop.close()

    async def _begin(self, connection: socket.socket) -> bool:
        """From the bare socket to the greeting; whether the client may stay."""
        refusal = self._worker.enter(self)
        proxied = inside(self.peer, self._settings.proxy_networks)
        if proxied and refusal is None:
            async with asyncio.timeout(_HEADER):
                client = await client_of(connection)
            if client is not None:
                self.peer, self.client = client, same_client(client)
        if refusal is None:
            refusal = self._worker.welcome(self)
        at_once = None
        if self._listener.implicit_tls:
            if refusal is not None or self._worker.tls is None:
                return False  # a handshake for a refusal would cost more than it says
            at_once = self._worker.tls.context(self.peer, self._listener.name)
        self._handed_over = True
        await self._worker.loop.connect_accepted_socket(
            lambda: self._wire,
            connection,
            ssl=at_once,
            ssl_handshake_timeout=min(_HANDSHAKE, self._worker.patience()) if at_once else None,
        )
        self._began = math.inf
        for _ in range(2):  # let the loop look once: who has spoken already does not wait for replies
            await asyncio.sleep(0)
        if refusal is None and self._wire.pending:
            refusal = PIPELINED
        if refusal is not None:
            await self._leave(refusal)
            return False
        await self._push(f"220 {self._door.hostname} ESMTP")
        return True

    async def _converse(self) -> None:
        while not self._closing:
            line = await self._line()
            if line is None:
                break
            await self._obey(line)
            if self._worker.closing and not self.in_transaction and not self._closing:
                await self._leave(CLOSING)

    async def _line(self) -> bytes | None:
        """The next command line without its CRLF; None where the session ends."""
        try:
            line = await self._wire.line(self._worker.patience())
        except LongLineError:
            await self._leave(Reply(500, "5.5.2", "Line too long"))
            return None
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            await self._leave(Reply(500, "5.5.2", "A line that does not end in CRLF"))
            return None
        return line[:-2]

    @property
    def idle_since(self) -> float:
        """The loop's time at which the client began to owe us something; infinite while it does not."""
        return min(self._began, self._wire.idle_since)

    @property
    def in_transaction(self) -> bool:
        """Whether the client has given a sender, and its message is not answered yet."""
        return self._mail is not None

    def dismiss(self, reply: Reply) -> None:
        """Send away a client that owes us something."""
        self._began = self._wire.idle_since = math.inf
        self._wire.say_now(reply)
        self.hang_up()
        if self._wire.transport is None and self.task is not None:
            self.task.cancel()

    def hang_up(self) -> None:
        """Close once everything that was said is sent."""
        self._closing = True
        self._wire.close()

    # ---------------------------------------------------------------- replies

    async def _say(self, reply: Reply) -> None:
        if reply.code in (421, 521):  # these say that the connection closes: RFC 5321 §3.8, RFC 7504 §3
            await self._leave(reply)
            return
        if reply.code >= 500:
            self._errors += 1
            self._worker.allows("errors", self)
            if self._errors > self._settings.error_limit:
                await self._leave(Reply(421, "4.7.0", "Too many errors"))
                return
        await self._push(wire(reply))

    async def _leave(self, reply: Reply) -> None:
        self._closing = True
        await self._push(wire(reply))

    async def _push(self, status: str | bytes) -> None:
        """Send one reply, CRLF added here."""
        data = status.encode("ascii", "replace") if isinstance(status, str) else status
        await self._wire.send(data + b"\r\n", self._settings.command_timeout)

    # ---------------------------------------------------------------- commands

    async def _obey(self, line: bytes) -> None:
        if len(line) > (LONGEST if line[:5].upper() == b"AUTH " else _LONGEST_COMMAND):
            await self._say(Reply(500, "5.5.2", "Line too long"))
            return
        try:
            verb, rest = split_line(line)
            if is_http(verb, rest):
                await self._leave(Reply(502, "5.7.0", "This is not a web server"))
                return
            self._junk += verb in _JUNK
            if self._junk > self._settings.junk_limit:
                await self._leave(Reply(421, "4.7.0", "Too many commands without a message"))
                return
            command = self._commands.get(verb)
            if command is None:
                await self._say(FIXED.get(verb, UNKNOWN))
            else:
                await command(rest)
        except CommandError as error:
            await self._say(error.reply)

    async def _helo_command(self, rest: str) -> None:
        await self._hello(rest, extended=False)
        if not self._closing:
            await self._push(f"250 {self._door.hostname}")

    async def _ehlo_command(self, rest: str) -> None:
        await self._hello(rest, extended=True)
        if self._closing:
            return
        tls = self._worker.tls is not None and not self._wire.over_tls
        await self._push(ehlo(self._door.hostname, self._settings, self.peer, self._offered, starttls=tls))

    async def _hello(self, rest: str, *, extended: bool) -> None:
        name = helo_name(rest)
        if self._wire.pending:  # RFC 2920 §3.1: EHLO is the last command of a group
            await self._leave(PIPELINED)
            return
        await self._forget()
        self._helo, self._extended = name, extended

    @property
    def _offered(self) -> frozenset[str]:
        return parameters(
            queued=self._door.submit is not None, over_tls=self._wire.over_tls, logins=self._logins
        )

    async def _starttls_command(self, rest: str) -> None:
        if rest:
            raise CommandError(501, "5.5.4", "STARTTLS takes no argument")
        if self._wire.over_tls:
            raise CommandError(503, "5.5.1", "TLS is active already")
        if self._worker.tls is None:
            raise CommandError(454, "4.7.0", "TLS is not available")
        # RFC 3207 §4.2: nothing that was learnt in clear is kept, nothing sent in clear is obeyed.
        await self._forget()
        self._helo, self._extended, self._identity = "", False, _NO_CLIENT
        await self._push("220 2.0.0 Ready to start TLS")
        context = self._worker.tls.context(self.peer, self._listener.name)
        await self._wire.secure(context, min(_HANDSHAKE, self._worker.patience()))

    async def _auth_command(self, rest: str) -> None:
        if not self._logins:
            raise CommandError(502, "5.5.1", "AUTH is not available here")
        self._need_helo()
        if not self._wire.over_tls:
            raise CommandError(538, "5.7.11", "Encryption required, send STARTTLS first")
        if self._login.name or self._mail is not None:
            raise CommandError(503, "5.5.1", "Logged in already, or within a transaction")
        if self._wire.pending:  # RFC 2920 §3.1: a command with answers to come is the last of a group
            await self._leave(PIPELINED)
            return

        async def ask(text: str) -> bytes | None:
            await self._push(challenge(text))
            return await self._line()

        self._began = self._worker.loop.time()  # who guesses makes room for others
        reply = await self._login.auth(rest, self, ask)
        self._began = math.inf
        if reply is not None:
            await self._say(reply)

    def _need_login(self) -> None:
        """On a submission listener, mail is taken only from who has logged in (RFC 6409 §4.3)."""
        if not self._listener.submission or self._login.name or self._identity.login:
            return
        if not self._wire.over_tls:
            raise CommandError(530, "5.7.0", "Must issue a STARTTLS command first")  # RFC 3207 §4
        raise CommandError(530, "5.7.0", "Authentication required")  # RFC 4954 §6

    async def _mail_command(self, rest: str) -> None:
        self._need_helo()
        self._need_login()
        if self._mail is not None:
            raise CommandError(503, "5.5.1", "Sender already given")
        if self._worker.full:
            raise CommandError(452, "4.3.1", "Insufficient memory, try again later")
        mail = mail_command(
            rest, extended=self._extended, size_limit=self._settings.size_limit, offered=self._offered
        )
        if not self._worker.allows("messages", self, self._login.name):
            raise CommandError(451, "4.7.1", "Too many messages in a short time, try again later")
        refusal = None if self._door.room(mail.size) else NO_ROOM
        refusal = refusal or self._login.foreign_sender(mail.sender)
        refusal = refusal or self._door.judgement.admit(self._client(), mail.sender, None)
        if refusal is not None:
            await self._refuse(refusal, mail.sender, "")
            return
        self._mail = mail
        self._hop.begin(mail.sender, mail.options, mail.size)
        await self._say(Reply(250, "2.1.0", "Ok"))

    async def _rcpt_command(self, rest: str) -> None:
        self._need_helo()
        if self._mail is None or self._message.begun:
            raise CommandError(503, "5.5.1", "Sender not yet given, or chunks sent already")
        command = rcpt_command(rest, extended=self._extended, dsn="RET" in self._offered)
        recipient = command.recipient
        self._tried += 1
        if self._tried > 2 * self._settings.recipient_limit:
            await self._leave(Reply(421, "4.7.0", "Too many recipients tried"))
            return
        if len(self._hop.accepted) >= self._settings.recipient_limit:
            raise CommandError(452, "4.5.3", "Too many recipients")
        if not self._worker.allows("recipients", self, self._login.name):
            raise CommandError(451, "4.7.1", "Too many recipients in a short time, try again later")
        # Rights come from the connection, or from XCLIENT; never from XFORWARD.
        rights = self._client(_NO_CLIENT)
        refusal = relay_refusal(recipient, rights, self._door.domains, self._door.relay_networks)
        if refusal is None:
            if "@" in recipient:
                check_address(recipient, smtputf8=self._mail.smtputf8, enhanced="5.1.3")
            refusal = self._door.judgement.admit(self._client(), self._mail.sender, recipient)
        if refusal is None:
            ours = self._door.judgement.takes(self._client(), recipient)
            answer = self._hop.keep(recipient) if ours else await self._hop.offer(command)
            if answer.code < 300:
                await self._say(answer)
                return
            refusal = answer
        await self._refuse(refusal, self._mail.sender, recipient)

    async def _refuse(self, reply: Reply, sender: str, recipient: str) -> None:
        self._junk += reply.code < 500 and not recipient
        facts = {"client": self._client().client_ip, "sender": sender, "recipient": recipient}
        self._door.count("refused")
        self._door.log.info("refused", **facts, reply=str(reply))
        await self._say(reply)

    async def _data_command(self, rest: str) -> None:
        self._need_helo()
        if rest:
            raise CommandError(501, "5.5.4", "DATA takes no argument")
        if self._mail is None or self._message.begun:
            raise CommandError(503, "5.5.1", "Sender not yet given, or chunks sent already")
        if not self._hop.accepted:
            raise CommandError(554, "5.5.1", "No valid recipients")
        if self._wire.pending:  # RFC 2920 §3.1: DATA is the last command of a group
            await self._leave(PIPELINED)
            return
        await self._push("354 End data with <CR><LF>.<CR><LF>")
        found = await self._message.by_data()
        if found is None:
            self._closing = True  # it was told already
        else:
            await self._settle(found, self._mail)

    async def _bdat_command(self, rest: str) -> None:
        try:
            size, last = bdat_command(rest)
        except CommandError as error:  # nobody knows how many octets come that are no commands
            await self._leave(error.reply)
            return
        if size > 2 * self._settings.size_limit:
            await self._leave(CHUNK_FAULTS["size"])
            return
        self._junk += not size
        if not self._helo or self._mail is None or not self._hop.accepted:
            await self._message.discard(size)
            raise CommandError(503, "5.5.1", "Nothing to send, or an earlier chunk was refused")
        found = await self._message.by_chunk(size, last=last)
        if found is None:
            await self._say(Reply(250, "2.0.0", f"{size} octets received"))
        else:
            await self._settle(found, self._mail)

    async def _settle(self, found: bytes | Reply, command: MailCommand) -> None:
        """The end of a message: what came of it, or why it was not taken."""
        reply = found if isinstance(found, Reply) else await self._pass_on(found, command)
        await self._forget()
        await self._say(reply)

    async def _rset_command(self, rest: str) -> None:
        if rest:
            raise CommandError(501, "5.5.4", "RSET takes no argument")
        await self._forget()
        await self._say(OK)

    async def _quit_command(self, _rest: str) -> None:
        await self._leave(Reply(221, "2.0.0", "Bye"))

    async def _xclient_command(self, rest: str) -> None:
        self._need_right(self._settings.xclient_networks)
        self._identity = merged(self._identity, attributes(rest, XCLIENT))
        self._extended = False
        self._helo = self._identity.helo or ""
        await self._push(f"220 {self._door.hostname} ESMTP")

    async def _xforward_command(self, rest: str) -> None:
        self._need_right(self._settings.xforward_networks)
        self._forwarded = merged(self._forwarded, attributes(rest, XFORWARD))
        await self._say(OK)

    # ---------------------------------------------------------------- the message

    async def _pass_on(self, message: bytes, command: MailCommand) -> Reply:
        mail = Mail(
            id=new_id(),
            session=self._client(),
            envelope=Envelope(command.sender, tuple(self._hop.accepted), command.options),
            raw=message,
            received=time.time(),
        )
        refusal = await self._login.foreign_author(mail)
        if refusal is not None:
            return refusal
        judged = not inside(self._client(_NO_CLIENT).client_ip, self._settings.unjudged_networks)
        reply = await transfer(
            mail, self._door, self._worker.pool, self._hop, extended=self._extended, judged=judged
        )
        if reply.code < 300:
            self._junk = 0
        return reply

    # ---------------------------------------------------------------- state

    async def _forget(self) -> None:
        """End the transaction, if there is one."""
        self._mail = None
        self._tried = 0
        self._forwarded = _NO_CLIENT
        self._message.drop()
        await self._hop.forget()

    def _need_helo(self) -> None:
        if not self._helo:
            raise CommandError(503, "5.5.1", "Send EHLO first")

    def _need_right(self, networks: tuple[str, ...]) -> None:
        if not inside(self.peer, networks):
            raise CommandError(550, "5.7.0", "Error: insufficient authorization")
        if self._mail is not None:
            raise CommandError(503, "5.5.1", "Not within a transaction")

    def _client(self, forwarded: Client | None = None) -> Session:
        """The client as the judgement sees it: who connects, XCLIENT over it, XFORWARD over that."""
        known = merged(self._identity, self._forwarded if forwarded is None else forwarded)
        login = self._login.name or self._identity.login
        return session_of(
            Client(self.peer, "", self._helo, ""),
            replace(known, login=login),
            tls=tls_facts(self._wire.tls),
            listener=self._listener.name,
            relay_networks=self._door.relay_networks,
        )
