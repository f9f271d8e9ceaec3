# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask SpamAssassin's spamd for a score and the names of the rules that hit (SPAMC/1.5, SYMBOLS).

Reads spamd's answers, whose rule names follow hostile mail; they are bounded and must be whole.
Sends hostile bytes, never reads them.

This is a client of our own because spamassassin-client cannot be used: release 0.0.4 installs no
module at all, and 0.0.3 knows only REPORT on a fixed 127.0.0.1:783, without unix sockets.

spamd's answer is never more than points: an "error" is not "no spam", and policy weighs it.
"""

from __future__ import annotations

import re
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from gateway.mail.types import SpamCheck
from gateway.scanners.address import Address, connect, parse_address
from gateway.scanners.breaker import Breaker
from gateway.settings import Positive, Seconds, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ANSWER = 64 * 1024
MAX_SYMBOLS = 500

_STATUS = re.compile(rb"SPAMD/[0-9.]{1,8} ([0-9]{1,4}) ([!-~ ]{1,200})")
_PONG = re.compile(rb"SPAMD/[0-9.]{1,8} 0 PONG\r\n")
_LENGTH = re.compile(rb"Content-length: ?([0-9]{1,7})", re.IGNORECASE)
_NUMBER = rb"(-?[0-9]{1,9}(?:\.[0-9]{1,6})?)"
_SPAM = re.compile(rb"Spam: (?:True|False|Yes|No) ; " + _NUMBER + rb" / " + _NUMBER, re.IGNORECASE)
_SYMBOL = re.compile(r"[A-Za-z0-9_]{1,100}")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")
_USER = re.compile(r"[A-Za-z0-9._@+-]{0,128}")


class SpamdSettings(Settings, frozen=True):
    """Scoring by SpamAssassin's spamd."""

    # Whether spamd is asked.
    enabled: bool = False
    # Where spamd listens: "host:port" or "unix:/path". Several are tried in this order.
    addresses: tuple[str, ...] = ("127.0.0.1:783",)
    # The user whose preferences spamd applies; "" leaves it to spamd.
    user: str = ""
    # Seconds to wait for a connection, and for the answer to a probe.
    connect_timeout: Seconds = 2
    # Seconds for a whole check. With several addresses each gets its share of what is left.
    timeout: Seconds = 30
    # Octets of a message that spamd is shown; of a longer one it sees the first so many.
    max_size: Positive = 512_000
    # Seconds between probes of an address that failed three times in a row; until one is good, no message
    # waits for it.
    rest: Seconds = 5

    def __post_init__(self) -> None:
        for text in self.addresses:
            parse_address(text)
        if self.enabled and not self.addresses:
            raise ValueError("addresses must not be empty while spamd is enabled")
        if not _USER.fullmatch(self.user):
            raise ValueError(f"not a user name: {self.user!r}")


class _ProtocolError(Exception):
    """spamd said something else than an answer."""


class Spamd:
    """The spamd servers of one configuration. Safe for threads; opens no socket before a check."""

    def __init__(self, settings: SpamdSettings) -> None:
        self._settings = settings
        self._servers = [
            (address, Breaker(settings.rest, partial(self._answers, address)))
            for address in map(parse_address, settings.addresses)
        ]

    def check(self, message: bytes, deadline: float) -> SpamCheck:
        """Check one raw message. `deadline` is a value of time.monotonic().

        Never raises for what a server does.
        """
        if not self._settings.enabled:
            return SpamCheck("off")
        end = min(deadline, time.monotonic() + self._settings.timeout)
        failures = []
        for position, (address, breaker) in enumerate(self._servers):
            now = time.monotonic()
            until = now + (end - now) / (len(self._servers) - position)
            if not breaker.ready():
                failures.append(f"{address}: left alone after failures")
                continue
            try:
                answer = self._ask(address, message, until)
                breaker.succeeded()
                return self._read(answer, cut=len(message) > self._settings.max_size)
            except OSError as error:
                breaker.failed()
                failures.append(f"{address}: {_printable(str(error) or type(error).__name__)}")
            except _ProtocolError as error:
                failures.append(f"{address}: {error}")
        return SpamCheck("error", detail="; ".join(failures)[:500])

    def _ask(self, address: Address, message: bytes, until: float) -> bytes:
        """Send the message and return the whole answer, read to the end of the stream."""
        shown = memoryview(message)[: self._settings.max_size]
        head = f"SYMBOLS SPAMC/1.5\r\nContent-length: {len(shown)}\r\n"
        if self._settings.user:
            head += f"User: {self._settings.user}\r\n"
        return self._converse(address, b"".join((head.encode("ascii"), b"\r\n", shown)), until)

    def _answers(self, address: Address) -> bool:
        """Whether a child of spamd answers in the time for a connection."""
        until = time.monotonic() + self._settings.connect_timeout
        try:
            said = self._converse(address, b"PING SPAMC/1.2\r\n\r\n", until)
        except (OSError, _ProtocolError):
            return False
        return _PONG.fullmatch(said) is not None

    def _converse(self, address: Address, request: bytes, until: float) -> bytes:
        with connect(address, min(self._settings.connect_timeout, _left(until))) as stream:
            stream.settimeout(_left(until))
            stream.sendall(request)
            stream.shutdown(socket.SHUT_WR)
            received = b""
            while len(received) <= MAX_ANSWER:
                stream.settimeout(_left(until))
                data = stream.recv(MAX_ANSWER)
                if not data:
                    return received
                received += data
        raise _ProtocolError("the answer is too long")

    def _read(self, answer: bytes, *, cut: bool) -> SpamCheck:
        """Read a whole answer; raises _ProtocolError for any other."""
        head, blank, body = answer.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        if not status:
            raise _ProtocolError("not an answer of spamd" if answer else "closed without an answer")
        if int(status[1]) != 0:
            raise _ProtocolError(f"answered {int(status[1])} {status[2].decode('ascii')}")
        spam = _only(_SPAM, lines)
        length = _only(_LENGTH, lines)
        if not blank or not spam or not length or int(length[1]) != len(body):
            raise _ProtocolError("broke off its answer, or left out a part of it")
        score, required = float(spam[1]), float(spam[2])
        symbols = body.decode("ascii", "replace").strip().split(",")
        known = [symbol for symbol in map(str.strip, symbols) if _SYMBOL.fullmatch(symbol)]
        detail = f"saw the first {self._settings.max_size} octets" if cut else ""
        return SpamCheck(
            "ok", score=score, required=required, symbols=tuple(known[:MAX_SYMBOLS]), detail=detail
        )


def _only(pattern: re.Pattern[bytes], lines: Sequence[bytes]) -> re.Match[bytes] | None:
    """Return the match of the one line that matches; None if there is none or another."""
    matches = [match for match in map(pattern.fullmatch, lines) if match]
    return matches[0] if len(matches) == 1 else None


def _left(until: float) -> float:
    """Seconds left; raises TimeoutError when there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("?", text[:500])
