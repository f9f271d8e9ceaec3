# SPDX-License-Identifier: GPL-2.0-or-later
"""Deliver one message to one target, and say for each recipient what became of it.

Reads the next hop's answers through `client`; every outcome is a value, never an exception.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gateway.delivery.client import HopLost
from gateway.delivery.protocol import declared
from gateway.delivery.ways import opened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.delivery.client import RelayTimeouts
    from gateway.delivery.protocol import HopReply
    from gateway.delivery.ways import Target, Ways


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """What became of one recipient. `text` is printable ASCII, at most 400 characters."""

    status: Literal["delivered", "deferred", "refused"]
    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


def result(reply: HopReply) -> RecipientResult:
    """The outcome that a next hop's answer stands for."""
    status = "delivered" if reply.status == "accepted" else reply.status
    return RecipientResult(status, reply.code, reply.enhanced, reply.text)


async def relay(
    target: Target,
    ways: Ways,
    envelope_sender: str,
    recipients: Sequence[str],
    message: bytes,
    *,
    helo: str,
    options: Sequence[str] = (),
    timeouts: RelayTimeouts | None = None,
) -> dict[str, RecipientResult]:
    """Send `message` (CRLF line ends) and return the outcome for each recipient. Never raises.

    `options` are the ESMTP parameters of MAIL that the message came with; only SMTPUTF8 and
    BODY matter. "deferred" after the end of the data may still have been delivered
    (RFC 1047): trying again can double a message, and never loses it.
    """
    wanted = tuple(dict.fromkeys(recipients))
    try:
        transaction = await opened(ways, target, helo, timeouts)
    except HopLost as lost:
        return dict.fromkeys(wanted, result(lost.reply))
    replies: Mapping[str, HopReply] = {}
    try:
        first, replies = await transaction.envelope(
            envelope_sender,
            wanted,
            declared(options, transaction.extensions, message),
            len(message),
            message=message,
        )
        if first.status != "accepted":
            return dict.fromkeys(wanted, result(first))
        if transaction.accepted:
            replies = {**replies, **await transaction.data(message)}
    except HopLost as lost:
        refused = {r: reply for r, reply in replies.items() if reply.status == "refused"}
        return {r: result(refused.get(r, lost.reply)) for r in wanted}
    finally:
        await transaction.close()
    return {recipient: result(replies[recipient]) for recipient in wanted}


def relay_sync(
    target: Target,
    ways: Ways,
    envelope_sender: str,
    recipients: Sequence[str],
    message: bytes,
    *,
    helo: str,
    options: Sequence[str] = (),
    timeouts: RelayTimeouts | None = None,
) -> dict[str, RecipientResult]:
    """`relay` for a thread that runs no event loop, such as the command line."""
    return asyncio.run(
        relay(
            target,
            ways,
            envelope_sender,
            recipients,
            message,
            helo=helo,
            options=options,
            timeouts=timeouts,
        )
    )
