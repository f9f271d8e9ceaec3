# SPDX-License-Identifier: GPL-2.0-or-later
"""IMAP folders in which people put spam, or what was wrongly taken for it (RFC 3501).

Reads what an IMAP server says: a trusted one, but it has strangers' mail, and may be broken. The
standard library's `imaplib` does it: a round is short, blocking and in a thread of its own, so that a
further library would add nothing. Its gaps are closed here: what one answer and all answers may
have in octets is bounded, a timer cuts the connection off at the end of the round's time, names
of folders are encoded and quoted, and a password is said over TLS only, unless the settings say otherwise.

A folder is known by its UIDVALIDITY, and a message by its UID: the highest UID that was read is committed
with the samples, so that a crash neither loses nor doubles anything. Moving comes after that, and
is done again for whatever was read and is still there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import imaplib
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.learning import Labelled, Outcome
from gateway.mail.headers import printable
from gateway.store.database import StoreError
from gateway.store.samples import FOLDER
from gateway.store.writer import this_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.feedback.settings import ImapSettings
    from gateway.learning import Learner
    from gateway.log import Log

READ: Final = 262_144  # octets of a message that are fetched: more than the classifier reads
_LITERAL: Final = READ + 65_536  # octets of one answer's literal
_ALL: Final = 64 << 20  # octets of all answers of a round
_WINDOW: Final = 20_000  # UIDs that one search looks at: its answer is a single line
_WINDOWS: Final = 50  # searches of a folder in a round
_FETCHED: Final = re.compile(rb"\bUID (\d{1,10})\b")
_NUMBER: Final = re.compile(r"\d{1,10}")
_SECRET: Final = 4_096  # octets of a password file


class FolderError(Exception):
    """A folder could not be read; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a folder was read: its UIDVALIDITY, and the highest UID."""

    validity: int = 0
    uid: int = 0


class _Bounded(imaplib.IMAP4):
    """`imaplib` with bounds on what the server may say, and on how long it may take to say it."""

    def __init__(self, deadline: float, host: str, port: int, **how: Any) -> None:
        self._deadline = deadline
        self._said = 0
        self._watched: tuple[threading.Timer, socket.socket] | None = None
        try:
            super().__init__(host, port, **how)
        except BaseException:
            self.release()
            raise

    def watch(self, sock: socket.socket) -> None:
        """Cut the connection off when its time is over, whatever it waits for."""
        # A second descriptor, since that of `sock` goes to TLS; both end with the same connection.
        again = sock.dup()
        timer = threading.Timer(self._deadline, _cut, (again,))
        timer.daemon = True
        timer.start()
        self._watched = timer, again

    def ask_again(self) -> None:
        """Ask what the server can do for who has logged in: `imaplib` knows only what it said before."""
        _, words = self.capability()
        self.capabilities = tuple(str(words[-1] or b"", "ascii", "replace").upper().split())

    def release(self) -> None:
        """Close the connection, however far it came."""
        with contextlib.suppress(OSError, AttributeError):
            self.shutdown()
        if self._watched:
            timer, again = self._watched
            timer.cancel()
            again.close()

    def _create_socket(self, timeout: float | None) -> socket.socket:
        sock = imaplib.IMAP4._create_socket(self, timeout)  # type: ignore[attr-defined]  # noqa: SLF001  # its hook
        self.watch(sock)
        return self.secured(sock)

    def secured(self, sock: socket.socket) -> socket.socket:
        """Put TLS on it, if that is how it starts."""
        return sock

    def read(self, size: int) -> bytes:
        self._count(size, _LITERAL)
        return super().read(size)

    def readline(self) -> bytes:
        line = super().readline()
        self._count(len(line), _ALL)
        return line

    def _count(self, size: int, limit: int) -> None:
        self._said += size
        if size > limit or self._said > _ALL:
            raise self.abort("the server says too much")


class _OverTls(_Bounded):
    """Over TLS from the start."""

    def __init__(self, context: ssl.SSLContext, deadline: float, host: str, port: int, **how: Any) -> None:
        self._context = context
        super().__init__(deadline, host, port, **how)

    def secured(self, sock: socket.socket) -> socket.socket:
        return self._context.wrap_socket(sock, server_hostname=self.host)


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def connection(of: ImapSettings) -> Iterator[imaplib.IMAP4]:
    """A connection with a login. Raises FolderError, imaplib's errors, OSError."""
    password = read_password(Path(of.password_file))
    if of.tls == "tls":
        client: _Bounded = _OverTls(_tls(of), of.deadline, of.host, of.port, timeout=of.timeout)
    else:
        client = _Bounded(of.deadline, of.host, of.port, timeout=of.timeout)
    try:
        if of.tls == "starttls":
            client.starttls(_tls(of))
        if "AUTH=PLAIN" in client.capabilities:  # takes any characters (RFC 4616)
            client.authenticate("PLAIN", lambda _: b"\0" + of.user.encode() + b"\0" + password)
        else:
            client.login(quoted(of.user), password.decode("ascii"))
        client.ask_again()
        yield client
    finally:
        with contextlib.suppress(imaplib.IMAP4.error, OSError):
            client.logout()
        client.release()


