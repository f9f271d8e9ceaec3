# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask clamd about a message and the further readings of it (INSTREAM, clamd(8)).

Reads clamd's answers, which carry names from signature files; sends hostile bytes, never reads
them. The `clamd` package (1.0.2) is wrapped here, and no other module knows it. Kept of it are
its connection class, command sending, `version()` and error classes; guarded are:

* its import: it loads pkg_resources (0.16 s) only to learn its own version, so that is withheld;
* connecting: it connects without a time-out, and its TCP class knows IPv4 only (`_init_socket`);
* reading: it takes a line of any length, takes the end of the stream for the end of a line and
  waits anew for each byte; here an answer is bounded, whole, and due by the deadline
  (`_recv_response`);
* `instream()`: it returns None when clamd closes early, raises a bare BrokenPipeError over
  StreamMaxLength, uses send() where sendall() is due, sends 1 KB chunks (25 MB: 0.27 s instead
  of 0.01 s) and needs a connection for each part. `scan()` here sends 256 KB chunks, and several
  parts in one IDSESSION;
* its parser: it accepts "anything: any words OK"; here only the exact "stream: OK" is clean;
* its socket lives in the instance, so there is one instance for each scan.

Whatever is not an exact "OK" for each part is "infected", "limit" or "error", never "clean".
clamd itself says OK to what exceeds its MaxScanSize and its kin, unless clamd.conf has
`AlertExceedsMax yes`; then it answers Heuristics.Limits.Exceeded, and that is a "limit" here.
With `AlertEncrypted yes` it answers Heuristics.Encrypted, and that is "encrypted": no infection.
"""

from __future__ import annotations

import hashlib
import re
import struct
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.mail.types import Scan
from gateway.scanners.address import Address, connect, parse_address
from gateway.scanners.breaker import Breaker
from gateway.settings import Count, Positive, Seconds, Settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

_withheld = "pkg_resources" not in sys.modules
if _withheld:
    sys.modules["pkg_resources"] = None  # type: ignore[assignment]  # None makes its import fail, which clamd catches
import clamd  # noqa: E402  # after the guard above

if _withheld:
    del sys.modules["pkg_resources"]

CHUNK = 256 * 1024
MAX_ANSWER = 16 * 1024
MAX_NAME = 200
_PROBE = b"Subject: probe\r\n\r\n"

_ID = re.compile(r"[1-9][0-9]{0,8}")
_FOUND = re.compile(r"stream: (.*) FOUND", re.DOTALL)
_SIZE_LIMIT = "size limit exceeded"
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MADE = re.compile(r"/\d+/[A-Z][a-z]{2} ([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4})\Z")


@lru_cache(maxsize=64)
def signatures_made(engine: str) -> float:
    """When the signatures were made, in seconds since 1970, of the answer to VERSION; 0.0 if unknown.

    clamd writes local time without its zone, so this may be off by hours.
    """
    found = _MADE.search(engine)
    if found is None or found[1] not in _MONTHS:
        return 0.0
    day, hour, minute, second, year = map(int, found.groups()[1:])
    try:
        made = datetime(year, _MONTHS.index(found[1]) + 1, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return 0.0
    return max(0.0, made.timestamp())


class ClamdSettings(Settings, frozen=True):
    """Virus scanning by clamd."""

    # Whether messages are scanned at all.
    enabled: bool = True
    # Where clamd listens: "unix:/path" or "host:port". Several are tried in this order.
    addresses: tuple[str, ...] = ("unix:/run/clamav/clamd.ctl",)
    # Seconds to wait for a connection, and for the answer to a probe.
    connect_timeout: Seconds = 2
    # Seconds for a whole scan. With several addresses each gets its share of what is left.
    timeout: Seconds = 30
    # Octets above which a message is not sent but counts as "limit". Keep it at or below
    # StreamMaxLength of clamd.conf.
    max_size: Positive = 25_000_000
    # Seconds between probes of an address that failed three times in a row; until one is good, no message
    # waits for it.
    rest: Seconds = 5
    # Seconds after which the version of engine and signatures is asked for again.
    version_interval: Seconds = 60
    # Days from which signatures count as stale: a metric, a log line an hour, and the signal VIRUS_STALE.
    max_age_days: Positive = 7
    # Results remembered by digest and signature version; 0 remembers none. One is used only if the server
    # says the same version at that moment; the version tells of ClamAV's own signatures alone, so with others
    # a result may be as old as those. Two deliveries are hardly ever the same to the octet.
    cache_size: Count = 0

    def __post_init__(self) -> None:
        for text in self.addresses:
            parse_address(text)
        if self.enabled and not self.addresses:
            raise ValueError("addresses must not be empty while clamd is enabled")


class Clamd:
    """The clamd servers of one configuration. Safe for threads; opens no socket before a scan."""

    def __init__(self, settings: ClamdSettings) -> None:
        self._settings = settings
        self._servers = [_Server(parse_address(text), settings) for text in settings.addresses]
        self._cache: OrderedDict[bytes, Scan] = OrderedDict()
        self._cache_lock = threading.Lock()

    def scan(self, parts: Sequence[bytes], deadline: float) -> Scan:
        """Scan a message: `parts` are its raw bytes and its further readings.

        `deadline` is a value of time.monotonic(). Never raises for what a server does.
        """
        if not self._settings.enabled:
            return Scan("off")
        wanted = list(dict.fromkeys(part for part in parts if part))
        small = [part for part in wanted if len(part) <= self._settings.max_size]
        if not wanted:
            return Scan("error", detail="nothing to scan")
        result = self._scan_small(small, deadline) if small else Scan("clean")
        if self.is_stale(result.engine, time.time()):
            result = replace(result, stale=True)
        if len(small) < len(wanted) and result.status in ("clean", "limit", "encrypted"):
            detail = f"more than {self._settings.max_size} octets"
            return replace(result, status="limit", name="", detail=detail)
        return result

    def is_stale(self, engine: str, now: float) -> bool:
        """Whether the signatures of `engine` are too old; not if they do not tell their age."""
        made = signatures_made(engine)
        return bool(made) and now - made > self._settings.max_age_days * 86_400

    def versions(self, deadline: float) -> dict[str, str]:
        """Ask each server for its version, "" if it does not tell: by address, as the settings write it."""
        found = {}
        for server in self._servers:
            try:
                found[str(server.address)] = server.version(deadline)
            except (OSError, clamd.ClamdError):
                found[str(server.address)] = ""
        return found

    def _scan_small(self, parts: Sequence[bytes], deadline: float) -> Scan:
        """Try one server after the other until one has an answer."""
        end = min(deadline, time.monotonic() + self._settings.timeout)
        failures = []
        for position, server in enumerate(self._servers):
            now = time.monotonic()
            until = now + (end - now) / (len(self._servers) - position)
            if not server.breaker.ready():
                failures.append(f"{server.address}: left alone after failures")
                continue
            result = self._ask(server, parts, until)
            if result.status != "error":
                return result
            failures.append(f"{server.address}: {result.detail}")
        return Scan("error", detail="; ".join(failures)[:500])

    def _ask(self, server: _Server, parts: Sequence[bytes], until: float) -> Scan:
        """Ask one server, or the memory of what it said."""
        try:
            engine = server.version(until)
            key = _key(parts, engine) if self._settings.cache_size and engine else b""
            known = self._recall(key)
            if known is not None:  # what a server that is down once said is no verdict
                if server.asked(until) == engine:
                    return known
                key = b""
            connection = _Connection(server.address, self._settings.connect_timeout, until)
            answers = connection.scan(parts)
        except (OSError, clamd.ClamdError) as error:
            server.breaker.failed()
            return Scan("error", detail=_printable(str(error) or type(error).__name__))
        server.breaker.succeeded()
        result = _worst([_classify(answer, engine) for answer in answers])
        if key and result.status in ("clean", "infected"):
            self._remember(key, result)
        return result

    def _recall(self, key: bytes) -> Scan | None:
        if not key:
            return None
        with self._cache_lock:
            known = self._cache.get(key)
            if known is not None:
                self._cache.move_to_end(key)
            return known

    def _remember(self, key: bytes, result: Scan) -> None:
        with self._cache_lock:
            self._cache[key] = result
            if len(self._cache) > self._settings.cache_size:
                self._cache.popitem(last=False)


class _Server:
    """One address, whether it is worth trying, and the version it last told."""

    def __init__(self, address: Address, settings: ClamdSettings) -> None:
        self.address = address
        self.breaker = Breaker(settings.rest, self._scans)
        self._connect_timeout = settings.connect_timeout
        self._interval = settings.version_interval
        self._version = ""
        self._due = 0.0
        self._lock = threading.Lock()

    def _scans(self) -> bool:
        """Whether it scans a few octets in the time for a connection; PING is answered while scans hang."""
        until = time.monotonic() + self._connect_timeout
        try:
            answers = _Connection(self.address, self._connect_timeout, until).scan((_PROBE,))
        except (OSError, clamd.ClamdError):
            return False
        return _classify(answers[0], "").status == "clean"

    def version(self, until: float) -> str:
        """Engine and signature version, at most `version_interval` old; "" if it does not tell.

        Raises OSError. Other servers that speak INSTREAM may not know VERSION: the scan decides.
        """
        if time.monotonic() < self._due or not self._lock.acquire(blocking=False):
            return self._version
        try:
            self._version = self.asked(until)
            self._due = time.monotonic() + self._interval
        finally:
            self._lock.release()
        return self._version

    def asked(self, until: float) -> str:
        """Ask for the version now. Raises OSError."""
        try:
            answer = _Connection(self.address, self._connect_timeout, until).version()
        except clamd.ResponseError:
            return ""
        return _printable(answer)[:MAX_NAME] if answer.startswith("ClamAV ") else ""


class _Connection(clamd.ClamdNetworkSocket):  # type: ignore[misc]  # the package has no types
    """One connection for one command or one session, every step of it due by `until`."""

    def __init__(self, address: Address, connect_timeout: float, until: float) -> None:
        super().__init__(address.host, address.port)
        self._address = address
        self._connect_timeout = connect_timeout
        self._until = until
        self.clamd_socket: socket.socket

    def _left(self) -> float:
        """Seconds left; raises TimeoutError when there are none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def _init_socket(self) -> None:
        self.clamd_socket = connect(self._address, min(self._connect_timeout, self._left()))
        self.clamd_socket.settimeout(self._left())

    def _recv_response(self) -> str:
        """One line, the answer to the package's own commands ("n" commands)."""
        return self._answers(1, b"\n")[0]

    def scan(self, parts: Sequence[bytes]) -> list[str]:
        """Return the answer to each part, in order, without the ids of a session.

        Raises OSError or clamd.ClamdError when not every part was answered.
        """
        self._init_socket()
        try:
            count = len(parts)
            try:
                for frame in _frames(parts):
                    self.clamd_socket.settimeout(self._left())
                    self.clamd_socket.sendall(frame)
            except (BrokenPipeError, ConnectionResetError):
                pass  # clamd closes over StreamMaxLength, and has usually said so before
            answers = self._answers(count, b"\0")
        finally:
            self._close_socket()
        return answers if count == 1 else _in_order(answers, count)

    def _answers(self, count: int, end: bytes) -> list[str]:
        """Read `count` answers ended by `end`; fewer if the stream is closed or reset after one."""
        received = b""
        while received.count(end) < count:
            self.clamd_socket.settimeout(self._left())
            try:
                data = self.clamd_socket.recv(MAX_ANSWER)
            except ConnectionResetError:
                data = b""
            if not data:
                break
            received += data
            if len(received) > MAX_ANSWER + 1024 * count:
                raise clamd.ResponseError("the answer is too long")
        *whole, rest = received.split(end)
        if rest or not whole:
            what = "broke off its answer" if received else "closed without an answer"
            raise clamd.ResponseError(f"clamd {what}")
        if len(whole) > count:
            raise clamd.ResponseError("clamd answered more than it was asked")
        return [answer.decode("ascii", "replace") for answer in whole]


