# SPDX-License-Identifier: GPL-2.0-or-later
"""Invented mail to learn from."""

import random
from collections.abc import Iterator

from gateway.learning import Labelled, Learner

WORDS = {
    False: "agenda minutes budget kernel patch review meeting project quarter report lunch",
    True: "pills winner lottery cheap click offer casino meds replica bonus prize urgent",
}


def message(number: int, *, spam: bool) -> bytes:
    """An invented message; each number has words of its own."""
    chance = random.Random(f"{number} {spam}")
    own = ["".join(chance.choices("bcdfghklmnprst", k=7)) for _ in range(12)]
    words = chance.choices(WORDS[spam].split(), k=10) + own
    chance.shuffle(words)
    sender = "offers" if spam else "colleague"
    return (
        f"From: {sender}{number}@example.com\r\nTo: bob@example.net\r\nSubject: {words[0]} {words[1]}\r\n"
        f"\r\n{' '.join(words)}\r\n"
    ).encode()


def mail(count: int, first: int = 0, origin: str = "operator", source: str = "") -> Iterator[Labelled]:
    for number in range(first, first + count):
        for spam in (False, True):
            yield Labelled(message(number, spam=spam), spam, origin, source)


def crash(*_: object) -> None:
    raise RuntimeError("killed")


def states(learner: Learner) -> dict[str, int]:
    found: dict[str, int] = {}
    for (state, _), count in learner.samples.counts().items():
        found[state] = found.get(state, 0) + count
    return found