def poll(settings: ImapSettings, learner: Learner) -> Outcome | None:
    """Read what is new in the folders of one account, for `learner` to take in.

    Returns what became of it, None if another node is at it. Raises FolderError, StoreError.
    """
    account = f"{settings.user}@{settings.host}"
    lease, who = _name("imap-lease", account), this_process()
    samples = learner.samples
    if not samples.claim_writing(who, settings.deadline + 30, lease):
        return None
    try:
        with connection(settings) as client:
            return _Round(settings, learner, client, account).run()
    except (imaplib.IMAP4.error, OSError, ValueError) as error:
        raise FolderError(f"{printable(account, 100)}: {printable(str(error), 300)}") from error
    finally:
        samples.end_writing(who, lease)


class _Round:
    """One look into the folders of an account."""

    def __init__(self, settings: ImapSettings, learner: Learner, client: imaplib.IMAP4, account: str) -> None:
        self._settings = settings
        self._learner = learner
        self._client = client
        self._account = account
        self._left = settings.batch  # messages that this round may still read

    def run(self) -> Outcome:
        """Read all folders; one that cannot be read is told of when the others are."""
        total = Outcome()
        problems = []
        of = self._settings
        for folder, spam in (*((f, True) for f in of.spam_folders), *((f, False) for f in of.ham_folders)):
            try:
                total.add(self._folder(folder, spam=spam))
            except FolderError as error:
                problems.append(str(error))
        if problems:
            raise FolderError("; ".join(problems))
        return total

    def _folder(self, folder: str, *, spam: bool) -> Outcome:
        samples, of = self._learner.samples, self._settings
        key = _name("imap", f"{self._account}\0{folder}")
        validity, following = self._select(folder)
        position = _position(samples.noted(key))
        if position.validity != validity:
            position = Position(validity)  # the server numbers its messages anew: all are new to us
        source = f"imap:{self._account}"
        room = min(self._left, self._learner.room(source, of.per_day))
        messages, last = [], position.uid
        for uid in self._new(position.uid, following, room):
            messages.append(Labelled(self._fetch(uid), spam, FOLDER, source, recipients=(of.user,)))
            last = uid
        self._left -= len(messages)
        note = (key, f"{validity} {last}")
        outcome = self._learner.receive(messages, of.per_day, note if last != position.uid else None)
        if of.move_to and last:
            self._move(last)
        return outcome

    def _select(self, folder: str) -> tuple[int, int]:
        """Open a folder; its UIDVALIDITY, and the UID that comes next (0: the server does not say)."""
        of = self._settings
        self._ask("SELECT", *self._client.select(mailbox(folder), readonly=not of.move_to), folder)
        values = [self._client.response(name)[1] for name in ("UIDVALIDITY", "UIDNEXT")]
        validity, following = (_number(value) for value in values)
        if not validity:
            raise FolderError(f"{self._account}: {folder}: the server gives no UIDVALIDITY")
        return validity, following

    def _new(self, last: int, following: int, room: int) -> Iterator[int]:
        """Give up to `room` UIDs above `last`, ascending."""
        start = last + 1
        for _ in range(_WINDOWS):
            if room <= 0 or (following and start >= following):
                return
            end = f"{start + _WINDOW - 1}" if following else "*"
            for uid in self._search(f"UID {start}:{end} UNDELETED"):
                if uid > last and room > 0:
                    room -= 1
                    yield uid
            if not following:
                return
            start += _WINDOW

    def _search(self, what: str) -> list[int]:
        words = self._ask("SEARCH", *self._client.uid("SEARCH", what))
        text = b" ".join(word for word in words if isinstance(word, bytes)).decode("ascii", "replace")
        return sorted({int(word) for word in text.split() if _NUMBER.fullmatch(word)})

    def _fetch(self, uid: int) -> bytes:
        """The start of a message; b"" for one that has just gone. It stays unread."""
        answers = self._ask("FETCH", *self._client.uid("FETCH", str(uid), f"(BODY.PEEK[]<0.{READ}>)"))
        for answer in answers:
            if isinstance(answer, tuple) and (said := _FETCHED.search(answer[0])) and int(said[1]) == uid:
                return bytes(answer[1])
        return b""

    def _move(self, last: int) -> None:
        """Move what was read, now or before a crash."""
        of, client = self._settings, self._client
        read = self._search(f"UID 1:{last} UNDELETED")[: 2 * of.batch]
        if not read:
            return
        chosen, target = ",".join(map(str, read)), mailbox(of.move_to)
        if "MOVE" in client.capabilities:  # RFC 6851
            self._ask("MOVE", *client.uid("MOVE", chosen, target), of.move_to)
            return
        self._ask("COPY", *client.uid("COPY", chosen, target), of.move_to)
        self._ask("STORE", *client.uid("STORE", chosen, "+FLAGS.SILENT", r"(\Deleted)"))
        if "UIDPLUS" in client.capabilities:  # without it, others' deleted messages would go as well
            self._ask("EXPUNGE", *client.uid("EXPUNGE", chosen))

    def _ask(self, what: str, status: str, answers: Sequence[object], about: str = "") -> list[object]:
        if status != "OK":
            text = " ".join(a.decode("utf-8", "replace") for a in answers if isinstance(a, bytes))
            raise FolderError(f"{self._account}: {what} {about}: {printable(text, 200)}")
        return [answer for answer in answers if answer is not None]


