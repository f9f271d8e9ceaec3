# SPDX-License-Identifier: GPL-2.0-or-later
"""What checks a name and a password: a file of hashes, Dovecot's auth service, an IMAP server.

Reads names and passwords of strangers, without NUL and bounded in length; the file of the administrator;
and answers of servers that he named, of which each line and all of them are bounded. All of them block,
and are called in threads. No name or password is ever part of an error's text. `directory` is one more.
"""

from __future__ import annotations

import base64
import contextlib
import imaplib
import os
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from gateway.logins.hashes import HashError, is_right, known
from gateway.logins.owners import Owners

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.logins.settings import LoginSettings
    from gateway.mail.mime import MimeLimits

_LINE = 8_192  # octets of one answer of Dovecot's
_LINES = 200  # of them
_TEMPORARY = ("[UNAVAILABLE]", "[LIMIT]", "[INUSE]", "[SERVERBUG]", "[CONTACTADMIN]")  # RFC 5530 §3
HERE = ("localhost", "127.0.0.1", "::1")
_FILE = 16 << 20  # octets of a file of hashes


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody claims to be, and how that is to be proved."""

    name: str
    password: str = field(repr=False)
    client_ip: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether it is so. "later" is what could not be checked; `login` is the name that it is known by."""

    status: Literal["yes", "no", "later"]
    login: str = ""
    why: str = ""  # for the log
    addresses: tuple[str, ...] = ()  # that it may send from, besides what the settings say


class Source(Protocol):
    """Checks credentials. Blocks; raises OSError, ValueError or `imaplib`'s errors where it cannot."""

    def check(self, claim: Credentials) -> Answer:
        """Whether the password is that of the name."""


NO = Answer("no")


@dataclass(frozen=True, slots=True)
class Logins:
    """Who may log in: what checks passwords, and who may send as whom."""

    settings: LoginSettings
    source: Source
    owners: Owners


def load(settings: LoginSettings, limits: MimeLimits) -> Logins | None:
    """What `settings` name, None if that is nobody. Raises OSError, ValueError: file, line and mend."""
    return Logins(settings, _source(settings), Owners(settings, limits)) if settings.users else None


def _source(settings: LoginSettings) -> Source:
    kind, _, place = settings.users.partition(":")
    if kind == "file":
        return HashFile(dict(_entries(Path(place))))
    if kind == "dovecot":
        return Dovecot(place, settings.timeout)
    if kind.startswith("ldap"):
        try:
            from gateway.logins.directory import directory  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise ValueError(f"LDAP needs {error.name}: pip install 'mailwarden[ldap]'") from error
        return directory(settings)
    host, port = host_and_port(place, 993 if kind == "imaps" else 143)
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    return Imap(host, port, kind == "imaps", context, settings.timeout)


# ---------------------------------------------------------------- a file of hashes


@dataclass(frozen=True, slots=True)
class HashFile:
    """Hashes by name, lower case."""

    users: dict[str, str] = field(repr=False)

    def check(self, claim: Credentials) -> Answer:
        """Compare with the hash; a name that is not there takes as long as one that is."""
        name = claim.name.lower()
        hashed = self.users.get(name)
        some = hashed or next(iter(self.users.values()), "")
        right = is_right(claim.password.encode(), some) if some else False
        return Answer("yes", name) if right and hashed is not None else NO


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """Names and hashes of a file with lines "name:hash"; what follows a second colon is left alone."""
    with path.open("rb") as file:
        text = file.read(_FILE + 1)
    if len(text) > _FILE:
        raise ValueError(f"{path}: larger than {_FILE} octets")
    seen: set[str] = set()
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, rest = line.partition(":")
        name = name.strip().lower()
        if not name or not colon:
            raise ValueError(f'{path}:{number}: not "name:hash"')
        if name in seen:
            raise ValueError(f"{path}:{number}: this name is there already")
        seen.add(name)
        try:
            yield name, known(rest.partition(":")[0].strip())
        except HashError as error:
            raise ValueError(f"{path}:{number}: {error}") from None


# ---------------------------------------------------------------- Dovecot


