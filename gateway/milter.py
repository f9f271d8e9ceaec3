# SPDX-License-Identifier: GPL-2.0-or-later
"""The milter door: Postfix (or Sendmail) asks about each message.

Reads hostile bytes only through libmilter. Guards around pymilter and libmilter:

* libmilter moves a connection's callbacks between threads, and C code that takes the interpreter
  lock in them can deadlock. So callbacks only collect bytes; judging runs in a pool of threads
  that Python owns, made after the fork.
* Without SMFIP_HDR_LEADSPC the MTA eats the space after the colon, and DKIM's "simple" header
  canonicalisation breaks. It is asked for, and header fields are rebuilt octet by octet.
* pymilter decodes macros and arguments strictly in places; undecodable ones are read as absent.
* On SIGTERM libmilter drops connections in the middle of a message, and for five seconds more it
  accepts new ones only to drop them. So a worker that is to end takes its listening socket away
  from libmilter first, waits for what is under way, and only then sends itself SIGTERM.
* Actions are sent only after the decision, and only those that were negotiated; where one is
  missing or fails, the message is deferred.
* What pymilter cannot make a callback of (a HELO that is not UTF-8, a packet out of its turn) it prints
  with a traceback; it becomes one line of the log. The MTA is told to try again later.
* libmilter reads beyond the end of a list of macros in which a value is missing, and then often crashes.
  No MTA sends such a list, and no client of one can make it: the port is for the MTA alone.
* libmilter hangs up on a packet of more than 64 KiB, and the MTA then defers, for ever. A header field
  is one packet; Postfix cuts it at 60,000 octets before, but not every MTA does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import Milter
import milter
import msgspec

from gateway.gather import WAITING
from gateway.mail.edits import ordered, remainder
from gateway.mail.headers import printable
from gateway.mail.networks import address, inside
from gateway.mail.types import (
    Action,
    Direction,
    Edit,
    EditOp,
    Envelope,
    Mail,
    Reply,
    Session,
    Tls,
    Verdict,
    new_id,
)
from gateway.pipeline import Gateway, admit, judge_safely
from gateway.reply import failure
from gateway.settings import Positive, Seconds, Settings

if TYPE_CHECKING:
    from types import TracebackType

DOOR = "milter"
_BODY_CHUNK = 65_535  # octets of a new body in one packet, as the protocol has it
# Finish, by signal: all connections (after a reload), or messages under way (before a stop).
DRAIN_CONNECTIONS, DRAIN_MESSAGES = signal.SIGUSR1, signal.SIGUSR2


class MilterSettings(Settings, frozen=True):
    """The milter door."""

    # Where to listen: "unix:/run/mailwarden/milter.sock" or "inet:127.0.0.1:10025"; () closes the door.
    listen: tuple[str, ...] = ()
    # Permissions of unix sockets; Postfix must be able to write to them.
    socket_mode: Annotated[str, msgspec.Meta(pattern="^0[0-7]{3}$")] = "0660"
    # Group of unix sockets ("postfix"); "" leaves the group of the process.
    socket_group: str = ""
    # Worker processes for each address.
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    # Messages that one worker judges at the same time; twice as many more may wait for their archives.
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    # Seconds without a word from the MTA after which a connection is closed.
    timeout: Seconds = 1800.0
    # Largest message in octets; the MTA's own limit should be lower.
    max_size: Positive = 104_857_600
    # Values of {daemon_name} that mark listeners for our own users' mail.
    outbound_listeners: tuple[str, ...] = ("ORIGINATING",)


class Load:
    """What one worker is busy with; threads of libmilter count up and down."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.connections = self.messages = 0

    def change(self, *, connections: int = 0, messages: int = 0) -> None:
        """Count."""
        with self._changed:
            self.connections += connections
            self.messages += messages
            self._changed.notify_all()

    def wait_idle(self, *, connections: bool) -> None:
        """Wait until no message is under way, or until no connection is open."""
        with self._changed:
            self._changed.wait_for(lambda: (self.connections if connections else self.messages) <= 0)


