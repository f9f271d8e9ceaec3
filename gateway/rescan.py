# SPDX-License-Identifier: GPL-2.0-or-later
"""Held mail judged once more, by today's signatures, rules and model.

Reads hostile bytes, as judging does. What was true when the message came stays as it was found then (SPF,
DKIM, DMARC, ARC, reverse DNS); the scanners, the lists and the classifier are asked anew. Each item keeps its
verdicts. A new verdict is recorded; whether it releases or deletes is a setting, and malware that is
found now is always a reason to hold.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from gateway.auth.settings import AuthSettings
from gateway.gather import Sources, gather
from gateway.mail.mime import parse
from gateway.mail.types import ON_ITS_WAY, Mail
from gateway.pipeline import classify, versions, with_documents
from gateway.policy.decide import STRIPPED, decide
from gateway.policy.examine import examine
from gateway.store import held
from gateway.store.database import StoreError
from gateway.store.decisions import RefusedError
from gateway.store.held import Judgement
from gateway.store.search import Search
from gateway.store.states import OURSELVES, UNDELIVERED, WAITING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.mail.types import Verdict
    from gateway.pipeline import Gateway
    from gateway.policy.rescan import RescanSettings
    from gateway.store.held import Item
    from gateway.store.quarantine import Quarantine

INFECTED = "VIRUS"
PAGE = 100  # items read at once
# Held for what no look at the message can answer.
_NOT_SEEN = frozenset({UNDELIVERED, STRIPPED})
_QUIET = AuthSettings(spf=False, dkim=False, dmarc=False, arc=False, iprev=False)


@dataclass(frozen=True, slots=True)
class Rescanned:
    """What a look at one item gave."""

    item: str
    verdict: Verdict
    passes: bool  # all its recipients would get it by now
    infection: str  # what the virus scanner found, "" for nothing
    did: Literal["recorded", "released", "deleted"] = "recorded"


def rescan(
    gateway: Gateway, quarantine: Quarantine, item: Item, settings: RescanSettings, stamp: str = ""
) -> Rescanned:
    """Judge an item that waits once more, keep the verdict, and do what the settings want.

    `stamp` is kept as what judged it, if not what the verdict itself says; where another node kept the same
    meanwhile, that one acts. Raises StoreError for an item whose content is gone.
    """
    original = quarantine.original(item.id)
    judged = quarantine.judgements(item.id)
    if not judged:  # it went between the two
        raise StoreError(f"{item.id} holds no message any more")
    mail = Mail(item.id, original.session, original.envelope, original.raw, item.received, item.queue_id)
    content = parse(mail.raw, gateway.limits)
    found, words = gather(mail, content, _sources(gateway.sources), time.monotonic() + gateway.deadline)
    then = judged[0].evidence
    evidence = replace(found, spf=then.spf, dkim=then.dkim, dmarc=then.dmarc, arc=then.arc, iprev=then.iprev)
    spam = classify(mail, with_documents(content, evidence, words), gateway)
    signals = examine(mail, content, evidence, spam, gateway.policy)
    verdict = decide(signals, mail, gateway.policy, versions(gateway))
    waiting = {one.address.lower() for one in item.recipients if one.state in WAITING}
    stopped = {o.recipient.lower() for o in verdict.outcomes if o.action not in ON_ITS_WAY}
    passes = not waiting & stopped and not _NOT_SEEN & set(item.reasons)
    infection = evidence.antivirus.name if evidence.antivirus.status == "infected" else ""
    if infection:  # first: whoever dies before the verdict is kept looks again
        quarantine.decisions.convict(item.id, INFECTED, OURSELVES.name, f"by a re-scan: {infection}")
    done = Rescanned(item.id, verdict, passes, infection)
    if not quarantine.judged_again(item.id, Judgement(time.time(), evidence, signals, verdict), stamp):
        return done
    return replace(done, did=_act(quarantine, done, settings))


def rescan_all(
    gateway: Gateway, quarantine: Quarantine, engine: str, settings: RescanSettings
) -> Iterator[Rescanned]:
    """Judge all that waits and was not judged by these signatures (`engine`), rules and model.

    Goes through them page by page, newest first. Several nodes do so at once, and may differ in all three:
    each page is in an order of its own, and what another has judged meanwhile is left out.
    """
    current, before = held.stamp_of(versions(gateway), engine), ""
    while page := quarantine.search(Search(state=WAITING, before=before, limit=PAGE)):
        behind = [item for item in page if current not in held.stamps(item.judged_by)]
        for item in random.sample(behind, len(behind)):
            found = quarantine.find(item.id)
            if found is None or found.state not in WAITING or current in held.stamps(found.judged_by):
                continue
            try:
                yield rescan(gateway, quarantine, found, settings, current)
            except StoreError:
                left = quarantine.find(item.id)
                if left is not None and left.state in WAITING:
                    raise  # it did not go away meanwhile
        before = page[-1].id


def _act(
    quarantine: Quarantine, done: Rescanned, settings: RescanSettings
) -> Literal["recorded", "released", "deleted"]:
    if done.infection and settings.infected == "delete":
        gone = quarantine.delete(done.item, OURSELVES, why=f"a re-scan found {done.infection}")
        return "deleted" if gone else "recorded"
    if done.passes and not done.infection and settings.clean == "release":
        try:  # of what a reviewer denied nothing goes: that no outweighs a program's yes
            quarantine.decisions.schedule(
                done.item, None, OURSELVES, due=time.time(), why="a re-scan lets it pass"
            )
        except RefusedError:
            return "recorded"
        return "released"
    return "recorded"


def _sources(sources: Sources) -> Sources:
    """Those who are asked again: nobody about the sender, and nobody about tokens."""
    return Sources(
        resolver=sources.resolver,
        auth=_QUIET,
        antivirus=sources.antivirus,
        spamd=sources.spamd,
        check_token=None,
        pool=sources.pool,
        hostname=sources.hostname,
        unpacker=sources.unpacker,
        slots=sources.slots,
        lists=sources.lists,
        senders=sources.senders,
    )
