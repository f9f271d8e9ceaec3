# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask a next hop, before a message is taken for it, whether it knows a recipient.

Reads the next hop's answers through the relay client, under short time limits. Only a refusal for
good refuses; whatever else happens, the queue takes the message and finds out later. Answers are
remembered, refusals for a shorter time; a next hop that cannot be reached is not asked for a while.
Asked is from the null sender, and no DATA ever follows.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from gateway.delivery.client import HopLost
from gateway.delivery.ways import opened
from gateway.mail.domains import domain_of

if TYPE_CHECKING:
    from gateway.delivery.client import RelayTimeouts, Transaction
    from gateway.delivery.protocol import HopReply
    from gateway.delivery.routes import Route
    from gateway.delivery.ways import Target, Ways

_REMEMBERED = 20_000  # recipients
_REFUSED_SECONDS = 300.0  # for which a refusal is remembered, at most
_DOWN_SECONDS = 30.0  # for which a next hop that did not answer is not asked
_PATIENCE = 10.0  # seconds that a client waits at RCPT
_KEPT = 4  # connections kept to one next hop
_IDLE = 30.0  # seconds for which a kept connection is used again


class Verifier:
    """Answers about recipients, for one event loop."""

    def __init__(self, hostname: str, ways: Ways, timeouts: RelayTimeouts, seconds: float) -> None:
        self._hostname = hostname
        self._ways = ways
        self._timeouts = timeouts
        self._seconds = seconds
        self._known: OrderedDict[tuple[Target, str], tuple[float, HopReply | None]] = OrderedDict()
        self._down: dict[Target, float] = {}
        self._kept: dict[Target, list[tuple[float, Transaction]]] = {}

    async def refusal(self, recipient: str, route: Route) -> HopReply | None:
        """The next hop's refusal for good of `recipient`, None if there is none."""
        now = time.monotonic()
        target = self._ways.target(route, domain_of(recipient))
        known = self._known.get((target, recipient))
        if known is not None and known[0] > now:
            return known[1]
        if self._down.get(target, 0.0) > now:
            return None
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await self._ask(target, recipient)
        except (HopLost, TimeoutError):
            self._down[target] = time.monotonic() + _DOWN_SECONDS
            return None
        if answer is None or answer.status == "deferred":
            return None
        refused = answer if answer.status == "refused" else None
        seconds = min(self._seconds, _REFUSED_SECONDS) if refused else self._seconds
        self._known[target, recipient] = (now + seconds, refused)
        self._known.move_to_end((target, recipient))
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return refused

    async def _ask(self, target: Target, recipient: str) -> HopReply | None:
        """RCPT's answer; None if the next hop would not hear of a recipient at all. Raises HopLost."""
        transaction = self._idle(target)
        if transaction is not None:
            try:
                return await self._asked(target, transaction, recipient)
            except HopLost:
                pass  # it had been kept for too long
        transaction = await opened(self._ways, target, self._hostname, self._timeouts)
        return await self._asked(target, transaction, recipient)

    async def _asked(self, target: Target, transaction: Transaction, recipient: str) -> HopReply | None:
        options = () if recipient.isascii() else ("SMTPUTF8",)
        done = False
        try:
            first, answers = await transaction.envelope("", (recipient,), options)
            await transaction.reset()
            done = True
        finally:
            if not done:
                transaction.abort()
        kept = self._kept.setdefault(target, [])
        if len(kept) < _KEPT:
            kept.append((time.monotonic(), transaction))
        else:
            transaction.abort()
        return answers[recipient] if first.status == "accepted" else None

    def _idle(self, target: Target) -> Transaction | None:
        kept = self._kept.get(target, [])
        while kept:
            since, transaction = kept.pop()
            if not transaction.lost and time.monotonic() - since < _IDLE:
                return transaction
            transaction.abort()
        return None

    async def close(self) -> None:
        """Close the connections that are kept."""
        kept, self._kept = self._kept, {}
        await asyncio.gather(*(one.close() for those in kept.values() for _, one in those))
