# SPDX-License-Identifier: GPL-2.0-or-later
"""One session's login: who it is, how often it was wrong, and what it may send.

Reads hostile bytes through `sasl` and `logins`; a password goes to the check, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.logins.sources import Credentials
from gateway.mail.headers import printable
from gateway.mail.types import Reply
from gateway.reply import failure
from gateway.smarthost.commands import CommandError
from gateway.smarthost.sasl import claimed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.mail.types import Mail
    from gateway.smarthost.worker import Guest, Worker

_WELCOME = Reply(235, "2.7.0", "Authentication successful")
_LATER = Reply(454, "4.7.0", "Temporary authentication failure")
_WRONG = Reply(535, "5.7.8", "Authentication credentials invalid")
_ENOUGH = Reply(421, "4.7.0", "Too many failed logins")
_FOREIGN = Reply(550, "5.7.1", "Sender address is not yours")


class Login:
    """`name` is who has logged in, "" before."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._failures = 0
        self.name = ""
        self._addresses: tuple[str, ...] = ()

    async def auth(
        self, rest: str, session: Guest, ask: Callable[[str], Awaitable[bytes | None]]
    ) -> Reply | None:
        """The reply to AUTH (RFC 4954 §4), None where the session has ended; `ask` as in `claimed`."""
        guard, logins = self._worker.guard, self._worker.door.logins
        assert guard is not None
        assert logins is not None
        try:
            found = await claimed(rest, ask)
        except CommandError as error:
            reply = error.reply
        else:
            if found is None:
                return None
            answer = await guard.check(Credentials(*found, session.peer), session.client)
            if answer.status == "yes":
                self.name, self._addresses = answer.login, answer.addresses
                return _WELCOME
            reply = _LATER if answer.status == "later" else _WRONG
        self._failures += 1
        return _ENOUGH if self._failures >= logins.settings.session_failures else reply

    def foreign_sender(self, sender: str) -> Reply | None:
        """The refusal of a sender that is not this login's; None without a login."""
        logins = self._worker.door.logins
        if not self.name or logins is None or logins.owners.owns(self.name, sender, self._addresses):
            return None
        return _FOREIGN

    async def foreign_author(self, mail: Mail) -> Reply | None:
        """The refusal of a message whose From belongs to somebody else; None without a login."""
        door = self._worker.door
        if not self.name or door.logins is None:
            return None
        owners, loop = door.logins.owners, self._worker.loop
        try:
            why = await loop.run_in_executor(
                self._worker.pool, owners.foreign_author, self.name, mail.raw, self._addresses
            )
        except Exception as error:  # noqa: BLE001  # what was not looked at is not allowed
            door.log.error("judging failed", id=mail.id, error=printable(repr(error), 300))
            return failure(mail.id)
        if not why:
            return None
        door.count("refused")
        door.log.info("refused", id=mail.id, login=self.name, author=printable(why, 200))
        return Reply(550, "5.7.1", f"From is not an address of yours (id {mail.id})")
