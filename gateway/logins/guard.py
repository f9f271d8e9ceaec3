# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of passwords off the event loop, and what slows down who guesses them.

Reads names and passwords of strangers. A wrong one is answered late, and later with each one of late from the
same client or for the same login. A client that was wrong too often is not checked for a while; a
login never is shut, since that would let strangers shut it. What is remembered lies in `ledger`, which all
workers share, and whose size is fixed.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gateway.logins.hashes import LONGEST
from gateway.logins.sources import NO, Answer, Credentials
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from gateway.ledger import Ledger
    from gateway.log import Log
    from gateway.logins.sources import Logins

_WAITING = 16  # checks that may wait for each thread
_DOUBLINGS = 3
_LONGEST_NAME = 255


class Guard:
    """For one event loop. `client` is what counts as one client."""

    def __init__(self, logins: Logins, log: Log, ledger: Ledger) -> None:
        self._source = logins.source
        self._settings = settings = logins.settings
        self._log = log
        self._pool = ThreadPoolExecutor(settings.threads, "login")
        self._busy = 0
        self._ledger = ledger

    async def check(self, claim: Credentials, client: str) -> Answer:
        """Whether it is so; "no" comes late."""
        begun = asyncio.get_running_loop().time()
        guessing = f"failures of client {client}"
        if self._failures(guessing) >= self._settings.client_failures:
            answer = Answer("later", why="too many wrong passwords from this client")
        elif self._busy >= _WAITING * self._settings.threads:
            answer = Answer("later", why="too many checks at a time")
        elif not fit(claim):
            answer = NO
        else:
            answer = await self._ask(claim)
        facts = {"login": printable(claim.name, 100), "client": claim.client_ip}
        if answer.status == "yes":
            for name in {answer.login, claim.name.lower()}:
                self._forget(f"failures of login {name}")
            self._log.info("logged in", **facts)
            return answer
        self._log.warning("login failed", **facts, why=answer.why or "wrong name or password")
        if answer.status == "no":
            many = max(self._failed(key) for key in (guessing, f"failures of login {claim.name.lower()}"))
            # From the beginning of the check: how long that took might say whether there is such a name.
            until = begun + self._settings.delay * 2 ** min(many - 1, _DOUBLINGS)
            await asyncio.sleep(max(0.0, until - asyncio.get_running_loop().time()))
        return answer

    async def _ask(self, claim: Credentials) -> Answer:
        loop = asyncio.get_running_loop()
        self._busy += 1
        asked = loop.run_in_executor(self._pool, self._source.check, claim)
        asked.add_done_callback(self._done)
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await asyncio.shield(asked)
        except TimeoutError:
            return Answer("later", why="no answer in time")
        except Exception as error:  # noqa: BLE001  # whatever failed, nobody is let in, and nobody told "wrong"
            # The text of an error may have in it what was sent.
            return Answer("later", why=f"the check failed: {type(error).__name__}")

    def _done(self, asked: asyncio.Future[Answer]) -> None:
        self._busy -= 1
        if not asked.cancelled():
            asked.exception()  # it is not "never retrieved"

    def _failures(self, key: str) -> int:
        with self._ledger as ledger:
            return int(ledger.get(key, asyncio.get_running_loop().time()))

    def _failed(self, key: str) -> int:
        """Count a wrong password; how many there were of late."""
        now = asyncio.get_running_loop().time()
        with self._ledger as ledger:
            many = int(ledger.get(key, now)) + 1
            ledger.put(key, many, now + self._settings.forget_seconds)
        return many

    def _forget(self, key: str) -> None:
        with self._ledger as ledger:
            ledger.drop(key)

    def close(self) -> None:
        """Ask nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def fit(claim: Credentials) -> bool:
    """Whether name and password are such as can be asked for: not empty, of bounded length, no controls."""
    if not claim.name or not claim.password or len(claim.name) > _LONGEST_NAME:
        return False
    # A tab or line break in a name would be a word of its own to Dovecot, and in a log line.
    if not claim.name.isprintable() or "\0" in claim.password:
        return False
    return len(claim.password.encode()) <= LONGEST
