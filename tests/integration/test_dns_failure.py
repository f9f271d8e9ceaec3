# SPDX-License-Identifier: GPL-2.0-or-later
"""A DNS that fails on every question, seen from outside: temporary, in time, and no reason to reject.

The settings of the DNS are the shipped ones; the message asks as much as one message may.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from contrib.lab.dns import DnsStub
from gateway.auth.arc import FIELDS
from gateway.auth.seal import seal
from gateway.auth.sign import SigningKey, generate_key, read_private_key, sign
from gateway.mail.edits import apply
from gateway.mail.types import Arc, Edit, EditOp
from tests.conformance.auth_suites import material_of
from tests.conformance.door_suites import KEY, PLAIN, Doors, Row, ours

if TYPE_CHECKING:
    from pathlib import Path

    from dnslib import DNSRecord

SECONDS = 20.0  # within which the whole message must be answered
FAILURES = ("SERVFAIL", "REFUSED", "TIMEOUT")


class FailingDns(DnsStub):
    """Fails in one way, whatever it is asked."""

    def __init__(self, failure: str) -> None:
        super().__init__({})
        self.failure = failure

    def _resolve(self, _reply: DNSRecord, _name: str, _kind: str) -> str:
        return self.failure


def message() -> bytes:
    """Eight signatures, each with a key of its own to ask for, and a chain of three seals."""
    raw = PLAIN
    for number in range(8):
        value = sign(material_of(raw), SigningKey(f"d{number}.example", f"s{number}", KEY))
        raw = apply(raw, (Edit(EditOp.INSERT, "DKIM-Signature", value),))
    rsa = read_private_key(generate_key())
    for number in range(3):
        chain = Arc("pass" if number else "none")
        key = SigningKey(f"seal{number}.example", "s1", rsa)
        fields = seal(material_of(raw), chain, "seal.example; none", key)
        raw = apply(raw, tuple(Edit(EditOp.INSERT, name, value) for name, value in reversed(fields)))
    assert all(material_of(raw).count(name) == 3 for name in FIELDS)
    return raw


def sent(doors: Doors, row: Row) -> list[tuple[str, float]]:
    """Our results and the seconds it took, through both doors at the same time."""

    def timed(door: str) -> tuple[str, float]:
        start = time.monotonic()
        _, left = getattr(doors, door)(row)  # ValueError if it is refused
        return ours(left), time.monotonic() - start

    with ThreadPoolExecutor() as pool:
        return list(pool.map(timed, ("milter", "smarthost")))


def slow() -> DnsStub:
    """Each answer comes, just in time, and the next question depends on it."""
    zone = {f"n{n}.example": {"TXT": [f"v=spf1 include:n{n + 1}.example -all"]} for n in range(10)}
    zone["n10.example"] = {"TXT": ["v=spf1 +all"]}
    stub = DnsStub(zone)
    stub.delay = 2.5
    return stub


@pytest.fixture(scope="module")
def answered(lab: Path) -> dict[str, list[tuple[str, float]]]:
    """What came of a message with each DNS, all at the same time, for most of it is waiting."""
    fails, plain = Row("fails", {}, message()), Row("slow", {}, PLAIN, sender="a@n0.example")
    with ExitStack() as stack:
        sites = {name: (FailingDns(name), fails) for name in FAILURES} | {"slow": (slow(), plain)}
        rooms = {
            name: stack.enter_context(Doors(lab / f"dns-{name}", {}, stub=stub, dns={}))
            for name, (stub, _) in sites.items()
        }
        with ThreadPoolExecutor() as pool:
            waiting = {name: pool.submit(sent, rooms[name], row) for name, (_, row) in sites.items()}
        assert all(stub.queries for stub, _ in sites.values())
        return {name: future.result() for name, future in waiting.items()}


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_everything_is_temporary(answered: dict[str, list[tuple[str, float]]], failure: str) -> None:
    for results, seconds in answered[failure]:
        assert seconds < SECONDS
        words = set(re.findall(r"; (spf|dkim|dmarc|arc|iprev)=([a-z]+)", results))
        assert words == {(name, "temperror") for name in ("spf", "dkim", "dmarc", "arc", "iprev")}


@pytest.mark.slow
def test_a_slow_dns_is_waited_for_within_bounds(answered: dict[str, list[tuple[str, float]]]) -> None:
    for results, seconds in answered["slow"]:
        assert seconds < SECONDS
        assert "; spf=temperror " in results