def _frames(parts: Sequence[bytes]) -> Iterator[bytes]:
    """What to send: a small part in one piece, and a session around several parts."""
    before = b"" if len(parts) == 1 else b"zIDSESSION\0"
    for part in parts:
        before += b"zINSTREAM\0"
        view = memoryview(part)
        for start in range(0, len(part), CHUNK):
            chunk = view[start : start + CHUNK]
            after = b"\0\0\0\0" if start + CHUNK >= len(part) else b""
            yield b"".join((before, struct.pack("!L", len(chunk)), chunk, after))
            before = b""


def _in_order(answers: Sequence[str], count: int) -> list[str]:
    """Sort the answers of a session, "2: stream: OK" and so on, and take off their ids.

    Raises clamd.ResponseError if one is missing, unless a size limit ended the session.
    """
    by_id: dict[int, str] = {}
    for answer in answers:
        number, colon, text = answer.partition(": ")
        if not colon or not _ID.fullmatch(number) or int(number) in by_id or int(number) > count:
            raise clamd.ResponseError(f"clamd answered {_printable(answer)[:MAX_NAME]!r} in a session")
        by_id[int(number)] = text
    ordered = [by_id[number] for number in sorted(by_id)]
    if len(ordered) < count and not any(_SIZE_LIMIT in answer for answer in ordered):
        raise clamd.ResponseError(f"clamd answered {len(ordered)} of {count} parts")
    return ordered


