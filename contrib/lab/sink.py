# SPDX-License-Identifier: GPL-2.0-or-later
"""An SMTP or LMTP server that keeps what it is given, and fails on command.

It stands for the delivery server behind the gateway. Messages are kept as exact bytes; rules say
where it refuses, waits, hangs or hangs up.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from pathlib import Path

Phase = Literal["connect", "helo", "starttls", "mail", "rcpt", "data", "body", "quit"]
EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 100000000")
_LINE = 65_536


@dataclass(frozen=True, slots=True)
class Transaction:
    """One message as it arrived. `tls` is the version, "" in clear."""

    mail_from: str
    recipients: tuple[str, ...]
    data: bytes  # CRLF line ends, dots removed, nothing else changed
    options: tuple[str, ...] = ()  # of MAIL
    tls: str = ""
    helo: str = ""
    peer: str = ""
    certificate: str = ""  # common name of the client's certificate
    xforward: tuple[str, ...] = ()
    at: float = 0.0  # seconds since 1970


@dataclass(slots=True)
class Rule:
    """What to do in a phase: wait, then answer `reply`, hang or hang up. Ends after `times` uses."""

    phase: Phase
    reply: str = ""
    delay: float = 0.0
    hang: bool = False
    close: bool = False
    recipient: str = ""  # "rcpt", and "body" with LMTP: only for this recipient
    times: int = -1


class Sink:
    """The server, on 127.0.0.1:`self.port` or a unix path. Safe to change while it runs.

    `directory` receives each message as N.eml; `tls` offers STARTTLS, `implicit` speaks TLS at once.
    """

    def __init__(
        self,
        protocol: Literal["smtp", "lmtp"] = "smtp",
        *,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        directory: Path | None = None,
        path: Path | None = None,
        port: int = 0,
        extensions: Sequence[str] = EXTENSIONS,
    ) -> None:
        self.protocol = protocol
        self.tls = tls
        self.implicit = implicit
        self.directory = directory
        self.extensions = tuple(extensions)
        self.transactions: list[Transaction] = []
        self.rules: list[Rule] = []
        self.connections = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._open: set[_Session] = set()
        if path:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(path))
        else:
            self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", port))
        self.path = path
        self.port: int = 0 if path else self._listener.getsockname()[1]
        if directory:
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def address(self) -> str:
        """host:port, or unix:path."""
        return f"unix:{self.path}" if self.path else f"127.0.0.1:{self.port}"

    def on(
        self,
        phase: Phase,
        reply: str = "",
        *,
        delay: float = 0.0,
        hang: bool = False,
        close: bool = False,
        recipient: str = "",
        times: int = -1,
    ) -> Rule:
        """Add a rule; the first that fits wins."""
        rule = Rule(phase, reply, delay, hang, close, recipient, times)
        with self._changed:
            self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all messages and rules."""
        with self._changed:
            self.transactions.clear()
            self.rules.clear()

    def wait_for(
        self, count: int, seconds: float = 30.0, wanted: Callable[[Transaction], bool] | None = None
    ) -> list[Transaction]:
        """Wait for `count` messages (that are `wanted`) and return them; raises TimeoutError."""
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                found = [one for one in self.transactions if wanted is None or wanted(one)]
                left = end - time.monotonic()
                if len(found) >= count:
                    return found
                if left <= 0:
                    raise TimeoutError(f"the sink got {len(found)} of {count} messages in {seconds:g} s")
                self._changed.wait(left)

    # ------------------------------------------------------------ life

    def start(self) -> Self:
        """Begin to accept."""
        self._listener.listen(256)
        threading.Thread(target=self._accept, name="sink", daemon=True).start()
        return self

    def stop(self) -> None:
        """Close everything, open sessions too."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            for session in self._open:
                session.interrupt()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                stream, peer = self._listener.accept()
            except OSError:
                return
            session = _Session(self, stream, peer[0] if isinstance(peer, tuple) else "")
            with self._changed:
                self.connections += 1
                self._open.add(session)
            threading.Thread(target=self._serve, args=(session,), daemon=True).start()

    def _serve(self, session: _Session) -> None:
        try:
            with contextlib.suppress(OSError, _HangUp):
                session.run()
        finally:
            session.close()
            with self._changed:
                self._open.discard(session)

    # ------------------------------------------------------------ for sessions

    def act(self, phase: Phase, good: str, recipient: str = "") -> str:
        """Return the reply for a phase, after what its rule says; may raise _HangUp."""
        with self._changed:
            rule = next((r for r in self.rules if _fits(r, phase, recipient)), None)
            if rule and rule.times > 0:
                rule.times -= 1
        if rule is None:
            return good
        if self._stopping.wait(3600.0 if rule.hang else rule.delay) or rule.hang or rule.close:
            raise _HangUp
        return rule.reply or good

    def keep(self, transaction: Transaction) -> None:
        """Store a message."""
        with self._changed:
            self.transactions.append(transaction)
            number = len(self.transactions)
            self._changed.notify_all()
        if self.directory:
            (self.directory / f"{number:05}.eml").write_bytes(transaction.data)


class _HangUp(Exception):  # noqa: N818  # an event, not an error
    """A rule, or the end, closes the session."""


def _fits(rule: Rule, phase: Phase, recipient: str) -> bool:
    return rule.phase == phase and rule.times != 0 and (not rule.recipient or rule.recipient == recipient)


class _Session:
    """One connection."""

    def __init__(self, sink: Sink, stream: socket.socket, peer: str) -> None:
        self._sink = sink
        self._stream = stream
        self._empty = Transaction("", (), b"", peer=peer)
        self._now: Transaction | None = None
        if not sink.path:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = stream.makefile("rb")

    def run(self) -> None:
        """Speak until the client quits."""
        if self._sink.implicit:
            self._secure()
        self._say(
            self._sink.act("connect", f"220 sink.example.org {'E' * (self._sink.protocol == 'smtp')}SMTP")
        )
        while True:
            line = self._file.readline(_LINE)
            if not line.endswith(b"\n"):
                return
            verb, _, argument = line.decode("utf-8", "surrogateescape").strip("\r\n").partition(" ")
            if verb.upper() == "QUIT":
                self._say(self._sink.act("quit", "221 2.0.0 Bye"))
                return
            self._command(verb.upper(), argument)

    def close(self) -> None:
        """Close what this session opened."""
        with contextlib.suppress(OSError):
            self._file.close()
            self._stream.close()

    def interrupt(self) -> None:
        """Wake the session's thread from another one, so that it ends."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._stream, socket.SHUT_RDWR)  # an SSLSocket's own is not safe for that

    def _say(self, reply: str) -> None:
        self._stream.sendall(reply.encode("utf-8", "surrogateescape") + b"\r\n")

    def _command(self, verb: str, argument: str) -> None:
        if verb in ("EHLO", "HELO", "LHLO"):
            self._helo(verb, argument)
        elif verb == "STARTTLS" and self._sink.tls and not self._empty.tls:
            reply = self._sink.act("starttls", "220 2.0.0 Ready to start TLS")
            self._say(reply)
            if reply.startswith("220"):
                self._secure()
        elif verb == "XFORWARD":
            self._empty = replace(self._empty, xforward=(*self._empty.xforward, *argument.split()))
            self._say("250 2.0.0 Ok")
        elif verb == "MAIL":
            self._mail(argument)
        elif verb == "RCPT":
            self._rcpt(argument)
        elif verb == "DATA":
            self._data()
        elif verb in ("RSET", "NOOP"):
            self._now = None if verb == "RSET" else self._now
            self._say("250 2.0.0 Ok")
        else:
            self._say("502 5.5.2 Command not recognized")

    def _helo(self, verb: str, argument: str) -> None:
        if (verb == "LHLO") != (self._sink.protocol == "lmtp"):
            self._say("500 5.5.1 Wrong greeting for this protocol")
            return
        self._now = None
        self._empty = replace(self._empty, helo=argument)
        offers = [*self._sink.extensions]
        if self._sink.tls and not self._empty.tls:
            offers.append("STARTTLS")
        lines = ["sink.example.org", *(offers if verb != "HELO" else [])]
        good = "\r\n".join(f"250{'-' if line is not lines[-1] else ' '}{line}" for line in lines)
        self._say(self._sink.act("helo", good))

    def _secure(self) -> None:
        assert self._sink.tls
        self._file.close()
        stream = self._sink.tls.wrap_socket(self._stream, server_side=True)
        self._stream = stream
        self._file = stream.makefile("rb")
        subject: Any = (stream.getpeercert() or {}).get("subject", ())
        name = next((value for ((key, value),) in subject if key == "commonName"), "")
        # RFC 3207 §4.2: forget what the client said before
        self._empty = replace(
            self._empty, tls=stream.version() or "?", helo="", certificate=name, xforward=()
        )
        self._now = None

    def _mail(self, argument: str) -> None:
        address, options = _path(argument)
        reply = self._sink.act("mail", "250 2.1.0 Ok")
        if reply.startswith("2"):
            self._now = replace(self._empty, mail_from=address, options=options)
        self._say(reply)

    def _rcpt(self, argument: str) -> None:
        if self._now is None:
            self._say("503 5.5.1 MAIL first")
            return
        address, _ = _path(argument)
        reply = self._sink.act("rcpt", "250 2.1.5 Ok", address)
        if reply.startswith("2"):
            self._now = replace(self._now, recipients=(*self._now.recipients, address))
        self._say(reply)

    def _data(self) -> None:
        if self._now is None or not self._now.recipients:
            self._say("503 5.5.1 RCPT first" if self._now is None else "554 5.5.1 No valid recipients")
            return
        reply = self._sink.act("data", "354 End with a dot")
        self._say(reply)
        if not reply.startswith("3"):
            return
        lines: list[bytes] = []
        while (line := self._file.readline(_LINE)) != b".\r\n":
            if not line:
                raise _HangUp
            # a line longer than the buffer comes in pieces; only its first may be dot-stuffed
            stuffed = line.startswith(b".") and (not lines or lines[-1].endswith(b"\n"))
            lines.append(line[1:] if stuffed else line)
        message = replace(self._now, data=b"".join(lines), at=time.time())
        self._now = None
        if self._sink.protocol == "lmtp":
            self._answer_each(message)
            return
        reply = self._sink.act("body", "250 2.0.0 Ok: kept")
        if reply.startswith("2"):
            self._sink.keep(message)
        self._say(reply)

    def _answer_each(self, message: Transaction) -> None:
        """RFC 2033 §4.2: one reply for each recipient that was accepted."""
        replies = [self._sink.act("body", "250 2.0.0 Ok: kept", one) for one in message.recipients]
        taken = tuple(
            one for one, reply in zip(message.recipients, replies, strict=True) if reply.startswith("2")
        )
        if taken:
            self._sink.keep(replace(message, recipients=taken))
        self._say("\r\n".join(replies))


def _path(argument: str) -> tuple[str, tuple[str, ...]]:
    """Read `FROM:<a@b> SIZE=1` or `TO:<a@b>`: the address without brackets, the parameters."""
    rest = argument.partition(":")[2].strip()
    address, _, options = rest.partition(">")
    return address.removeprefix("<"), tuple(options.split())
