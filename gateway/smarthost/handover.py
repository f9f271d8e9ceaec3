# SPDX-License-Identifier: GPL-2.0-or-later
"""The next hop's side of one client's session: opened at the first recipient, held until the end.

Reads hostile bytes only through the relay client. One transaction has one next hop and one TLS
policy; what the next hop says to MAIL and RCPT is what the client hears. A session with a next
hop that has gone stale before DATA is opened once more; after DATA nothing is tried twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.delivery.client import HopLost
from gateway.delivery.protocol import HopReply
from gateway.delivery.ways import opened
from gateway.mail.domains import domain_of
from gateway.mail.types import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.delivery.client import Transaction
    from gateway.delivery.ways import Target
    from gateway.smarthost.commands import RcptCommand
    from gateway.smarthost.settings import Door

_SEPARATELY = Reply(452, "4.5.3", "This recipient goes elsewhere, send it in a transaction of its own")
_OUR_FIELDS = 4096  # octets that the fields we add may take
NO_ROUTE = Reply(451, "4.3.5", "No next hop is known for this recipient, try again later")


class Handover:
    """Holds at most one session with a next hop; a later message to the same hop uses it again."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._open: Transaction | None = None
        self._open_key: Target | None = None
        self._key: Target | None = None
        self._mail: tuple[str, tuple[str, ...], int] = ("", (), 0)
        self._sent = False  # whether the next hop has our MAIL
        self._failure: Reply | None = None
        self._accepted: list[str] = []
        self._kept: list[str] = []

    @property
    def next_hop(self) -> str:
        """The next hop of this transaction, for the log."""
        return str(self._key) if self._key else ""

    @property
    def server(self) -> tuple[str, str]:
        """Who is at the other end, and the TLS of the session with it."""
        return (str(self._open.hop), self._open.tls) if self._open is not None else ("", "")

    @property
    def accepted(self) -> list[str]:
        """The recipients that were accepted, the next hop's and ours."""
        return self._accepted + self._kept

    def keep(self, recipient: str) -> Reply:
        """Accept a recipient whose mail the judgement takes; no next hop is asked."""
        if recipient not in self._kept:
            self._kept.append(recipient)
        return Reply(250, "2.1.5", "Ok")

    def begin(self, sender: str, options: tuple[str, ...], size: int) -> None:
        """A new transaction of the client."""
        self._mail = (sender, options, size)
        self._key = None
        self._sent = False
        self._failure = None
        self._accepted, self._kept = [], []

    async def offer(self, command: RcptCommand) -> Reply:
        """Ask the next hop for a recipient; the reply to the client's RCPT."""
        recipient = command.recipient
        if recipient in self._accepted:
            return Reply(250, "2.1.5", "Ok")
        # <postmaster> without a domain goes where our first domain goes (RFC 5321 §4.1.1.3).
        address = recipient if "@" in recipient else f"{recipient}@{(*self._door.domains, '')[0].lstrip('.')}"
        route = self._door.routes.route(address)
        if route is None:
            return NO_ROUTE
        key = self._door.ways.target(route, domain_of(address))
        if self._key is None:
            self._key = key
        elif self._key != key:
            return _SEPARATELY
        if self._failure is not None:
            return self._failure
        try:
            try:
                answer = await self._ask(recipient)
            except HopLost:
                if self._open is None:  # it could not be opened at all
                    raise
                # A session kept from the last message, or idle since the last RCPT, may be stale.
                await self.close()
                answer = await self._ask(recipient)
        except HopLost as lost:
            self._door.log.warning("next hop lost", hop=str(route), why=str(lost.reply))
            await self.close()
            self._failure = to_client(lost.reply)
            return self._failure
        if answer.status == "accepted":
            self._accepted.append(recipient)
        return to_client(answer)

    async def _ask(self, recipient: str) -> HopReply:
        """MAIL if the hop has not had it, the recipients it has lost, then this one."""
        if not self._sent or self._open is None or self._open.lost:
            first, _ = await self._prepare(self._accepted)
            if first.status != "accepted":
                self._failure = to_client(first)
                return first
        assert self._open is not None
        return await self._open.rcpt(recipient)

    async def _prepare(self, recipients: Sequence[str]) -> tuple[HopReply, dict[str, HopReply]]:
        """Have a session that knows MAIL and `recipients` and nothing else; its answers."""
        if self._open is not None and (self._open.lost or self._open_key != self._key):
            await self.close()
        if self._open is None:
            assert self._key is not None
            door = self._door
            self._open = await opened(door.ways, self._key, door.hostname, door.settings.relay)
            self._open_key = self._key
        elif self._sent:
            await self._open.reset()
        self._sent = False
        sender, options, size = self._mail
        announced = size + _OUR_FIELDS if size else 0
        first, answers = await self._open.envelope(sender, recipients, options, announced)
        self._sent = first.status == "accepted"
        return first, answers

    async def deliver(self, message: bytes, recipients: tuple[str, ...]) -> dict[str, HopReply]:
        """Send `message` to `recipients`, all of them accepted before; the final answer for each.

        If the next hop now puts off any of them, none is sent to: the client tries all again.
        """
        lost = HopReply(451, "4.4.2", "")
        for _attempt in range(2):
            try:
                return await self._deliver(message, recipients)
            except HopLost as error:
                lost = error.reply
                self._door.log.warning("next hop lost", hop=self.next_hop, why=str(lost))
                await self.close()
        return dict.fromkeys(recipients, lost)

    async def _deliver(self, message: bytes, recipients: tuple[str, ...]) -> dict[str, HopReply]:
        answers: dict[str, HopReply] = {}
        ready = self._open is not None and not self._open.lost and self._sent
        if not ready or self._open is None or tuple(self._open.accepted) != recipients:
            first, answers = await self._prepare(recipients)
            if first.status != "accepted":
                return dict.fromkeys(recipients, first)
            put_off = [reply for reply in answers.values() if reply.status == "deferred"]
            if put_off:
                return dict.fromkeys(recipients, put_off[0])
        assert self._open is not None
        if not self._open.accepted:
            return answers
        final = await self._open.data(message)
        if all(reply.status == "accepted" for reply in final.values()):
            self._sent = False  # the hop's transaction has ended with its 250
        return {r: final.get(r) or answers[r] for r in recipients}

    async def forget(self) -> None:
        """The client's transaction is over without a delivery: the hop must forget it too."""
        self._accepted, self._kept = [], []
        if self._open is not None and self._sent:
            try:
                await self._open.reset()
            except HopLost:
                await self.close()
        self._sent = False

    async def close(self) -> None:
        """End the session with the next hop. Never raises."""
        transaction, self._open, self._open_key, self._sent = self._open, None, None, False
        if transaction is not None:
            await transaction.close()


def to_client(answer: HopReply) -> Reply:
    """What the client hears of a next hop's answer.

    Where we could not reach it, no host of ours is named; a code that makes no sense where it
    stands means "later".
    """
    if answer.status == "accepted":
        return Reply(250, answer.enhanced or "2.1.5", "Ok")
    if answer.status == "refused":
        return Reply(answer.code, answer.enhanced or "5.0.0", answer.text or "Refused by the next hop")
    if not answer.lines:  # ours, not the next hop's
        return Reply(451, answer.enhanced, "The next hop cannot be used now, try again later")
    if not 400 <= answer.code < 500 or answer.code == 421:
        return Reply(451, "4.5.0", "The next hop gave no sensible answer, try again later")
    return Reply(answer.code, answer.enhanced or "4.0.0", answer.text or "Put off by the next hop")
