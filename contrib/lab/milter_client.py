# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of the milter protocol that speaks to a filter as Postfix 3.7 does.

It negotiates version 6, sends the macros of each stage, every event the filter did not decline,
and several messages over one connection; it collects replies and changes, and returns what the
client would be told and what would be queued (see `cleanup.py`).
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from contrib.lab.cleanup import Change, ProtocolError, changed, split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.mail.types import Session

ALL_ACTIONS = 0x1FF
ALL_PROTOCOL = 0x1FFFFF
HDR_LEADSPC = 0x100000
CHUNK = 65_535

# event: (packet, "do not send" flag, "no reply" flag)
_EVENTS = {
    "connect": (b"C", 0x1, 0x1000),
    "helo": (b"H", 0x2, 0x2000),
    "mail": (b"M", 0x4, 0x4000),
    "rcpt": (b"R", 0x8, 0x8000),
    "data": (b"T", 0x200, 0x10000),
    "header": (b"L", 0x20, 0x80),
    "eoh": (b"N", 0x40, 0x40000),
    "body": (b"B", 0x10, 0x80000),
    "eom": (b"E", 0, 0),
}
# Postfix 3.7's default macro lists; a filter replaces one with SETSYMLIST.
_MACROS = {
    "connect": ("j", "{daemon_name}", "{daemon_addr}", "{daemon_port}", "v"),
    "helo": ("{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}", "{cert_issuer}"),
    "mail": ("i", "{auth_type}", "{auth_authen}", "{auth_author}", "{mail_addr}", "{mail_host}"),
    "rcpt": ("i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"),
    "data": ("i",),
    "eom": ("i",),
    "eoh": ("i",),
}
_SYMLIST_STAGES = ("connect", "helo", "mail", "rcpt", "data", "eom", "eoh")
_REJECT = "550 5.7.1 Command rejected"
_TEMPFAIL = "451 4.7.1 Service unavailable - try again later"
_CODE = re.compile(r"[45][0-9][0-9] .*", re.DOTALL)

Status = Literal["accept", "reject", "tempfail", "discard"]


