# SPDX-License-Identifier: GPL-2.0-or-later
"""How many labels may still be learned today: of one person or folder, and of all together.

Reads nothing hostile but names of sources, which the samples bound. What the operator teaches is not counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from gateway.store.samples import OPERATOR, REVIEW

if TYPE_CHECKING:
    from gateway.classifier.settings import ClassifierSettings
    from gateway.store.samples import Sample, Samples

_DAY: Final = 86_400.0


class Quota:
    """The limits by the day, for one batch of labels: what came before is counted once. Raises StoreError."""

    def __init__(self, samples: Samples, settings: ClassifierSettings) -> None:
        self._samples = samples
        self._settings = settings
        self._given: dict[str, int] = {}

    def takes(self, sample: Sample, limit: int | None = None) -> bool:
        """Count one more label, unless its source (`limit`, or by the settings) or all gave too many."""
        if sample.origin == OPERATOR:
            return True
        settings = self._settings
        if limit is None:
            limit = settings.reviews_per_day if sample.origin == REVIEW else settings.reports_per_day
        for who, most in ((sample.source, limit), ("", settings.labels_per_day)):
            if who not in self._given:
                self._given[who] = self._samples.since(time.time() - _DAY, who, but=OPERATOR)
            if self._given[who] >= most:
                return False
        self._given[sample.source] += 1
        self._given[""] += 1
        return True

    def room(self, source: str, limit: int) -> int:
        """How many more labels of a source are taken today, `limit` being its own for a day."""
        since = time.time() - _DAY
        alone = limit - self._samples.since(since, source, but=OPERATOR)
        together = self._settings.labels_per_day - self._samples.since(since, but=OPERATOR)
        return max(min(alone, together), 0)
