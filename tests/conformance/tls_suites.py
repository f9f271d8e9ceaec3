# SPDX-License-Identifier: GPL-2.0-or-later
"""The public rows about MTA-STS and TLS-RPT. Data, not tests: see test_tls.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.tls import mta_sts, tlsrpt
from tests.conformance.auth_suites import Outcome, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def parsed(path: Path, reader: Callable[[str, str], object]) -> Iterator[Outcome]:
    """Whether each row is read, or refused, as it wants."""
    for row in rows(path):
        try:
            reader(row["id"], row["input"])
        except (mta_sts.PolicyError, tlsrpt.RecordError) as error:
            yield Outcome(row["id"], row["expect"] == "invalid", str(error))
        else:
            yield Outcome(row["id"], row["expect"] == "valid", "taken for valid")


def mta_sts_mox(root: Path) -> Iterator[Outcome]:
    def read(row: str, text: str) -> object:
        return mta_sts.read_record(text) if "Record" in row else mta_sts.read_policy(text.encode())

    yield from parsed(root / "mox" / "cases-mta-sts.jsonl", read)


def tlsrpt_mox(root: Path) -> Iterator[Outcome]:
    yield from parsed(root / "mox" / "cases-tlsrpt-record.jsonl", lambda _row, text: tlsrpt.read_record(text))


SUITES: dict[str, Callable[[Path], Iterator[Outcome]]] = {
    "mta-sts-mox": mta_sts_mox,
    "tlsrpt-mox": tlsrpt_mox,
}
