# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters that all workers share, and their text for Prometheus.

The supervisor lays out one anonymous shared page before it forks; each worker writes only its
own row, so no lock is shared, and a worker that dies leaves its counts behind for the next one
in its slot. prometheus-client's own multiprocess mode keeps files per process that must be
cleaned up after each one that dies; here it only renders the text.
"""

from __future__ import annotations

import mmap
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

DOORS = ("milter", "smarthost")
ACTIONS = ("relay", "tag", "strip", "learn", "quarantine", "defer", "reject")
FAILURES = (
    "crash",
    "storage",
    "antivirus",
    "antivirus_limit",
    "unpack",
    "spamassassin",
    "classifier",
    "dns",
    "journal",
)
DELIVERIES = ("delivered", "deferred", "failed", "undeliverable", "held", "notice")
TLS = ("verified", "encrypted", "clear", "failed", "downgraded")
POLICIES = ("ok", "notfound", "temp")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_KEYS = (
    *(("messages", door, action) for door in DOORS for action in ACTIONS),
    *(("connections", door, "") for door in DOORS),
    *(("refused", door, "") for door in DOORS),
    *(("bytes", door, "") for door in DOORS),
    *(("seconds", door, "") for door in DOORS),
    *(("bucket", door, str(limit)) for door in DOORS for limit in BUCKETS),
    *(("failures", kind, "") for kind in FAILURES),
    *(("deliveries", what, "") for what in DELIVERIES),
    *(("tls", what, "") for what in TLS),
    *(("policies", what, "") for what in POLICIES),
    ("held", "", ""),
    ("restarts", "", ""),
    ("alive", "", ""),
    ("antivirus_database", "", ""),
    ("held_octets", "", ""),
    ("quota_expired", "", ""),
)
_PLAIN = (
    ("failures", "Questions that were not answered.", "kind", FAILURES),
    ("deliveries", "Recipients by what delivery came to, and notices.", "result", DELIVERIES),
    ("tls", "Connections to next hops by the TLS they came to, and hosts that lost theirs.", "result", TLS),
    ("policies", "TLS policies that Postfix asked for, by the kind of answer.", "answer", POLICIES),
)
_INDEX = {key: number for number, key in enumerate(_KEYS)}


class Metrics:
    """The shared page: `slots` rows of counters."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._page = memoryview(mmap.mmap(-1, max(mmap.PAGESIZE, slots * len(_KEYS) * 8))).cast("d")

    def slot(self, number: int) -> Counters:
        """The row of one process."""
        width = len(_KEYS)
        return Counters(self._page[number * width : (number + 1) * width])

    def total(self, *key: str) -> float:
        """One counter, summed over all rows."""
        index = _INDEX[(*key, *("",) * (3 - len(key)))]  # type: ignore[index]  # always three
        return sum(self._page[slot * len(_KEYS) + index] for slot in range(self._slots))

    def highest(self, *key: str) -> float:
        """One gauge, the highest of all rows."""
        index = _INDEX[(*key, *("",) * (3 - len(key)))]  # type: ignore[index]  # always three
        return max(self._page[slot * len(_KEYS) + index] for slot in range(self._slots))

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; a collector for prometheus-client."""
        from prometheus_client.metrics_core import (  # noqa: PLC0415  # only the housekeeper pays for the import
            CounterMetricFamily,
            HistogramMetricFamily,
        )

        messages = CounterMetricFamily(
            "mailwarden_messages", "Messages judged, by door and action.", labels=["door", "action"]
        )
        for door in DOORS:
            for action in ACTIONS:
                messages.add_metric([door, action], self.total("messages", door, action))
        yield messages
        for name, text in (
            ("connections", "Connections accepted."),
            ("refused", "Commands refused before DATA."),
            ("bytes", "Octets of messages judged."),
        ):
            counter = CounterMetricFamily(f"mailwarden_{name}", text, labels=["door"])
            for door in DOORS:
                counter.add_metric([door], self.total(name, door))
            yield counter
        seconds = HistogramMetricFamily(
            "mailwarden_judge_seconds", "From the end of DATA to the verdict.", labels=["door"]
        )
        for door in DOORS:
            count, buckets = 0.0, []
            for limit in BUCKETS:
                count += self.total("bucket", door, str(limit))
                buckets.append((str(limit), count))
            buckets.append(("+Inf", sum(self.total("messages", door, action) for action in ACTIONS)))
            seconds.add_metric([door], buckets, self.total("seconds", door))
        yield seconds
        for name, text, label, values in _PLAIN:
            counter = CounterMetricFamily(f"mailwarden_{name}", text, labels=[label])
            for value in values:
                counter.add_metric([value], self.total(name, value))
            yield counter
        yield from self._single()

    def _single(self) -> Iterator[Metric]:
        """Yield what has no labels."""
        from prometheus_client.metrics_core import (  # noqa: PLC0415  # as above
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        yield CounterMetricFamily(
            "mailwarden_held", "Messages put into quarantine.", value=self.total("held")
        )
        yield CounterMetricFamily(
            "mailwarden_restarts", "Workers started anew.", value=self.total("restarts")
        )
        yield GaugeMetricFamily(
            "mailwarden_antivirus_database_timestamp_seconds",
            "When the oldest antivirus signatures in use were made; 0 if no server tells.",
            value=self.highest("antivirus_database"),
        )
        yield GaugeMetricFamily(
            "mailwarden_held_bytes",
            "Octets of all held messages, as they were received.",
            value=self.highest("held_octets"),
        )
        yield CounterMetricFamily(
            "mailwarden_quota_expired",
            "Held messages removed before their time, since the quarantine was over its quota.",
            value=self.total("quota_expired"),
        )
        yield GaugeMetricFamily("mailwarden_workers", "Workers alive.", value=self.total("alive"))


class Counters:
    """One process's row. Threads of the process share it under a lock of their own."""

    def __init__(self, row: memoryview[float]) -> None:
        self._row = row
        self._lock = threading.Lock()

    def add(self, *key: str, value: float = 1.0) -> None:
        """Add to one counter; a key that is not in the table is a mistake of ours (KeyError)."""
        index = _INDEX[(*key, *("",) * (3 - len(key)))]  # type: ignore[index]  # always three
        with self._lock:
            self._row[index] += value

    def set(self, *key: str, value: float) -> None:
        """Set a gauge."""
        self._row[_INDEX[(*key, *("",) * (3 - len(key)))]] = value  # type: ignore[index]  # always three

    def judged(self, door: str, action: str, size: int, seconds: float) -> None:
        """Count one judged message."""
        self.add("messages", door, action)
        self.add("bytes", door, value=size)
        self.add("seconds", door, value=seconds)
        for limit in BUCKETS:
            if seconds <= limit:
                self.add("bucket", door, str(limit))
                return