@Milter.header_leading_space
class Connection(Milter.Base):  # type: ignore[misc]  # pymilter has no types
    """One connection of the MTA: collects, asks `judge`, and carries out the verdict."""

    # Set on a subclass by `serve`: libmilter makes the instances.
    gateway: Gateway
    settings: MilterSettings
    relay_networks: tuple[str, ...]
    judges: ThreadPoolExecutor
    load: Load

    def __init__(self) -> None:
        self.client_ip = self.client_name = self.helo = ""
        self.open = self.busy = False
        self._reset()

    def _reset(self) -> None:
        if self.busy:
            self.busy = False
            self.load.change(messages=-1)
        self.session = Session()
        self.mail_from = ""
        self.options: tuple[str, ...] = ()
        self.recipients: list[bytes] = []  # as the MTA wrote them
        self.head: list[bytes] = []
        self.chunks: list[bytes] = []
        self.size = 0

    # ---- the client

    def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
        """Keep the client's address; there is none for local submission."""
        del family
        self.gateway.counters.add("connections", DOOR)
        self.open = True
        self.load.change(connections=1)
        self.client_ip = _address(hostaddr[0]) if isinstance(hostaddr, tuple) else ""
        # The MTA gives "[address]" or "unknown" where no name leads back to the address.
        named = hostname and not hostname.startswith("[") and hostname.lower() not in ("unknown", "localhost")
        self.client_name = hostname if named else ""
        return int(Milter.CONTINUE)

    def hello(self, hostname: str) -> int:
        """Keep the HELO name."""
        self.helo = hostname
        return int(Milter.CONTINUE)

    # ---- the envelope

    def envfrom_bytes(self, *arguments: bytes) -> int:
        """Start a message: everything of the one before is forgotten."""
        self._reset()
        self.busy = True
        self.load.change(messages=1)
        words = [_text(a) for a in arguments]
        self.mail_from = _bare(words[0])
        self.options = tuple(words[1:])
        login = self._macro("{auth_authen}")
        listener = self._macro("{daemon_name}")
        self.session = Session(
            client_ip=self.client_ip,
            client_name=self.client_name,
            helo=self.helo,
            tls=self._tls(),
            login=login,
            listener=listener,
            direction=self._direction(login, listener),
        )
        reply = admit(self.session, self.mail_from, self.gateway)
        if reply is None:
            return int(Milter.CONTINUE)
        self.gateway.counters.add("refused", DOOR)
        self.gateway.log.info("refused", client=self.client_ip, sender=self.mail_from, reply=str(reply))
        return self._answer(reply)

    def envfrom(self, *_arguments: str) -> int:
        """Stand here so that pymilter asks the MTA for MAIL; `envfrom_bytes` does the work."""
        return int(Milter.CONTINUE)

    def envrcpt_bytes(self, *arguments: bytes) -> int:
        """Collect a recipient, as the MTA wrote it."""
        self.recipients.append(arguments[0])
        return int(Milter.CONTINUE)

    def envrcpt(self, *_arguments: str) -> int:
        """Stand here so that pymilter asks the MTA for RCPT; `envrcpt_bytes` does the work."""
        return int(Milter.CONTINUE)

    # ---- the message

    def header_bytes(self, name: str, value: bytes) -> int:
        """Rebuild one header field exactly; the MTA gives line ends as LF."""
        if not self._protocol & Milter.P_HDR_LEADSPC:
            value = b" " + value
        field = (
            name.encode("ascii", "surrogateescape")
            + b":"
            + value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        )
        self._collect(self.head, field)
        return int(Milter.NOREPLY if self._protocol & Milter.P_NR_HDR else Milter.CONTINUE)

    @Milter.noreply  # type: ignore[untyped-decorator]
    def header(self, _name: str, _value: str) -> int:
        """Stand here so that pymilter asks the MTA for header fields, without a reply to each."""
        return int(Milter.CONTINUE)

    @Milter.noreply  # type: ignore[untyped-decorator]
    def body(self, chunk: bytes) -> int:
        """Collect a piece of the body."""
        self._collect(self.chunks, chunk)
        return int(Milter.CONTINUE)

    def _collect(self, pieces: list[bytes], piece: bytes) -> None:
        self.size += len(piece)
        if self.size <= self.settings.max_size:
            pieces.append(piece)

    def eom(self) -> int:
        """Judge the message and carry out the verdict."""
        if self.size > self.settings.max_size:
            return self._answer(Reply(552, "5.3.4", "Message size exceeds the limit"))
        mail = Mail(
            id=new_id(),
            session=self.session,
            envelope=Envelope(self.mail_from, tuple(_bare(_text(r)) for r in self.recipients), self.options),
            raw=b"".join((*(field + b"\r\n" for field in self.head), b"\r\n", *self.chunks)),
            received=time.time(),
            queue_id=self._macro("i"),
        )
        try:
            verdict, reply = self.judges.submit(judge_safely, mail, self.gateway, DOOR).result()
            return self._carry_out(mail, verdict, reply)
        except Exception as error:  # noqa: BLE001  # an action that was not negotiated, or a pool that ends
            self.gateway.log.error("verdict not carried out", id=mail.id, error=printable(repr(error), 200))
            return self._answer(failure(mail.id))
        finally:
            self._reset()

    def abort(self) -> int:
        """Forget the message; the connection may bring another."""
        self._reset()
        return int(Milter.CONTINUE)

    def close(self) -> int:
        """Forget everything."""
        self._reset()
        if self.open:
            self.open = False
            self.load.change(connections=-1)
        return int(Milter.CONTINUE)

    # ---- verdicts

    def _carry_out(self, mail: Mail, verdict: Verdict, reply: Reply) -> int:
        if verdict.action in (Action.REJECT, Action.DEFER):
            return self._answer(reply)
        if verdict.action in (Action.QUARANTINE, Action.LEARN):
            return int(Milter.DISCARD)
        for edit in ordered(verdict.edits):
            self._edit(edit)
        if verdict.cuts:
            self._replace_body(remainder(mail.raw, sum(len(f) + 2 for f in self.head) + 2, verdict.cuts))
        for recipient, outcome in zip(self.recipients, verdict.outcomes, strict=True):
            if outcome.action in (Action.QUARANTINE, Action.LEARN):
                # One that is not UTF-8 cannot be named to the MTA: then all is deferred.
                self.delrcpt(recipient.decode("utf-8"))
        return int(Milter.CONTINUE)

    def _edit(self, edit: Edit) -> None:
        value = edit.value
        if self._protocol & Milter.P_HDR_LEADSPC and edit.op is not EditOp.DELETE:
            value = f" {value}"
        if edit.op is EditOp.INSERT:
            self.addheader(edit.name, value, 0)
        elif edit.op is EditOp.ADD:
            self.addheader(edit.name, value)
        elif edit.op is EditOp.REPLACE:
            self.chgheader(edit.name, edit.index, value)
        else:
            self.chgheader(edit.name, edit.index, None)

    def _replace_body(self, body: bytes) -> None:
        for start in range(0, len(body), _BODY_CHUNK):
            self.replacebody(body[start : start + _BODY_CHUNK])

    def _answer(self, reply: Reply) -> int:
        # libmilter reads the text as a format.
        self.setreply(str(reply.code), reply.enhanced, reply.text.replace("%", "%%"))
        return int(Milter.REJECT if reply.code >= 500 else Milter.TEMPFAIL)

    # ---- macros

    def _macro(self, name: str) -> str:
        try:
            return self.getsymval(name) or ""
        except UnicodeDecodeError:
            return ""

    def _tls(self) -> Tls | None:
        version = self._macro("{tls_version}")
        if not version:
            return None
        bits = self._macro("{cipher_bits}")
        # Postfix gives subject and issuer only for a certificate that it has verified.
        subject = self._macro("{cert_subject}")
        return Tls(
            version=version,
            cipher=self._macro("{cipher}"),
            bits=int(bits) if bits.isdecimal() and len(bits) < 6 else 0,
            client_subject=subject,
            client_issuer=self._macro("{cert_issuer}"),
            client_verified=bool(subject),
        )

    def _direction(self, login: str, listener: str) -> Direction:
        if login or listener in self.settings.outbound_listeners:
            return Direction.OUTBOUND
        return Direction.OUTBOUND if inside(self.client_ip, self.relay_networks) else Direction.INBOUND


