# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients: several SMTP sessions at once that hand in messages, and try again as mail servers do.

Each message has a recipient of its own, so that what arrives can be told apart without a mark in it.
"""

from __future__ import annotations

import queue
import smtplib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrib.bench.corpus import sender_of

if TYPE_CHECKING:
    from collections.abc import Sequence

DOMAIN = "example.org"
_PAUSE = 0.3  # seconds before the next try


@dataclass(frozen=True, slots=True)
class Handed:
    """What became of one message at the door: the last reply, and how often it was tried."""

    number: int
    code: int
    tries: int


def recipient(number: int) -> str:
    """Return the recipient of message `number`."""
    return f"m{number:05}@{DOMAIN}"


def hand_in(port: int, messages: Sequence[bytes], sessions: int, tries: int = 20) -> list[Handed]:
    """Send all messages from `sessions` clients at once; return what became of each, in order.

    After `tries` temporary failures a client gives up.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(messages)):
        waiting.put(number)
    results: list[Handed] = []

    def work(client: int) -> None:
        session = _Session(port, client)
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                session.close()
                return
            results.append(_until_taken(session, number, messages[number], tries))

    threads = [threading.Thread(target=work, args=(client,)) for client in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(results, key=lambda handed: handed.number)


def _until_taken(session: _Session, number: int, message: bytes, limit: int) -> Handed:
    """Try again after 4xx and after a lost connection."""
    code = 0
    for tries in range(1, limit + 1):
        code = session.send(recipient(number), message)
        if code == 250 or code >= 500:
            return Handed(number, code, tries)
        time.sleep(_PAUSE)
    return Handed(number, code, limit)


class _Session:
    """One client with one connection, as a stranger's mail server: XCLIENT gives it an address."""

    def __init__(self, port: int, client: int) -> None:
        self._port = port
        self._address = f"203.0.113.{client + 1}"
        self._smtp: smtplib.SMTP | None = None

    def send(self, to: str, message: bytes) -> int:
        """Return the decisive reply code; 421 where the connection was lost."""
        try:
            smtp = self._smtp = self._smtp or self._connected()
            code, _ = smtp.mail(sender_of(message), ["BODY=8BITMIME"])
            if code == 250:
                code, _ = smtp.rcpt(to)
            if code == 250:
                code, _ = smtp.data(message)
            if code != 250:
                smtp.rset()
        except (OSError, smtplib.SMTPException):
            self.close()
            return 421
        return code

    def close(self) -> None:
        """Leave."""
        smtp, self._smtp = self._smtp, None
        if smtp:
            smtp.close()

    def _connected(self) -> smtplib.SMTP:
        smtp = smtplib.SMTP("127.0.0.1", self._port, local_hostname="client.example.net", timeout=120)
        smtp.ehlo()
        smtp.docmd("XCLIENT", f"ADDR={self._address} NAME=[UNAVAILABLE] HELO=client.example.net")
        smtp.ehlo()
        return smtp
