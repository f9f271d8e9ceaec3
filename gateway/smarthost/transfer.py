# SPDX-License-Identifier: GPL-2.0-or-later
"""From the end of DATA to the reply: judge, then queue (or relay), hold or refuse.

Reads the message only to count Received fields; everything else is the judgement's. The client
gets its 250 when the queue or the quarantine has the message durably; without a queue, when the
next hop has taken it.
"""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.mail.edits import apply
from gateway.mail.headers import printable
from gateway.mail.types import ON_ITS_WAY, Action, Mail, Outcome, Reply, Thresholds, Verdict, Versions
from gateway.reply import failure, reply_to, storage_failure
from gateway.smarthost.handover import to_client
from gateway.smarthost.intake import Intake
from gateway.smarthost.trace import received_count, received_field
from gateway.store.deliveries import Delivery, Ended

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from gateway.delivery.protocol import HopReply
    from gateway.smarthost.handover import Handover
    from gateway.smarthost.settings import Door


async def transfer(
    mail: Mail, door: Door, pool: Executor, hop: Handover | Intake, *, extended: bool, judged: bool = True
) -> Reply:
    """Judge `mail` and do what the verdict says; the reply to the end of DATA.

    What is not to be `judged` goes on as it is.
    """
    if received_count(mail.raw) > door.settings.hop_limit:
        await hop.forget()
        return Reply(554, "5.4.6", f"Too many hops, this looks like a loop (id {mail.id})")
    loop = asyncio.get_running_loop()
    try:
        if judged:
            async with asyncio.timeout(door.settings.judge_timeout):
                verdict, reply = await loop.run_in_executor(pool, door.judgement.judge, mail)
        else:
            verdict, reply = _unjudged(mail, door)
    except Exception as error:  # noqa: BLE001  # whatever failed, the client hears "later" and never "clean"
        door.log.error("judging failed", id=mail.id, error=printable(repr(error), 300))
        await hop.forget()
        return failure(mail.id)
    if verdict.action not in ON_ITS_WAY:
        await hop.forget()
        return reply
    if not verdict.relayed:
        # Nobody is left to relay to. With all of them held, the reply stands; else who has it?
        await hop.forget()
        everybody_held = set(verdict.held) == set(mail.envelope.recipients)
        return reply if everybody_held else failure(mail.id)
    field = received_field(mail, door.hostname, extended=extended)
    message = field + apply(mail.raw, verdict.edits, verdict.cuts)
    if isinstance(hop, Intake):
        return await hop.take(mail, verdict, message, pool)
    answers = await hop.deliver(message, verdict.relayed)
    _note(mail, answers, hop, door)
    await hop.forget()
    outcome = await _settle(mail, verdict, reply, answers, door, pool)
    door.log.info(
        "relayed" if outcome.code < 300 else "not relayed",
        id=mail.id,
        hop=hop.next_hop,
        delivered=sum(a.status == "accepted" for a in answers.values()),
        recipients=len(answers),
        reply=str(outcome),
        answer=printable(str(next(iter(answers.values()))), 300),
    )
    return outcome


def _note(mail: Mail, answers: dict[str, HopReply], hop: Handover, door: Door) -> None:
    """Have it written down what the next hop said; a client that is put off comes again."""
    server, tls = hop.server
    for recipient, answer in answers.items():
        if answer.status != "deferred":
            ended = Ended.DELIVERED if answer.status == "accepted" else Ended.REFUSED
            now, told = time.time(), str(answer)
            door.judgement.note(Delivery(mail.id, recipient, ended, hop.next_hop, server, tls, told, 1, now))


def _unjudged(mail: Mail, door: Door) -> tuple[Verdict, Reply]:
    """What lets a message through at which nobody has looked."""
    never = Thresholds(math.inf, math.inf, math.inf)
    verdict = Verdict(
        id=mail.id,
        action=Action.RELAY,
        outcomes=tuple(Outcome(r, Action.RELAY, 0.0, never) for r in mail.envelope.recipients),
        score=0.0,
        reason="",
        reason_text="not judged",
        contributions=(),
        edits=(),
        versions=Versions(program=__version__, policy="", model="none"),
    )
    door.log.info("not judged", id=mail.id, client=mail.session.client_ip, sender=mail.envelope.mail_from)
    return verdict, reply_to(verdict)


async def _settle(
    mail: Mail, verdict: Verdict, reply: Reply, answers: dict[str, HopReply], door: Door, pool: Executor
) -> Reply:
    """One reply for all recipients: whoever is not delivered to after others were is kept here."""
    failed = {r: answer for r, answer in answers.items() if answer.status != "accepted"}
    if not failed:
        return reply
    if len(failed) == len(answers):
        deferred = [answer for answer in failed.values() if answer.status == "deferred"]
        said = to_client((deferred or list(failed.values()))[0])
        return Reply(said.code, said.enhanced, f"{said.text} (id {mail.id})")
    why = str(next(iter(failed.values())))
    hold = partial(door.judgement.hold_undelivered, mail, verdict, tuple(failed), why)
    try:
        await asyncio.get_running_loop().run_in_executor(pool, hold)
    except Exception as error:  # noqa: BLE001  # not kept, so not promised: rather doubled than lost
        door.log.error("undelivered copy not held", id=mail.id, error=printable(repr(error), 300))
        return storage_failure(mail.id)
    return reply
