# SPDX-License-Identifier: GPL-2.0-or-later
"""What DMARC found, counted by day for aggregate reports; `reported` knows which reports were sent.

Keeps hostile text: domains and selectors of strangers, which `reports/observe.py` has bounded.
Equal results are one row with a count (`counts`). Days are numbers since 1970-01-01, UTC (RFC 7489 §7.2: a
report covers a day).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.store import reported, schema
from gateway.store.counts import INTERVAL, PENDING, Counts, counted

if TYPE_CHECKING:
    from gateway.store.database import Database
    from gateway.store.reported import Summary


@dataclass(frozen=True, slots=True)
class Observation:
    """All of one message that a report tells. Equal ones are counted as one."""

    source_ip: str
    header_from: str  # author domain
    envelope_from: str  # domain of the envelope sender, "" for the null sender
    envelope_to: str  # domain of all recipients, "" if they have several
    policy: str  # that applies to the author domain: none, quarantine, reject
    disposition: str  # what DMARC led to here: the same words
    dkim: bool  # aligned and passed
    spf: bool
    reason: str = ""  # why the disposition is not the policy: a type of RFC 7489 Appendix C
    signatures: tuple[tuple[str, str, str], ...] = ()  # domain, selector, result
    spf_domain: str = ""
    spf_scope: str = "mfrom"  # or helo
    spf_result: str = "none"


class Observations:
    """The counts of one process that are not written yet. Its thread starts with the first."""

    def __init__(self, database: Database, *, interval: float = INTERVAL, limit: int = PENDING) -> None:
        self._counts: Counts[Observation] = Counts(
            database,
            schema.dmarc_observations,
            "results of DMARC",
            notes=schema.dmarc_policies,
            interval=interval,
            limit=limit,
        )

    @property
    def dropped(self) -> int:
        """How many were not counted, since too many wait."""
        return self._counts.dropped

    def add(self, day: int, domain: str, record: str, observation: Observation) -> None:
        """Count one message under the policy `record` of `domain`. Never waits for the database."""
        self._counts.add(day, domain, observation, record)

    def flush(self) -> bool:
        """Write what was counted until now. False if the database did not take it; it is kept then."""
        return self._counts.flush()

    def close(self) -> None:
        """End the thread and write the rest."""
        self._counts.close()


# ---------------------------------------------------------------- what there is to report


def summaries(database: Database, *, day: int | None = None, domain: str = "") -> list[Summary]:
    """The policy domains and days there is something to report about, oldest first. Raises StoreError."""
    seen, reports = schema.dmarc_observations, schema.dmarc_reports
    return reported.summaries(database, seen, reports, records=schema.dmarc_policies, day=day, domain=domain)


def observations(database: Database, day: int, domain: str, limit: int) -> list[tuple[Observation, int]]:
    """The results of a day and how often each was seen, most often first. Raises StoreError."""
    return counted(database, schema.dmarc_observations, Observation, day, domain, limit)


def prune(database: Database, before: int) -> int:
    """Delete all about days before `before`. Returns how many rows. Raises StoreError."""
    tables = (schema.dmarc_observations, schema.dmarc_policies, schema.dmarc_reports)
    return reported.prune(database, tables, before)
