# SPDX-License-Identifier: GPL-2.0-or-later
"""How good scores are: ranking, spam missed at a given share of false positives, calibration.

Reads numbers only. Ties are counted against the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Messages whose probability lies between `low` and `high`: mean of it, and share of spam."""

    low: float
    high: float
    count: int
    mean: float
    spam: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one set of mail, in percent; None where a kind of mail is missing.

    `auc_loss` is 100 · (1 − AUC). `missed_01` and `missed_1` are the spam missed when 0.1 % and
    1 % of the ham is called spam. `false_positives` and `missed` are those at `threshold`.
    """

    ham: int
    spam: int
    threshold: float
    auc_loss: float | None
    missed_01: float | None
    missed_1: float | None
    false_positives: float | None
    missed: float | None
    bins: tuple[CalibrationBin, ...]


def evaluate(labels: NDArray[np.bool_], probabilities: NDArray[np.float64], threshold: float) -> Evaluation:
    """Measure probabilities of spam against labels."""
    spam, ham = probabilities[labels], probabilities[~labels]
    both = len(spam) > 0 and len(ham) > 0
    return Evaluation(
        ham=len(ham),
        spam=len(spam),
        threshold=threshold,
        auc_loss=auc_loss(ham, spam) if both else None,
        missed_01=missed(ham, spam, 0.001) if both else None,
        missed_1=missed(ham, spam, 0.01) if both else None,
        false_positives=100 * float((ham >= threshold).mean()) if len(ham) else None,
        missed=100 * float((spam < threshold).mean()) if len(spam) else None,
        bins=tuple(_bins(labels, probabilities)),
    )


def auc_loss(ham: NDArray[np.float64], spam: NDArray[np.float64]) -> float:
    """Give 100 · (1 − AUC): how often a ham scores above a spam; a tie counts half."""
    ordered = np.sort(ham)
    above = len(ham) - np.searchsorted(ordered, spam, side="right")
    ties = len(ham) - above - np.searchsorted(ordered, spam, side="left")
    return 100 * float((above + ties / 2).sum()) / (len(ham) * len(spam))


def missed(ham: NDArray[np.float64], spam: NDArray[np.float64], false_positives: float) -> float:
    """Give the percentage of spam that scores no higher than the threshold for that share of ham."""
    allowed = int(false_positives * len(ham))  # ham that may lie above
    cut = np.sort(ham)[len(ham) - 1 - allowed]
    return 100 * float((spam <= cut).mean())


def _bins(labels: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> list[CalibrationBin]:
    edges = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
    bins = []
    for low, high in pairwise(edges):
        inside = (probabilities >= low) & ((probabilities < high) | (high == 1.0))
        if count := int(inside.sum()):
            mean, spam = float(probabilities[inside].mean()), float(labels[inside].mean())
            bins.append(CalibrationBin(low, high, count, mean, spam))
    return bins
