# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue's side of one client's session: recipients are checked, the message is put on disk.

Stands in the place of `handover` where there is a queue. Recipients may have any number of next
hops, and the next hop need not answer now. Whether the sender may be told of a failure later is
settled here, where the verdict is known.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gateway.mail.domains import domain_of, matches
from gateway.mail.headers import printable
from gateway.mail.types import Reply
from gateway.reply import storage_failure
from gateway.smarthost.handover import NO_ROUTE, to_client
from gateway.store.queued import Addressee, Outgoing, pack
from gateway.tls.wish import with_field

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from gateway.delivery.verify import Verifier
    from gateway.mail.types import Mail, Verdict
    from gateway.smarthost.commands import RcptCommand
    from gateway.smarthost.settings import Door

_LARGE = 1_048_576  # octets from which packing is worth a thread
# Signals that say the sender is forged, or the mail malicious: nobody is told that it failed.
_NOT_BOUNCED = frozenset(
    ("VIRUS", "VIRUS_LIMIT", "SPF_FAIL", "SPF_SOFTFAIL", "DMARC_REJECT", "DMARC_QUARANTINE", "DMARC_FAIL")
)


class Intake:
    """One client's envelope, on its way into the queue."""

    def __init__(self, door: Door, verifier: Verifier | None) -> None:
        self._door = door
        self._verifier = verifier
        self._hops: dict[str, str] = {}  # accepted recipients, and their next hops
        self._options: dict[str, tuple[str, ...]] = {}  # and the parameters of their RCPT

    @property
    def accepted(self) -> list[str]:
        """The recipients that were accepted."""
        return list(self._hops)

    def begin(self, sender: str, options: tuple[str, ...], size: int) -> None:
        """A new transaction of the client."""
        del sender, options, size  # they come again with the message
        self._hops, self._options = {}, {}

    def keep(self, recipient: str) -> Reply:
        """Accept a recipient whose mail the judgement takes; it has no next hop."""
        self._hops[recipient] = ""
        return Reply(250, "2.1.5", "Ok")

    async def offer(self, command: RcptCommand) -> Reply:
        """The reply to the client's RCPT."""
        recipient = command.recipient
        if recipient in self._hops:
            return Reply(250, "2.1.5", "Ok")
        # <postmaster> without a domain goes where our first domain goes (RFC 5321 §4.1.1.3).
        address = recipient if "@" in recipient else f"{recipient}@{(*self._door.domains, '')[0].lstrip('.')}"
        hop = self._door.routes.route(address)
        if hop is None:
            return NO_ROUTE
        if self._verifier is not None and matches(domain_of(address), self._door.domains):
            refused = await self._verifier.refusal(recipient, hop)
            if refused is not None:
                return to_client(refused)
        self._hops[recipient] = str(hop)
        self._options[recipient] = command.options
        return Reply(250, "2.1.5", "Ok")

    async def take(self, mail: Mail, verdict: Verdict, message: bytes, pool: Executor) -> Reply:
        """Queue `message` for the recipients that it is relayed to; the reply once it is on disk."""
        assert self._door.submit is not None
        loop = asyncio.get_running_loop()
        packed = await loop.run_in_executor(pool, pack, message) if len(message) > _LARGE else b""
        now = time.time()
        outgoing = Outgoing(
            id=mail.id,
            sender=mail.envelope.mail_from,
            recipients=tuple(
                Addressee(r, self._hops.get(r, ""), self._options.get(r, ())) for r in verdict.relayed
            ),
            message=message,
            created=now,
            expires=now + self._door.lifetime,
            options=with_field(mail.envelope.options, message),
            may_bounce=may_bounce(mail, verdict),
            packed=packed,
        )
        try:
            await asyncio.wrap_future(self._door.submit(outgoing))
        except Exception as error:  # noqa: BLE001  # not on disk, so not promised
            self._door.log.error("message not queued", id=mail.id, error=printable(str(error), 300))
            return storage_failure(mail.id)
        return Reply(250, "2.0.0", f"Ok: accepted (id {mail.id})")  # as where the message is held

    async def forget(self) -> None:
        """The client's transaction is over."""
        self._hops, self._options = {}, {}

    async def close(self) -> None:
        """The client has gone."""
        self._hops, self._options = {}, {}


def may_bounce(mail: Mail, verdict: Verdict) -> bool:
    """Whether the sender may be told that `mail` failed: there is one, and nothing says it is forged."""
    return bool(mail.envelope.mail_from) and not _NOT_BOUNCED.intersection(
        one.name for one in verdict.contributions
    )