def serve(
    listener: socket.socket, settings: MilterSettings, relay_networks: tuple[str, ...], gateway: Gateway
) -> None:
    """Serve one listening socket in this process until a signal asks to drain, or SIGTERM to end.

    The caller has blocked SIGTERM, SIGHUP, SIGINT and the two of draining in all threads, for
    libmilter and the drain wait for them, and made no threads before the fork. With `fd:` the
    socket's path outlives the worker.
    """
    load = Load()
    # Does nothing but to interrupt libmilter's wait for connections, see `_drain`.
    signal.signal(signal.SIGURG, lambda _number, _frame: None)
    drain = threading.Thread(
        target=_drain, args=(listener, load, threading.get_ident()), name="drain", daemon=True
    )
    drain.start()
    judges = ThreadPoolExecutor(WAITING * settings.threads, "judge")

    class Bound(Connection):
        pass

    Bound.gateway, Bound.settings, Bound.judges, Bound.load = gateway, settings, judges, load
    Bound.relay_networks = relay_networks
    Milter.factory = Bound
    sys.excepthook = partial(_not_understood, gateway)
    _take_packets(settings.max_size)
    Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS | Milter.CHGBODY | Milter.DELRCPT)
    Milter.runmilter("mailwarden", f"fd:{listener.fileno()}", int(settings.timeout), rmsock=False)
    judges.shutdown(wait=True)


