# SPDX-License-Identifier: GPL-2.0-or-later
"""One session with a next hop over SMTP or LMTP, held open for as long as its caller likes.

Reads hostile bytes (the next hop's answers, through `protocol`) under a time limit for each
phase. aiosmtplib is not used here: it speaks no LMTP and so no reply per recipient, has no
PIPELINING, silently rewrites bare CR and LF instead of refusing them, and joins replies it
cannot bound in lines. What a TLS policy demands is settled before MAIL: without it there is no
session, and so no way to send in clear.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from typing import TYPE_CHECKING

from gateway.delivery.protocol import (
    HopReply,
    ProtocolError,
    chunk_blocks,
    command,
    extensions,
    is_sound,
    stuffed_blocks,
)
from gateway.delivery.wire import Wire
from gateway.settings import Seconds, Settings
from gateway.tls.outbound import PeerError, TlsPolicy, confirm, context_for, failure_of
from gateway.tls.wish import REQUIRETLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.delivery.logins import Login
    from gateway.delivery.routes import NextHop
    from gateway.tls.outbound import Failure

_NOTHING: Mapping[str, Sequence[str]] = {}
_BATCH = 100  # commands in one pipelined group
_DATA = b"DATA\r\n"


class RelayTimeouts(Settings, frozen=True, kw_only=True):
    """How long, in seconds, the relay client waits in each phase (RFC 5321 §4.5.3.2)."""

    # For a TCP connection, and again for the TLS handshake.
    connect: Seconds = 30.0
    # For the greeting, and again for the answer to EHLO or LHLO.
    greeting: Seconds = 60.0
    # For the answer to MAIL, RCPT, RSET and STARTTLS, each.
    command: Seconds = 120.0
    # For the answer to DATA, and for each block of the message to be taken.
    data: Seconds = 120.0
    # For the answer to the end of the message.
    end_of_data: Seconds = 300.0
    # For the answer to QUIT.
    quit: Seconds = 2.0


class HopLost(Exception):  # noqa: N818  # it is a state of affairs, with a reply to pass on
    """The next hop cannot be used now. `reply` is a 4xx; nothing of a message was sent.

    `failure` is what it counts as in a report, if TLS was the reason.
    """

    def __init__(self, enhanced: str, text: str, failure: Failure = "") -> None:
        super().__init__(text)
        self.reply = HopReply(451, enhanced, text[:400])
        self.failure: Failure = failure


class _TlsError(Exception):
    """The TLS handshake failed; the text says how, and `failure` what it counts as."""

    def __init__(self, text: str, failure: Failure = "validation-failure") -> None:
        super().__init__(text)
        self.failure: Failure = failure


class Transaction:
    """A session with a next hop: MAIL, RCPT one by one, DATA, and again after `reset`.

    Every method but `data`, `close` and `abort` raises HopLost if the session broke.
    """

    def __init__(
        self, hop: NextHop, transport: asyncio.Transport, wire: Wire, timeouts: RelayTimeouts
    ) -> None:
        self.hop = hop
        self.tls_version = ""  # of the session, "" in clear
        self.tls_verified = False  # whether the server proved who it is
        self.tls_failure: Failure = ""  # why it is in clear, or not verified, although that was tried
        self.extensions: dict[str, str] = {}
        self.accepted: list[str] = []  # recipients the hop has taken since MAIL, in order
        self._transport = transport
        self._wire = wire
        self._timeouts = timeouts
        self._smtputf8 = False
        self._in_data = False
        self._go: HopReply | None = None  # the answer to a DATA that was sent with the envelope

    @property
    def tls(self) -> str:
        """The session's TLS in words, "" in clear."""
        return f"{self.tls_version} verified" if self.tls_version and self.tls_verified else self.tls_version

    # ---------------------------------------------------------------- opening

    @classmethod
    async def open(
        cls,
        hop: NextHop,
        tls: TlsPolicy,
        helo: str,
        timeouts: RelayTimeouts | None = None,
        login: Login | None = None,
    ) -> Transaction:
        """Connect, greet, start TLS as `tls` demands, and log in. Raises HopLost."""
        waits = timeouts or RelayTimeouts()
        if tls.refusal:
            raise HopLost("4.7.5", f"{hop}: {tls.refusal}", tls.failure)
        failure: Failure = ""
        why = ""
        for step in tls.ladder():
            try:
                transaction = await cls._open(hop, step, helo, waits)
            except _TlsError as error:
                failure, why = failure or error.failure, str(error)
            else:
                transaction.tls_failure = transaction.tls_failure or failure
                if login is not None:
                    await transaction.log_in(login)
                return transaction
        raise HopLost("4.7.5", f"cannot start TLS with {hop}: {why}", failure)

    @classmethod
    async def _open(cls, hop: NextHop, tls: TlsPolicy, helo: str, waits: RelayTimeouts) -> Transaction:
        loop = asyncio.get_running_loop()
        wire = Wire()
        try:
            async with asyncio.timeout(waits.connect):
                if hop.path:
                    transport, _ = await loop.create_unix_connection(lambda: wire, hop.path)
                else:
                    where = hop.address or hop.host
                    transport, _ = await loop.create_connection(lambda: wire, where, hop.port)
        except TimeoutError:
            raise HopLost("4.4.1", f"connecting to {hop} timed out") from None
        except OSError as error:
            raise HopLost(
                "4.4.1", f"cannot connect to {hop}: {error.strerror or type(error).__name__}"
            ) from None
        self = cls(hop, transport, wire, waits)
        try:
            if hop.implicit:
                await self._handshake(tls)
            await self._banner()
            await self._greet(helo, allow_helo=not tls.mandatory)
            if not hop.implicit:
                await self._secure(tls, helo)
        except BaseException:
            self.abort()
            raise
        return self

    async def _banner(self) -> None:
        greeting = await self._reply(self._timeouts.greeting)
        if greeting.code != 220:
            raise HopLost("4.4.1", f"{self.hop} greets with: {greeting}")

    async def _greet(self, helo: str, *, allow_helo: bool) -> None:
        verb = "LHLO" if self.hop.protocol == "lmtp" else "EHLO"
        reply = await self._ask(verb, helo, self._timeouts.greeting)
        if reply.status == "refused" and verb == "EHLO" and allow_helo:
            reply = await self._ask("HELO", helo, self._timeouts.greeting)
            self.extensions = {}
        else:
            self.extensions = extensions(reply)
        if reply.status != "accepted":
            raise HopLost("4.4.1", f"{self.hop} answers {verb} with: {reply}")

    async def _secure(self, tls: TlsPolicy, helo: str) -> None:
        if tls.level == "none":
            return
        if "STARTTLS" not in self.extensions:
            if tls.mandatory:
                why = f"TLS is required, but {self.hop} does not offer it"
                raise HopLost("4.7.4", why, "starttls-not-supported")
            self.tls_failure = "starttls-not-supported"
            return
        reply = await self._ask("STARTTLS", "", self._timeouts.command)
        if reply.code != 220:
            if tls.mandatory:
                why = f"TLS is required, but {self.hop} answers: {reply}"
                raise HopLost("4.7.4", why, "starttls-not-supported")
            self.tls_failure = "starttls-not-supported"
            return
        if self._wire.reader.pending:
            # An answer that came in clear must not be read as one that came over TLS.
            raise HopLost("4.7.5", f"{self.hop} sent more than its answer to STARTTLS")
        await self._handshake(tls)
        await self._greet(helo, allow_helo=False)

    async def _handshake(self, tls: TlsPolicy) -> None:
        loop = asyncio.get_running_loop()
        try:
            context = context_for(tls)
            assert context is not None
            secured = await loop.start_tls(
                self._transport,
                self._wire,
                context,
                server_hostname=tls.match or self.hop.host or None,
                ssl_handshake_timeout=self._timeouts.connect,
            )
        except ssl.SSLCertVerificationError as error:
            raise _TlsError(f"certificate not accepted, {error.verify_message}", failure_of(error)) from None
        except (OSError, ValueError, EOFError) as error:  # ssl.SSLError is an OSError
            raise _TlsError(getattr(error, "reason", None) or str(error) or type(error).__name__) from None
        if secured is None:
            raise _TlsError("connection lost")
        self._transport = secured
        connection = secured.get_extra_info("ssl_object")
        try:
            confirm(tls, connection)
        except PeerError as error:
            raise _TlsError(str(error), error.failure) from None
        self.tls_version, self.tls_verified = connection.version() or "", tls.verified

    async def log_in(self, login: Login) -> None:
        """AUTH (RFC 4954), over TLS or a unix socket only. Raises HopLost, and the session is over."""
        try:
            await self._log_in(login)
        except HopLost:
            await self.close()
            raise

    async def _log_in(self, login: Login) -> None:
        if not self.tls_version and not self.hop.path:
            raise HopLost("4.7.10", f"the password for {self.hop} is not sent in clear")
        offered = self.extensions.get("AUTH", "").upper().split()
        if "PLAIN" in offered:
            secret = b"\0".join((b"", login.name.encode(), login.password.encode()))
            reply = await self._ask("AUTH", f"PLAIN {_base64(secret)}", self._timeouts.command)
        elif "LOGIN" in offered:
            reply = await self._ask("AUTH", "LOGIN", self._timeouts.command)
            for answer in (login.name, login.password):
                if reply.code == 334:
                    reply = await self._ask(_base64(answer.encode()), "", self._timeouts.command)
        else:
            raise HopLost("4.7.4", f"{self.hop} offers neither AUTH PLAIN nor LOGIN for our login")
        if reply.code != 235:
            # Without its text, in which a server might say our password again.
            raise HopLost("4.7.8", f"{self.hop} refuses our login: {reply.code} {reply.enhanced}".rstrip())

    # ---------------------------------------------------------------- the envelope

    async def mail(self, sender: str, options: Sequence[str] = (), size: int = 0) -> HopReply:
        """MAIL for `sender` ("" is null), with those ESMTP `options` that the hop offers.

        `size` is announced if the hop wants to know (0: unknown).
        """
        line = self._mail_line(sender, options, size)
        return line if isinstance(line, HopReply) else await self._ask_line(line)

    def _mail_line(self, sender: str, options: Sequence[str], size: int) -> bytes | HopReply:
        self.accepted = []
        self._smtputf8 = "SMTPUTF8" in options or not sender.isascii()
        if self._smtputf8 and "SMTPUTF8" not in self.extensions:
            return HopReply(550, "5.6.7", "the next hop does not support SMTPUTF8")  # RFC 6531 §3.5
        parameters = [f"FROM:<{sender}>"]
        if size and "SIZE" in self.extensions:
            parameters.append(f"SIZE={size}")
        if "8BITMIME" in self.extensions:
            parameters.append("BODY=7BIT" if "BODY=7BIT" in options else "BODY=8BITMIME")
        if self._smtputf8:
            parameters.append("SMTPUTF8")
        if REQUIRETLS in options and self.hop.protocol == "smtp" and not self.hop.path:
            if REQUIRETLS not in self.extensions or not self.tls_verified:
                return HopReply(550, "5.7.30", "REQUIRETLS support required")  # RFC 8689 §4.2.1
            parameters.append(REQUIRETLS)
        parameters += self._for_dsn(options, ("RET=", "ENVID="))
        return _line("MAIL", " ".join(parameters))

    async def rcpt(self, recipient: str, asked: Sequence[str] = ()) -> HopReply:
        """RCPT for one recipient; `asked` are its NOTIFY and ORCPT."""
        line = self._rcpt_line(recipient, asked)
        reply = line if isinstance(line, HopReply) else await self._ask_line(line)
        if reply.status == "accepted":
            self.accepted.append(recipient)
        return reply

    def _rcpt_line(self, recipient: str, asked: Sequence[str] = ()) -> bytes | HopReply:
        if not recipient.isascii() and not self._smtputf8:
            return HopReply(553, "5.6.7", "the recipient needs SMTPUTF8")
        return _line("RCPT", " ".join((f"TO:<{recipient}>", *self._for_dsn(asked, ("NOTIFY=", "ORCPT=")))))

    def _for_dsn(self, options: Sequence[str], wanted: tuple[str, ...]) -> list[str]:
        """What goes on to a next hop that sends notices itself (RFC 3461 §5.2.1)."""
        return [one for one in options if one.startswith(wanted)] if "DSN" in self.extensions else []

    async def envelope(
        self,
        sender: str,
        recipients: Sequence[str],
        options: Sequence[str] = (),
        size: int = 0,
        asked: Mapping[str, Sequence[str]] = _NOTHING,
        message: bytes = b"",
    ) -> tuple[HopReply, dict[str, HopReply]]:
        """MAIL and all RCPT, in pipelined groups where the hop offers PIPELINING (RFC 2920).

        `asked` are recipients' NOTIFY and ORCPT, which go on to who offers DSN. Returns the answer to MAIL
        and those to each RCPT; no RCPT counts if MAIL was not accepted. Where `message` is sent next, and
        by DATA, that goes with the last group.
        """
        self._go = None
        if "PIPELINING" not in self.extensions:
            first = await self.mail(sender, options, size)
            if first.status != "accepted":
                return first, {}
            return first, {r: await self.rcpt(r, asked.get(r, ())) for r in recipients}
        lines = [self._mail_line(sender, options, size)]
        lines += [self._rcpt_line(r, asked.get(r, ())) for r in recipients]
        if isinstance(lines[0], HopReply):
            return lines[0], {}
        ahead = bool(message) and any(isinstance(line, bytes) for line in lines[1:])
        ahead = ahead and "CHUNKING" not in self.extensions and self._unfit(message) is None
        replies: list[HopReply] = []
        for start in range(0, len(lines), _BATCH):
            group = lines[start : start + _BATCH]
            last = ahead and start + _BATCH >= len(lines)
            self._send(b"".join(line for line in group if isinstance(line, bytes)) + (_DATA if last else b""))
            for line in group:
                local = isinstance(line, HopReply)
                replies.append(line if local else await self._reply(self._timeouts.command))  # type: ignore[arg-type]  # `local` says which
            if last:
                self._go = await self._reply(self._timeouts.data)
            if replies[0].status != "accepted":
                await self._send_nothing()
                return replies[0], {}
        answers = dict(zip(recipients, replies[1:], strict=True))
        self.accepted = [r for r, reply in answers.items() if reply.status == "accepted"]
        if not self.accepted:
            await self._send_nothing()
        return replies[0], answers

    async def _send_nothing(self) -> None:
        """End a message that is for nobody, if the hop waits for one: it refuses that (RFC 2920 §3.1)."""
        go, self._go = self._go, None
        if go is not None and go.code == 354:
            with contextlib.suppress(HopLost):  # the answers to the envelope stand
                await self._ask_line(b".\r\n", self._timeouts.end_of_data)

    # ---------------------------------------------------------------- the message

    async def data(self, message: bytes) -> dict[str, HopReply]:
        """Send `message` to the accepted recipients; the answer for each (LMTP: its own).

        Raises HopLost only if nothing of the message was sent. A session that breaks later
        answers "later" for every recipient without an answer: it may have taken the message.
        """
        go, self._go = self._go, None
        refusal = self._unfit(message) if go is None else None
        if refusal is None and "CHUNKING" in self.extensions:
            return await self._deliver(chunk_blocks(message))
        if refusal is None:
            go = go or await self._ask("DATA", "", self._timeouts.data)
            if go.code != 354:
                if go.status == "accepted":
                    raise HopLost("4.5.0", f"{self.hop} answers DATA with: {go}")
                refusal = go
        if refusal is not None:
            return dict.fromkeys(self.accepted, refusal)
        return await self._deliver(stuffed_blocks(message))

    async def _deliver(self, blocks: Iterable[bytes]) -> dict[str, HopReply]:
        """Send the message; the answers to it."""
        if self.lost:
            raise HopLost("4.4.2", f"lost the connection to {self.hop}")
        self._in_data = True
        broken = await self._send_blocks(blocks)
        if broken is not None:
            self.abort()
            return dict.fromkeys(self.accepted, broken)
        self._in_data = False
        return await self._final_replies()

    def _unfit(self, message: bytes) -> HopReply | None:
        """Why `message` cannot be sent to this hop as it is, if so."""
        if not is_sound(message):
            return HopReply(554, "5.6.0", "the message has a bare CR or LF")
        if not message.isascii() and "8BITMIME" not in self.extensions:
            return HopReply(554, "5.6.3", "the next hop takes no 8-bit message")  # RFC 6152 §3
        limit = self.extensions.get("SIZE", "")
        if limit.isdigit() and len(limit) < 20 and 0 < int(limit) < len(message):
            return HopReply(552, "5.3.4", "the message is larger than the next hop takes")
        return None

    async def _send_blocks(self, blocks: Iterable[bytes]) -> HopReply | None:
        """Write all of them; how it failed, or None. An early refusal of the hop is its answer."""
        try:
            for block in blocks:
                if self._transport.is_closing():
                    raise ConnectionError  # as `writable` says it
                self._transport.write(block)
                await self._wire.writable(self._timeouts.data)
        except (OSError, TimeoutError):
            early = self._wire.reader.next()
            if early is not None and early.status != "accepted":
                return early
            return HopReply(451, "4.4.2", f"lost {self.hop} while sending the message")
        return None

    async def _final_replies(self) -> dict[str, HopReply]:
        found: dict[str, HopReply] = {}
        try:
            for recipient in self.accepted:
                found[recipient] = reply = await self._reply(self._timeouts.end_of_data)
                if self.hop.protocol == "smtp":
                    return dict.fromkeys(self.accepted, reply)
        except HopLost as lost:
            self.abort()
            for recipient in self.accepted:
                found.setdefault(recipient, lost.reply)
        return found

    # ---------------------------------------------------------------- the end

    @property
    def lost(self) -> bool:
        """Whether the session is known to be over, or out of step with its replies."""
        return self._wire.lost or self._wire.error is not None or self._wire.reader.pending

    async def reset(self) -> None:
        """RSET: forget the envelope."""
        self.accepted = []
        reply = await self._ask("RSET", "", self._timeouts.command)
        if reply.status != "accepted":
            raise HopLost("4.4.2", f"{self.hop} answers RSET with: {reply}")

    async def close(self) -> None:
        """QUIT politely, or break off if a message is half sent. Never raises."""
        try:
            if not self.lost and not self._in_data:
                with contextlib.suppress(HopLost):
                    await self._ask("QUIT", "", self._timeouts.quit)
        finally:
            self.abort()

    def abort(self) -> None:
        """Break the connection at once."""
        self._wire.lost = True
        self._transport.abort()

    # ---------------------------------------------------------------- question and answer

    async def _ask(self, verb: str, argument: str, seconds: float) -> HopReply:
        line = _line(verb, argument)
        return line if isinstance(line, HopReply) else await self._ask_line(line, seconds)

    async def _ask_line(self, line: bytes, seconds: float | None = None) -> HopReply:
        self._send(line)
        return await self._reply(seconds or self._timeouts.command)

    def _send(self, data: bytes) -> None:
        if self.lost or self._transport.is_closing():
            raise HopLost("4.4.2", f"lost the connection to {self.hop}")
        self._transport.write(data)

    async def _reply(self, seconds: float) -> HopReply:
        try:
            reply = await self._wire.reply(seconds)
        except TimeoutError:
            self.abort()
            raise HopLost("4.4.2", f"{self.hop} did not answer in time") from None
        except ConnectionError:
            raise HopLost("4.4.2", f"lost the connection to {self.hop}") from None
        except ProtocolError as error:
            self.abort()
            raise HopLost("4.5.0", f"{self.hop}: {error}") from None
        if reply.code == 421:
            self.abort()
            raise HopLost("4.4.2", f"{self.hop} closes: {reply}")
        return reply


def _base64(secret: bytes) -> str:
    return base64.b64encode(secret).decode("ascii")


def _line(verb: str, argument: str) -> bytes | HopReply:
    """The command line, or our own refusal to send such an address."""
    try:
        return command(verb, argument)
    except ProtocolError as error:
        return HopReply(553, "5.1.3", str(error))