def _classify(answer: str, engine: str) -> Scan:
    """What one answer means."""
    if answer == "stream: OK":
        return Scan("clean", engine=engine)
    if found := _FOUND.fullmatch(answer):
        name = _printable(found[1].strip())[:MAX_NAME] or "unnamed"
        # An infection is named otherwise: clamd goes on looking for one behind these.
        if name.startswith("Heuristics.Limits."):
            return Scan("limit", detail=name, engine=engine)
        if name.startswith("Heuristics.Encrypted."):
            return Scan("encrypted", detail=name, engine=engine)
        return Scan("infected", name=name, detail=name, engine=engine)
    shown = _printable(answer)[:MAX_NAME]
    if _SIZE_LIMIT in answer:
        return Scan("limit", detail=shown, engine=engine)
    return Scan("error", detail=f"answered {shown!r}", engine=engine)


_WORST = ("infected", "error", "limit", "encrypted", "clean")


def _worst(results: Sequence[Scan]) -> Scan:
    """The result that decides: an infection in any part, then what was not answered."""
    return min(results, key=lambda result: _WORST.index(result.status))


def _key(parts: Sequence[bytes], engine: str) -> bytes:
    digest = hashlib.sha256(engine.encode())
    for part in parts:
        digest.update(struct.pack("!Q", len(part)))
        digest.update(part)
    return digest.digest()


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("?", text[:MAX_ANSWER])