def _not_understood(
    gateway: Gateway, _kind: type[BaseException], error: BaseException, _trace: TracebackType | None
) -> None:
    gateway.log.warning("not understood of the MTA", error=printable(repr(error), 200))


def _take_packets(size: int) -> None:
    """Let libmilter take packets of `size` octets; pymilter has no name for that.

    A field may then be as large as a message, which is judged and held. More than that is no field of
    an MTA that keeps to the message's limit.
    """
    library = ctypes.CDLL(milter.__file__)
    if hasattr(library, "smfi_setmaxdatasize"):  # since Sendmail 8.14
        library.smfi_setmaxdatasize.argtypes = (ctypes.c_size_t,)
        library.smfi_setmaxdatasize(size)


def _drain(listener: socket.socket, load: Load, main: int) -> None:
    """Wait for a signal to drain, let nobody new in, and end the process when it is idle.

    `main` is the thread in which libmilter waits for connections. It looks every five seconds
    whether it is to end, and sooner when a signal interrupts it.
    """
    number = signal.sigwait({DRAIN_CONNECTIONS, DRAIN_MESSAGES})
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind("")  # an abstract name that nobody knows
        nobody.listen(1)
        nobody.setblocking(False)
        # New connections stay with the socket itself, where other workers take them.
        os.dup2(nobody.fileno(), listener.fileno(), inheritable=False)
    load.wait_idle(connections=number == DRAIN_CONNECTIONS)
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(200):
        time.sleep(0.02)
        signal.pthread_kill(main, signal.SIGURG)


def _text(argument: bytes) -> str:
    """Return an argument of MAIL or RCPT as text; what is not UTF-8 stays visible."""
    return argument.decode("utf-8", "backslashreplace")


def _bare(address: str) -> str:
    """Return an envelope address without its angle brackets."""
    return address[1:-1] if address.startswith("<") and address.endswith(">") else address


def _address(text: str) -> str:
    """Return a client address in its normal form, or "" for something else."""
    found = address(text.removeprefix("IPv6:"))
    return "" if found is None else str(found)