def mailbox(name: str) -> str:
    """A folder's name as it is sent: modified UTF-7 (RFC 3501 §5.1.3), quoted."""
    pieces: list[str] = []
    for text in re.findall(r"[\x20-\x7e]+|[^\x20-\x7e]+", name):
        if text.isascii():
            pieces.append(text.replace("&", "&-"))
        else:
            encoded = base64.b64encode(text.encode("utf-16-be")).decode().rstrip("=").replace("/", ",")
            pieces.append(f"&{encoded}-")
    return quoted("".join(pieces))


def quoted(text: str) -> str:
    """A quoted string (RFC 3501 §4.3); the settings let no control character in."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'


def read_password(path: Path) -> bytes:
    """The first line of a password file. Raises FolderError if others may read it."""
    try:
        with path.open("rb") as file:
            if path.stat().st_mode & 0o007:
                raise FolderError(f"{path}: everybody may read it; chmod o= it")
            line = file.read(_SECRET).split(b"\n", 1)[0].rstrip(b"\r")
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}") from error
    if not line:
        raise FolderError(f"{path}: its first line is empty, and should be the password")
    return line


def _tls(settings: ImapSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _name(kind: str, what: str) -> str:
    """A name in the store, of 32 characters at most."""
    return f"{kind}-{hashlib.sha256(what.encode()).hexdigest()[:20]}"


def _position(noted: str) -> Position:
    validity, _, uid = noted.partition(" ")
    return Position(int(validity), int(uid)) if uid.isdecimal() and validity.isdecimal() else Position()


def _number(values: list[bytes | None]) -> int:
    text = (values[0] or b"").decode("ascii", "replace") if values else ""
    return int(text) if _NUMBER.fullmatch(text) else 0


def follow(accounts: tuple[ImapSettings, ...], learner: Learner, log: Log) -> None:
    """Look into the folders of all accounts, each at its own interval, for ever."""
    due = dict.fromkeys(range(len(accounts)), 0.0)
    problems: dict[int, str] = {}
    while True:
        for number, settings in enumerate(accounts):
            if time.monotonic() < due[number]:
                continue
            due[number] = time.monotonic() + settings.interval
            try:
                outcome = poll(settings, learner)
                problems.pop(number, None)
                if outcome and (outcome.waiting or outcome.unfit):
                    log.info("folders read", account=settings.user, **outcome.told())
            except (FolderError, StoreError) as error:
                if problems.get(number) != str(error):  # once, not every round
                    problems[number] = str(error)
                    log.error("folders cannot be read", error=str(error))
        time.sleep(1.0)
