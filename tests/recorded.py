# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal of made-up messages, judged by a real policy, for tests of what reads it.

Run as a program it fills a database: `python -m tests.recorded sqlite:////tmp/journal.db 10000`.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from gateway import __version__
from gateway.data import data_dir
from gateway.mail.types import Content, Envelope, Mail, Release, Session, Signal, Versions, new_id
from gateway.policy import rules
from gateway.policy.decide import decide, reasons
from gateway.policy.rules import Policy, PolicySettings
from gateway.reply import reply_to
from gateway.store.database import StoreSettings, open_database
from gateway.store.journal import Journal, Record, record_of
from tests.stored import EVIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.store.quarantine import Quarantine

PEOPLE = ("bob@example.com", "carol@example.com", "Dave@Example.org", "erin@sub.example.net")


def policy_of(**settings: object) -> Policy:
    """The shipped policy with a site's settings."""
    return rules.load(data_dir("rules"), msgspec.convert(settings, PolicySettings))


def judged(mail: Mail, signals: tuple[Signal, ...], policy: Policy, lifted: tuple[str, ...] = ()) -> Record:
    """The record of a message with these signals, as the pipeline writes it."""
    verdict = decide(signals, mail, policy, Versions(__version__, policy.hash, "model-1"), lifted)
    evidence = replace(EVIDENCE, release=Release("0" * 16, lifted) if lifted else None)
    content = Content((), 0, subject="A chance")
    return record_of(
        mail, content, evidence, signals, verdict, reply=reply_to(verdict), door="milter", seconds=0.004
    )


def mail_of(*recipients: str, received: float | None = None, raw: bytes = b"\r\n") -> Mail:
    """A message for these recipients."""
    envelope = Envelope("alice@example.net", recipients or PEOPLE[:1])
    return Mail(
        new_id(), Session("203.0.113.5", helo="mx.example.net"), envelope, raw, received or time.time()
    )


def records(count: int, policy: Policy, seed: int = 1) -> Iterator[Record]:
    """Messages with every signal there is, in all states, for one or more recipients."""
    chance = random.Random(seed)
    names = sorted(policy.weights)
    for number in range(count):
        people = chance.sample(PEOPLE, chance.choice((1, 1, 1, 2, 4)))
        mail = mail_of(*people, received=time.time() - chance.random() * 86_400)
        chosen = chance.choices(names, k=chance.randrange(12))
        signals = [Signal("CLASSIFIER", "probability", chance.random())]
        for name in chosen:
            state = "error" if chance.random() < 0.03 else "hit"
            value = chance.choice((1.0, chance.random(), chance.uniform(-5, 20)))
            signals.append(Signal(name, f"text {number} “é”" * chance.randrange(4), value, state))  # type: ignore[arg-type]
        lifted = (*chosen[:2], "score") if chance.random() < 0.02 else ()
        yield judged(mail, tuple(signals), policy, lifted)


def fill(journal: Journal, made: Iterator[Record] | list[Record]) -> None:
    """Write records, as fast as the journal takes them."""
    for number, record in enumerate(made, 1):
        journal.add(record)
        if number % 500 == 0:
            assert journal.flush(60)
    assert journal.flush(60)
    assert journal.dropped == 0


def hold_record(quarantine: Quarantine, record: Record) -> None:
    """Hold the message of a record, as the pipeline does before it is recorded."""
    mail = Mail(record.id, record.session, record.envelope, b"\r\n", record.received)
    quarantine.hold(
        mail, record.verdict, record.evidence, record.signals, content=None, reasons=reasons(record.verdict)
    )


if __name__ == "__main__":
    opened = Journal(open_database(StoreSettings(database=sys.argv[1])))
    fill(opened, records(int(sys.argv[2]), policy_of()))
    opened.close()
