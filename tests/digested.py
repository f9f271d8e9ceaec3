# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests for tests: mail that is held, a next hop that keeps them, and what stands in them."""

from __future__ import annotations

import email.policy
import re
import time
from dataclasses import replace
from email.parser import BytesParser
from typing import TYPE_CHECKING, Literal

from gateway.auth.outgoing import Signing
from gateway.data import data_dir
from gateway.delivery.relay import RecipientResult
from gateway.delivery.routes import routes
from gateway.digest import words
from gateway.digest.send import Post, send_all
from gateway.digest.settings import DigestSettings
from gateway.mail.mime import parse
from tests.stored import EVIDENCE, RAW, SIGNALS, mail_for, verdict_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.mail.types import Envelope
    from gateway.store.quarantine import Quarantine

BOB, CAROL, DAN = "bob@example.com", "carol@example.com", "dan@example.org"
SETTINGS = DigestSettings(
    enabled=True,
    domains=("example.com",),
    email="held@gw.example.com",
    base_url="https://mail.example.com/held/",
    reply_address="held@example.com",
)


class Hop:
    """A next hop that takes, or defers, and remembers."""

    def __init__(self) -> None:
        self.status = "delivered"
        self.got: list[tuple[str, bytes]] = []

    def __call__(self, envelope: Envelope, raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
        assert envelope.mail_from == ""
        (recipient,) = envelope.recipients
        if self.status == "delivered":
            self.got.append((recipient, raw))
        return {recipient: RecipientResult(self.status, 250, "2.0.0", "as told")}  # type: ignore[arg-type]


def clean(
    quarantine: Quarantine,
    *people: str,
    reasons: tuple[str, ...] = ("CLASSIFIER", "score"),
    status: Literal["clean", "infected", "error"] = "clean",
    subject: str = "A chance",
) -> str:
    """Hold a message in which no scanner found anything."""
    raw = RAW.replace(b"A chance", subject.encode())
    mail = mail_for(*(people or (BOB,)), raw=raw)
    evidence = replace(EVIDENCE, antivirus=replace(EVIDENCE.antivirus, status=status))
    verdict = verdict_for(mail)
    return quarantine.hold(mail, verdict, evidence, SIGNALS, content=parse(mail.raw), reasons=reasons)


def post(
    hop: Hop, settings: DigestSettings = SETTINGS, *, users: frozenset[str] = frozenset(), **more: float
) -> Post:
    table = routes((), "smtp:mail.example.com:25")
    languages = words.load_all(data_dir("rules"), settings)
    return Post(settings, languages, users, Signing(()), table, hop, **more)


def sent(quarantine: Quarantine, sender: Post, **how: object) -> list[tuple[str, int, str]]:
    slot = how.pop("slot", time.time())
    return [(s.address, s.count, s.status) for s in send_all(quarantine, sender, slot, **how)]  # type: ignore[arg-type]


def bodies(raw: bytes) -> tuple[str, str]:
    """Text and HTML of a digest, read by another program."""
    message = BytesParser(policy=email.policy.default).parsebytes(raw)
    plain, html = message.iter_parts()
    return plain.get_content(), html.get_content()


def tokens(raw: bytes) -> dict[str, str]:
    """The tokens of the links in a digest, by the first letter."""
    text, _ = bodies(raw)
    return {found[0]: found for found in re.findall(r"/act/([0-9A-Z]+)", text)}
