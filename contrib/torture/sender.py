# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that hand in messages without end, each with an id of its own, and remember what they heard."""

from __future__ import annotations

import contextlib
import itertools
import random
import smtplib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOMAIN = "example.org"
_SIZES = (300, 1_000, 4_000, 20_000, 100_000)
_PAUSE = 0.05  # seconds after which a client tries again
_TIMEOUT = 60.0  # seconds for a reply
_PATIENCE = 120.0  # seconds for which what was begun is tried again, once no more is begun


@dataclass(slots=True)
class Heard:
    """What clients were told: ids of messages by their last reply, and the number of attempts.

    `taken` says when, in seconds since 1970. What is in neither set was never answered for good.
    """

    taken: dict[str, float] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    attempts: int = 0


class Senders:
    """`sessions` clients that send as fast as they can, or `rate` messages a second in all."""

    def __init__(
        self,
        port: int,
        sessions: int,
        rate: float = 0.0,
        *,
        people: int = 1,
        first: int = 0,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """`first` is the number of the first message; none is begun while `enough` are on their way."""
        self.heard = Heard()
        self._port = port
        self._pause = sessions / rate if rate else 0.0
        self._enough = enough
        self._people = people  # recipients of a message, each under the same id
        self._numbers: Iterator[int] = itertools.count(first)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._giving_up = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(sessions)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop(0.0 if kind else _PATIENCE)

    def stop(self, seconds: float = _PATIENCE) -> None:
        """Begin no more messages, and end with those that were begun; more than once does no harm.

        A server that does not answer for so many seconds never will: what it was given stays unanswered.
        """
        self._stopping.set()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._giving_up.set()
        for thread in self._threads:
            thread.join(_TIMEOUT)  # of the command it is in the midst of

    def _work(self, number: int) -> None:
        chance = random.Random(number)
        smtp: smtplib.SMTP | None = None
        while not self._stopping.is_set():
            if self._enough():
                self._stopping.wait(0.1)
                continue
            with self._lock:
                name = f"m{next(self._numbers):07}"
                self.heard.sent.add(name)
            message = _message(name, chance)
            code = 0
            # A message that was begun is sent until it is answered, as a mail server does.
            while (code < 200 or 400 <= code < 500) and not self._giving_up.is_set():
                self.heard.attempts += 1
                try:
                    if smtp is None:
                        smtp = smtplib.SMTP("127.0.0.1", self._port, "client.example.net", timeout=_TIMEOUT)
                        smtp.ehlo()
                    code = self._hand_in(smtp, name, message)
                except (OSError, smtplib.SMTPException):
                    if smtp is not None:
                        smtp.close()
                    smtp, code = None, 0
                if code != 250:
                    time.sleep(_PAUSE)
            with self._lock:
                if code == 250:
                    self.heard.taken[name] = time.time()
                elif code >= 500:
                    self.heard.refused.add(name)
            if self._pause:
                self._stopping.wait(self._pause)
        if smtp is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                smtp.quit()

    def _hand_in(self, smtp: smtplib.SMTP, name: str, message: bytes) -> int:
        code, _ = smtp.mail("sender@example.net")
        for person in range(self._people):
            if code == 250:
                code, _ = smtp.rcpt(f"{name}+{person}@{DOMAIN}")
        if code == 250:
            code, _ = smtp.data(message)
        if code != 250:
            smtp.rset()
        return code


def _message(name: str, chance: random.Random) -> bytes:
    lines = chance.choice(_SIZES) // 60
    body = "".join(f"{chance.getrandbits(220):056x}\r\n" for _ in range(lines))
    head = (
        f"From: sender@example.net\r\nTo: {name}@{DOMAIN}\r\nSubject: {name}\r\n"
        f"Date: Mon, 5 Jan 2026 10:00:00 +0000\r\nMessage-ID: <{name}@example.net>\r\n\r\n"
    )
    return (head + body + f"end of {name}\r\n").encode()