@dataclass(frozen=True, slots=True)
class Dovecot:
    """Dovecot's auth service, by its protocol for clients (version 1), one connection for each check."""

    place: str  # "/path" or "host:port"
    timeout: float

    def check(self, claim: Credentials) -> Answer:
        """Ask with the mechanism PLAIN."""
        end = time.monotonic() + self.timeout
        with self._connected() as connection:
            connection.sendall(f"VERSION\t1\t1\nCPID\t{os.getpid()}\n".encode())
            lines = _lines(connection, end)
            for line in lines:
                if line == "DONE":
                    break
                if line.startswith("VERSION\t") and not line.startswith("VERSION\t1\t"):
                    raise ValueError("Dovecot speaks another version")
            response = base64.b64encode(f"\0{claim.name}\0{claim.password}".encode()).decode()
            client = f"\trip={claim.client_ip}" if claim.client_ip else ""
            # "nologin": no other process of Dovecot's is to take this login over; "resp" must be last.
            asked = f"AUTH\t1\tPLAIN\tservice=smtp\tsecured{client}\tnologin\tresp={response}\n"
            connection.sendall(asked.encode())
            for line in lines:
                verb, *words = line.split("\t")
                if words[:1] == ["1"] and verb in ("OK", "FAIL", "CONT"):
                    return _dovecot_says(verb, words[1:], claim)
        raise ValueError("Dovecot closed without an answer")

    def _connected(self) -> socket.socket:
        if not self.place.startswith("/"):
            return socket.create_connection(host_and_port(self.place, 0), self.timeout)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(self.place)
        except OSError:
            connection.close()
            raise
        return connection


def _dovecot_says(verb: str, words: list[str], claim: Credentials) -> Answer:
    facts = dict(word.partition("=")[::2] for word in words)
    if verb == "OK":
        return Answer("yes", (facts.get("user") or claim.name).lower())
    if "temp" in facts or facts.get("code") == "temp_fail":
        return Answer("later", why="Dovecot cannot tell now")
    return NO


def _lines(connection: socket.socket, end: float) -> Iterator[str]:
    """Lines of an answer, until `end` by the monotonic clock. Raises OSError, ValueError."""
    buffer = b""
    for _ in range(_LINES):
        while b"\n" not in buffer:
            if len(buffer) > _LINE:
                raise ValueError("an answer that is too long")
            connection.settimeout(max(0.01, end - time.monotonic()))
            more = connection.recv(_LINE)
            if not more:
                return
            buffer += more
        line, _, buffer = buffer.partition(b"\n")
        yield line.decode("utf-8", "replace")
    raise ValueError("too many answers")


# ---------------------------------------------------------------- IMAP


@dataclass(frozen=True, slots=True)
class Imap:
    """An IMAP server to which the login must be good; nothing is said to it before TLS is up."""

    host: str
    port: int
    implicit: bool
    context: ssl.SSLContext
    timeout: float

    def check(self, claim: Credentials) -> Answer:
        """Log in with AUTHENTICATE PLAIN (RFC 4616), so that every character may be in a password."""
        server = self._connected()
        try:
            server.authenticate("PLAIN", lambda _: f"\0{claim.name}\0{claim.password}".encode())
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            said = str(error).upper()
            if any(code in said for code in _TEMPORARY):
                return Answer("later", why="the IMAP server cannot tell now")
            return NO
        finally:
            _closed(server)
        return Answer("yes", claim.name.lower())

    def _connected(self) -> imaplib.IMAP4:
        if self.implicit:
            return imaplib.IMAP4_SSL(self.host, self.port, ssl_context=self.context, timeout=self.timeout)
        server = imaplib.IMAP4(self.host, self.port, timeout=self.timeout)
        if "STARTTLS" in server.capabilities:
            try:
                server.starttls(ssl_context=self.context)
            except BaseException:
                _closed(server)
                raise
        elif self.host not in HERE:
            _closed(server)
            raise ValueError("the IMAP server offers no STARTTLS")
        return server


def _closed(server: imaplib.IMAP4) -> None:
    with contextlib.suppress(OSError):  # it may be closed already
        server.shutdown()


def host_and_port(place: str, port: int) -> tuple[str, int]:
    """Host and port of "host:port", "[address]:port" or "host". Raises ValueError."""
    host, colon, number = place.rpartition(":")
    if not colon or "]" in number:
        host, number = place, str(port)
    if not number.isdecimal() or not 0 < int(number) < 65_536:
        raise ValueError(f'"{place}" is not host:port')
    return host.strip("[]"), int(number)