@dataclass(frozen=True, slots=True)
class Peer:
    """The SMTP client on whose behalf Postfix asks. `macros` adds to and overrides the usual ones."""

    address: str = "192.0.2.1"  # "" stands for none, as in local submission
    name: str = "client.example.net"
    helo: str = "client.example.net"
    port: int = 25_252
    daemon_name: str = "mx.example.org"
    login: str = ""
    tls: Mapping[str, str] = field(default_factory=dict)  # {tls_version} and so on
    macros: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, session: Session) -> Peer:
        """Return the peer for a session of the gateway's."""
        tls = {}
        if session.tls:
            tls = {
                "{tls_version}": session.tls.version,
                "{cipher}": session.tls.cipher,
                "{cipher_bits}": str(session.tls.bits or ""),
                "{cert_subject}": session.tls.client_subject,
                "{cert_issuer}": session.tls.client_issuer,
            }
        return cls(
            address=session.client_ip,
            name=session.client_name or (f"[{session.client_ip}]" if session.client_ip else "localhost"),
            helo=session.helo,
            daemon_name=session.listener or "mx.example.org",
            login=session.login,
            tls=tls,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message: what the client is told, and what would be queued."""

    status: Status
    reply: str  # what Postfix answers the client at the stage that decided
    stage: str
    message: bytes  # with all changes applied; as sent if it was not accepted
    mail_from: str
    recipients: tuple[str, ...]  # those the message still goes to
    refused: Mapping[str, str] = field(default_factory=dict)  # recipient: reply
    quarantine: str | None = None
    changes: tuple[Change, ...] = ()
    progress: int = 0
    broken: bool = False  # the filter hung up: Postfix's milter_default_action=tempfail


class MilterClient:
    """One connection of Postfix to a filter at a unix path or (host, port).

    `body_chunk` is the size of body packets; `write_size` cuts what is written into pieces of so
    many octets (0: whole packets).
    """

    def __init__(
        self,
        address: str | tuple[str, int],
        *,
        timeout: float = 30.0,
        body_chunk: int = CHUNK,
        write_size: int = 0,
        protocol: int = ALL_PROTOCOL,
    ) -> None:
        self._stream = socket.socket(
            socket.AF_UNIX if isinstance(address, str) else socket.AF_INET, socket.SOCK_STREAM
        )
        self._body_chunk = body_chunk
        self._write_size = write_size
        self._lists: dict[str, tuple[str, ...]] = dict(_MACROS)
        self._macros: dict[str, str] = {}
        self._count = 0
        self._skip = False  # the filter wants no more of the body
        try:
            self._stream.settimeout(timeout)
            self._stream.connect(address)
            if not isinstance(address, str):
                self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._negotiate(protocol)
        except BaseException:
            self._stream.close()
            raise

    # ------------------------------------------------------------ the session

    def open(self, peer: Peer | None = None) -> Outcome | None:
        """Send CONNECT and HELO; None if the filter goes on, else what the client is told."""
        peer = peer or Peer()
        self._macros = {
            "j": "mx.example.org",
            "v": "Postfix 3.7.11",
            "{daemon_name}": peer.daemon_name,
            "{daemon_addr}": "127.0.0.1",
            "{daemon_port}": "25",
            "{auth_authen}": peer.login,
            "{auth_type}": "PLAIN" if peer.login else "",
            **peer.tls,
            **peer.macros,
        }
        family = b"6" if ":" in peer.address else b"4" if peer.address else b"U"
        connect = peer.name.encode() + b"\0" + family
        if peer.address:
            connect += struct.pack("!H", peer.port) + peer.address.encode() + b"\0"
        helo = peer.helo.encode("utf-8", "surrogateescape") + b"\0"
        for stage, data in (("connect", connect), ("helo", helo)):
            decision = self._ask(stage, data)
            if decision:
                status, reply = decision
                return Outcome(status, reply, stage, b"", "", ())
        return None

    def send(
        self,
        mail_from: str,
        recipients: Sequence[str],
        raw: bytes,
        options: Sequence[str] = (),
        queue_id: str = "",
    ) -> Outcome:
        """Offer one message (CRLF line ends); may be called again on the same connection."""
        self._count += 1
        transaction = _Transaction(mail_from, tuple(recipients), raw, leadspc=self._leadspc)
        try:
            return self._transact(transaction, options, queue_id or f"4Lab{self._count:08X}")
        except OSError:
            return transaction.outcome("tempfail", _TEMPFAIL, broken=True)

    def abort(self) -> None:
        """End a transaction, as at RSET."""
        self._write(b"A", b"")

    def close(self) -> None:
        """End the session, as at QUIT."""
        try:
            self._write(b"Q", b"")
        except OSError:
            pass  # the filter has gone already
        finally:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ one message

    def _transact(self, transaction: _Transaction, options: Sequence[str], queue_id: str) -> Outcome:
        macros = self._macros
        self._macros = {key: value for key, value in macros.items() if key != "i"}
        decided = self._envelope(transaction, options, queue_id) or self._content(transaction)
        if decided:
            if transaction.stage != "eom":
                self.abort()
            return decided
        return self._end(transaction)

    def _envelope(self, transaction: _Transaction, options: Sequence[str], queue_id: str) -> Outcome | None:
        self._macros["{mail_addr}"] = transaction.mail_from
        self._macros["{mail_host}"] = transaction.mail_from.rpartition("@")[2]
        decided = self._step(transaction, "mail", _strings(f"<{transaction.mail_from}>", *options))
        if decided:
            return decided
        for recipient in transaction.recipients:
            self._macros["{rcpt_addr}"] = recipient
            self._macros["{rcpt_host}"] = recipient.rpartition("@")[2]
            self._macros["{rcpt_mailer}"] = "smtp"
            transaction.stage = "rcpt"
            decision = self._ask("rcpt", _strings(f"<{recipient}>"))
            if decision and decision[0] in ("reject", "tempfail"):
                transaction.refused[recipient] = decision[1]
                continue
            self._macros["i"] = queue_id  # there is none before the first accepted recipient
            if decision:
                return transaction.outcome(*decision)
        if len(transaction.refused) == len(transaction.recipients):
            reply = next(iter(transaction.refused.values()), "554 5.5.1 Error: no valid recipients")
            return transaction.outcome("reject" if reply.startswith("5") else "tempfail", reply)
        return self._step(transaction, "data", b"")

    def _content(self, transaction: _Transaction) -> Outcome | None:
        for raw in transaction.fields:
            name, _, value = raw.partition(b":")
            if not self._leadspc:
                value = value.removeprefix(b" ")
            data = name + b"\0" + value.replace(b"\r\n", b"\n") + b"\0"
            decided = self._step(transaction, "header", data)
            if decided:
                return decided
        decided = self._step(transaction, "eoh", b"")
        if decided:
            return decided
        self._skip = False
        body = transaction.body or b""
        for start in range(0, len(body), self._body_chunk):
            decided = self._step(transaction, "body", body[start : start + self._body_chunk])
            if decided or self._skip:
                return decided
        return None

    def _step(self, transaction: _Transaction, stage: str, data: bytes) -> Outcome | None:
        transaction.stage = stage
        decision = self._ask(stage, data)
        return transaction.outcome(*decision) if decision else None

    def _end(self, transaction: _Transaction) -> Outcome:
        """Send end-of-message and read changes until the final reply."""
        transaction.stage = "eom"
        self._send_event("eom", b"")
        while True:
            code, data = self._read()
            if code == b"p":
                transaction.progress += 1
            elif code in _CHANGES:
                transaction.changes.append(_change(code, data))
            else:
                status, reply = _decision(code, data) or ("accept", "250 2.0.0 Ok: queued")
                return transaction.outcome(status, reply)

    # ------------------------------------------------------------ the wire

    def _negotiate(self, protocol: int) -> None:
        self._write(b"O", struct.pack("!III", 6, ALL_ACTIONS, protocol))
        code, data = self._read()
        if code != b"O" or len(data) < 12:
            raise ProtocolError(f"no answer to option negotiation: {code!r}")
        version, actions, wanted = struct.unpack("!III", data[:12])
        if version > 6 or actions & ~ALL_ACTIONS or wanted & ~protocol:
            raise ProtocolError(f"the filter wants what was not offered: {version} {actions:#x} {wanted:#x}")
        self.actions, self.protocol = actions, wanted
        self._leadspc = bool(wanted & HDR_LEADSPC)
        rest = data[12:]
        while rest:
            stage = struct.unpack("!I", rest[:4])[0]
            names, _, rest = rest[4:].partition(b"\0")
            self._lists[_SYMLIST_STAGES[stage]] = tuple(re.split(r"[\s,]+", names.decode("ascii").strip()))

    def _ask(self, stage: str, data: bytes) -> tuple[Status, str] | None:
        """Send an event unless declined; None if the filter goes on."""
        if not self._send_event(stage, data) or self.protocol & _EVENTS[stage][2]:
            return None
        code, reply = self._read()
        while code == b"p":
            code, reply = self._read()
        if code == b"s" and stage == "body":
            self._skip = True
            return None
        return _decision(code, reply)

    def _send_event(self, stage: str, data: bytes) -> bool:
        packet, declined, _ = _EVENTS[stage]
        if self.protocol & declined:
            return False
        pairs = [
            text
            for name in self._lists.get(stage, ())
            if self._macros.get(name)
            for text in (name, self._macros[name])
        ]
        if pairs:
            self._write(b"D", packet + _strings(*pairs))
        self._write(packet, data)
        return True

    def _write(self, code: bytes, data: bytes) -> None:
        packet = struct.pack("!I", len(data) + 1) + code + data
        size = self._write_size or len(packet)
        for start in range(0, len(packet), size):
            self._stream.sendall(packet[start : start + size])

    def _read(self) -> tuple[bytes, bytes]:
        (length,) = struct.unpack("!I", self._exactly(4))
        packet = self._exactly(length)
        return packet[:1], packet[1:]

    def _exactly(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            data = self._stream.recv(count - len(received))
            if not data:
                raise ConnectionResetError("the filter hung up")
            received += data
        return received


# ---------------------------------------------------------------- replies and changes

_CHANGES: Mapping[bytes, str] = {
    b"h": "add",
    b"i": "insert",
    b"m": "change",
    b"-": "delrcpt",
    b"+": "addrcpt",
    b"2": "addrcpt",
    b"b": "body",
    b"e": "from",
    b"q": "quarantine",
}


def _strings(*texts: str) -> bytes:
    return b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in texts)


def _decision(code: bytes, data: bytes) -> tuple[Status, str] | None:
    """Return what a reply decides; None for "go on"."""
    if code == b"c":
        return None
    if code == b"a":
        return "accept", "250 2.0.0 Ok: queued"
    if code == b"d":
        return "discard", "250 2.0.0 Ok: queued"
    if code == b"r":
        return "reject", _REJECT
    if code in (b"t", b"4"):
        return "tempfail", _TEMPFAIL
    if code == b"y":
        reply = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        if not _CODE.fullmatch(reply) or "\0" in reply:
            raise ProtocolError(f"not an SMTP reply: {reply!r}")
        # libmilter passes on the doubled percent signs that it asks for
        return ("reject" if reply.startswith("5") else "tempfail"), reply.replace("%%", "%")
    raise ProtocolError(f"unexpected reply {code!r}")


def _change(code: bytes, data: bytes) -> Change:
    kind = _CHANGES[code]
    if kind == "body":
        return Change("body", value=data)
    index = 0
    if kind in ("insert", "change"):
        (index,) = struct.unpack("!I", data[:4])
        data = data[4:]
    name, _, value = data.removesuffix(b"\0").partition(b"\0")
    text = name.decode("utf-8", "surrogateescape")
    return Change(kind, name=text, value=value, index=index)  # type: ignore[arg-type]  # a key of _CHANGES


class _Transaction:
    """What is sent, and what the filter does to it."""

    def __init__(self, mail_from: str, recipients: tuple[str, ...], raw: bytes, *, leadspc: bool) -> None:
        self.leadspc = leadspc
        self.mail_from = mail_from
        self.recipients = recipients
        self.raw = raw
        self.fields, self.body = split(raw)
        self.refused: dict[str, str] = {}
        self.changes: list[Change] = []
        self.progress = 0
        self.stage = "mail"

    def outcome(self, status: Status, reply: str, *, broken: bool = False) -> Outcome:
        """Return the outcome; changes count only for an accepted message."""
        kept = status == "accept"
        left = [recipient for recipient in self.recipients if recipient not in self.refused]
        mail_from = self.mail_from
        quarantine = None
        for change in self.changes if kept else ():
            if change.kind == "delrcpt":
                left = [recipient for recipient in left if recipient != change.name.strip("<>")]
            elif change.kind == "addrcpt":
                left.append(change.name.strip("<>"))
            elif change.kind == "from":
                mail_from = change.name.strip("<>")
            elif change.kind == "quarantine":
                quarantine = change.name
        return Outcome(
            status=status,
            reply=reply,
            stage=self.stage,
            message=changed(self.fields, self.body, self.changes, leadspc=self.leadspc) if kept else self.raw,
            mail_from=mail_from,
            recipients=tuple(left) if kept else (),
            refused=dict(self.refused),
            quarantine=quarantine,
            changes=tuple(self.changes),
            progress=self.progress,
            broken=broken,
        )
