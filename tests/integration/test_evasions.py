# SPDX-License-Identifier: GPL-2.0-or-later
"""What hides a test virus from one reader or the other, and a real clamd: it is found, or the message held.

The reader's own part is checked in unit/test_mail_mime.py; here what ClamAV makes of a message that
we take for plain counts as well, since it is shown the message as it is.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from contrib.lab.clamd import EICAR
from gateway.gather import as_message
from gateway.mail.mime import parse
from gateway.scanners.clamd import Clamd as Scanner
from gateway.scanners.clamd import ClamdSettings
from gateway.scanners.unpack.walk import Walker
from tests import bombs, crowds, evasions, packages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contrib.lab.clamd import Clamd

pytestmark = pytest.mark.server("clamd")
# What is found in an archive, and holds a message by itself.
HOLDS = frozenset(("ambiguous", "broken", "encrypted", "escape", "limit", "unsupported"))
PAYLOADS = {"file": EICAR, "zip": evasions.ZIP}


@pytest.fixture(scope="module")
def scanner(clamd: Clamd) -> Scanner:
    return Scanner(ClamdSettings(addresses=(clamd.addresses[0],)))


def missed(scanner: Scanner, messages: Iterable[tuple[str, bytes]], *, marked: bool = True) -> list[str]:
    """The names of those that are not found and, if that counts (`marked`), not held either."""
    names = []
    for name, raw in messages:
        content = parse(raw)
        if content.ambiguities or content.limits:
            if not marked:
                names.append(f"{name} {content.ambiguities}")
            continue
        result = scanner.scan((as_message(raw), *content.readings), time.monotonic() + 30)
        if result.status != "infected":
            names.append(name)
    return names


@pytest.mark.parametrize("payload", PAYLOADS)
def test_tricks(scanner: Scanner, payload: str) -> None:
    assert missed(scanner, evasions.tricks(PAYLOADS[payload])) == []


@pytest.mark.parametrize("payload", PAYLOADS)
def test_crowds(scanner: Scanner, payload: str) -> None:
    assert missed(scanner, crowds.crowds(PAYLOADS[payload])) == []


def test_packages(scanner: Scanner) -> None:
    """With the walk in this process: what it hands on is scanned, and what it says holds the message."""
    lost = []
    for name, data in packages.packages().items():
        file = name.partition(":")[0]
        raw = bombs.mail(file, data)
        content = parse(raw)
        walker = Walker()
        found = walker.walk(
            [(n, a.names[0] if a.names else "", a.data) for n, a in enumerate(content.attachments)]
        )
        if HOLDS.intersection(f.kind for f in found.findings):
            continue
        result = scanner.scan((as_message(raw), *content.readings, *walker.parts), time.monotonic() + 30)
        if result.status != "infected":
            lost.append(name)
    assert lost == []


def test_spoiled_structures(scanner: Scanner) -> None:
    """Each seventh; all of them are as good, and take a minute."""
    messages = list(evasions.spoiled(EICAR))
    assert missed(scanner, messages[::7]) == []


def test_valid_messages_in_every_spelling(scanner: Scanner) -> None:
    chance = random.Random(5)
    messages = ((str(n), evasions.valid(chance, PAYLOADS["zip" if n % 3 else "file"])) for n in range(800))
    assert missed(scanner, messages, marked=False) == []
