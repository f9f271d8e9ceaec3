# SPDX-License-Identifier: GPL-2.0-or-later
"""A DNS that fails on every question, seen from outside: temporary, in time, and no reason to reject.

The settings of the DNS are the shipped ones; the message asks as much as one message may.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["SERVFAIL", "REFUSED", "TIMEOUT"])
def test_everything_is_temporary(lab: Path, failure: str) -> None:
    with Doors(lab / f"dns-{failure}", {}, stub=FailingDns(failure), dns={}) as doors:
        for results, seconds in sent(doors, Row("fails", {}, message())):
            print(f"{failure}: {seconds:.1f} s")
            assert seconds < SECONDS
            words = set(re.findall(r"; (spf|dkim|dmarc|arc|iprev)=([a-z]+)", results))
            assert words == {(name, "temperror") for name in ("spf", "dkim", "dmarc", "arc", "iprev")}
        assert doors.dns.queries


@pytest.mark.slow
def test_a_slow_dns_is_waited_for_within_bounds(lab: Path) -> None:
    """Each answer comes, just in time, and the next question depends on it."""
    zone = {f"n{n}.example": {"TXT": [f"v=spf1 include:n{n + 1}.example -all"]} for n in range(10)}
    zone["n10.example"] = {"TXT": ["v=spf1 +all"]}
    stub = DnsStub(zone)
    stub.delay = 2.5
    with Doors(lab / "dns-slow", {}, stub=stub, dns={}) as doors:
        for results, seconds in sent(doors, Row("slow", {}, PLAIN, sender="a@n0.example")):
            print(f"slow: {seconds:.1f} s")
            assert seconds < SECONDS
            assert "; spf=temperror " in results
