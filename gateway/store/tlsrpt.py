# SPDX-License-Identifier: GPL-2.0-or-later
"""What TLS towards domains came to, counted by day for reports (RFC 8460); `reported` knows what was sent.

Keeps text of strangers, which `tls` has parsed: policies, host names. Equal results are one row with a
count (`counts`). Days are numbers since 1970-01-01, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from gateway.store import reported, schema
from gateway.store.counts import Counts, counted

if TYPE_CHECKING:
    from gateway.store.database import Database
    from gateway.store.reported import Summary
    from gateway.tls.outbound import TlsPolicy

PolicyType = Literal["tlsa", "sts", "no-policy-found"]
_LONGEST: Final = 300  # characters of a text
_MOST: Final = 100  # lines of a policy


@dataclass(frozen=True, slots=True)
class TlsResult:
    """What one connection came to, and under which policy. `result` is "" where it was as it should be."""

    policy_type: PolicyType
    policy: tuple[str, ...] = ()  # TLSA records, or the lines of the MTA-STS policy
    mx: tuple[str, ...] = ()  # patterns of the MTA-STS policy
    result: str = ""  # a result type of RFC 8460 §4.3
    mx_host: str = ""
    address: str = ""
    reason: str = ""


def result_of(policy: TlsPolicy, failure: str, host: str, address: str, reason: str) -> TlsResult:
    """What a connection under `policy` came to. A failure of the policy itself counts where TLS was well."""
    failure = failure or policy.failure
    kind: PolicyType = "no-policy-found"
    if policy.source == "dane":
        kind = "tlsa"
    elif policy.source == "mta-sts" or failure.startswith("sts-"):
        kind = "sts"
    records = tuple(str(one) for one in policy.tlsa)
    patterns = tuple(line[4:] for line in policy.told if line.startswith("mx: "))
    shown = (host, address, reason[:_LONGEST]) if failure else ("", "", "")
    return TlsResult(kind, (records or policy.told)[:_MOST], patterns[:_MOST], failure, *shown)


class TlsResults:
    """The counts of one process that are not written yet. Its thread starts with the first."""

    def __init__(self, database: Database) -> None:
        self._counts: Counts[TlsResult] = Counts(database, schema.tls_results, "results of TLS")

    def add(self, day: int, domain: str, result: TlsResult) -> None:
        """Count one connection for mail to `domain`. Never waits for the database."""
        self._counts.add(day, domain[:255], result)

    def close(self) -> None:
        """End the thread and write the rest."""
        self._counts.close()


def summaries(database: Database, *, day: int | None = None, domain: str = "") -> list[Summary]:
    """The recipient domains and days there is something to report about, oldest first. Raises StoreError."""
    return reported.summaries(database, schema.tls_results, schema.tls_reports, day=day, domain=domain)


def results(database: Database, day: int, domain: str, limit: int) -> list[tuple[TlsResult, int]]:
    """The results of a day and how often each was seen, most often first. Raises StoreError."""
    return counted(database, schema.tls_results, TlsResult, day, domain, limit)


def prune(database: Database, before: int) -> int:
    """Delete all about days before `before`. Returns how many rows. Raises StoreError."""
    return reported.prune(database, (schema.tls_results, schema.tls_reports), before)
