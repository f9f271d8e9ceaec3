# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages and verdicts for tests of the store, and a fresh database for each.

With MAILWARDEN_TEST_DATABASE set to a PostgreSQL URL the same tests run there; its schema "public"
is emptied before each.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from sqlalchemy import text

from gateway.mail.mime import parse
from gateway.mail.types import (
    Action,
    Arc,
    Contribution,
    Direction,
    Dkim,
    Dmarc,
    Edit,
    EditOp,
    Envelope,
    Evidence,
    Iprev,
    Mail,
    Outcome,
    Release,
    Reply,
    Scan,
    Session,
    Signal,
    SpamCheck,
    Spf,
    Thresholds,
    Tls,
    Verdict,
    Versions,
    new_id,
)
from gateway.store.database import StoreSettings, open_database
from gateway.store.decisions import RefusedError
from gateway.store.states import Actor, Role

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import Executable

    from gateway.store.database import Database
    from gateway.store.held import Claim
    from gateway.store.quarantine import Quarantine

POSTGRESQL = os.environ.get("MAILWARDEN_TEST_DATABASE", "")
RAW = (
    b"Received: from mx.example.net by mx.example.com; Mon, 5 Jan 2026 10:00:00 +0000\r\n"
    b"From: Alice <alice@example.net>\r\nTo: bob@example.com\r\nSubject: A chance\r\n"
    b"Message-ID: <1@example.net>\r\n\r\nHello \xe9\r\n"
)
THRESHOLDS = Thresholds(5.0, 8.0, 15.0)
EVIDENCE = Evidence(
    spf=(Spf("mailfrom", "example.net", "fail", "not listed"), Spf("helo", "mx.example.net", "none")),
    dkim=(Dkim("pass", "example.net", "s1", "@example.net", "rsa-sha256", "abcdefgh", covers_all=False),),
    dmarc=Dmarc("fail", "example.net", "example.net", "quarantine", 50, ("spf",), "v=DMARC1", "no"),
    arc=Arc("pass", ("example.org",), "i=1; example.org", "", covers_all=True),
    iprev=Iprev("pass", "mx.example.net"),
    antivirus=Scan("infected", "Test.Name", "detail", "engine 1"),
    spamd=SpamCheck("ok", 7.25, 5.0, ("A", "B")),
    release=Release("0" * 16, ("X",)),
    durations={"spf": 1.5, "antivirus": 12.25},
)
SIGNALS = (Signal("SPF_FAIL", "203.0.113.5"), Signal("CLASSIFIER", "words", 0.97), Signal("X", state="error"))
REPLY = Reply(250, "2.0.0", "Ok: accepted")


def settings_for(directory: Path, **changes: float) -> StoreSettings:
    """Settings of an empty database of its own."""
    if not POSTGRESQL:
        return StoreSettings(database=f"sqlite:///{directory}/store/test.db", **changes)  # type: ignore[arg-type]
    from sqlalchemy import create_engine

    engine = create_engine(POSTGRESQL.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return StoreSettings(database=POSTGRESQL, **changes)  # type: ignore[arg-type]


def mail_for(
    *recipients: str, raw: bytes = RAW, sender: str = "alice@example.net", helo: str = "mx.example.net"
) -> Mail:
    """A message as a door makes it."""
    session = Session(
        client_ip="203.0.113.5",
        client_name="mx.example.net",
        helo=helo,
        tls=Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256),
        listener="mx",
        direction=Direction.INBOUND,
    )
    envelope = Envelope(sender, recipients or ("bob@example.com",), ("SIZE=100", "BODY=8BITMIME"))
    return Mail(new_id(), session, envelope, raw, time.time(), "4XYZabc")


def verdict_for(mail: Mail, *, held: Sequence[str] | None = None, reason: str = "score") -> Verdict:
    """A verdict that holds the message for `held`, by default for all, and relays it to the rest."""
    people = mail.envelope.recipients
    held = people if held is None else held
    outcomes = tuple(
        Outcome(r, Action.QUARANTINE if r in held else Action.TAG, 9.5, THRESHOLDS) for r in people
    )
    return Verdict(
        id=mail.id,
        action=Action.QUARANTINE if set(held) == set(people) else Action.TAG,
        outcomes=outcomes,
        score=9.5,
        reason=reason,
        reason_text="Score 9.5 reaches 8",
        contributions=(
            Contribution("CLASSIFIER", 6.5, "words"),
            Contribution("DMARC_QUARANTINE", 3.0, "p=quarantine", Action.QUARANTINE),
            Contribution("KNOWN", -0.5),
        ),
        edits=(
            Edit(EditOp.INSERT, "X-Spam-Status", "Yes,\n\tscore=9.5"),
            Edit(EditOp.DELETE, "X-Old", index=2),
        ),
        versions=Versions("0.1.0", "abc123", "base-1"),
    )


def hold(
    quarantine: Quarantine,
    mail: Mail | None = None,
    *,
    held: Sequence[str] | None = None,
    reasons: Sequence[str] = ("CLASSIFIER", "score"),
) -> Mail:
    """Hold a message and return it."""
    mail = mail or mail_for()
    verdict = verdict_for(mail, held=held)
    item = quarantine.hold(mail, verdict, EVIDENCE, SIGNALS, content=parse(mail.raw), reasons=reasons)
    assert item == mail.id
    return mail


def claim(
    quarantine: Quarantine, item: str, *recipients: str, who: str = "cli:me", seconds: float = 60.0
) -> Claim | None:
    """Order a release to these recipients (all, for none) that is due now, and claim it for `seconds`."""
    boss = Actor(who, Role.ADMINISTRATOR)
    with contextlib.suppress(RefusedError):  # what is being released, or gone, has no new order
        quarantine.decisions.schedule(item, recipients or None, boss, due=time.time(), aloud=True)
    return quarantine.claim(item, recipients or None, who, lease_seconds=seconds)


def execute(database: Database, statement: Executable | str) -> None:
    """Run one statement behind the store's back."""
    made = text(statement) if isinstance(statement, str) else statement
    database.write(lambda connection: connection.execute(made))


__all__ = [
    "EVIDENCE",
    "POSTGRESQL",
    "RAW",
    "REPLY",
    "SIGNALS",
    "claim",
    "execute",
    "hold",
    "mail_for",
    "open_database",
    "settings_for",
    "verdict_for",
]
