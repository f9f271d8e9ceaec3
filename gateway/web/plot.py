# SPDX-License-Identifier: GPL-2.0-or-later
"""Bars by day, as rectangles for an SVG that a page has in it: no script, all colour in the style."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gateway.store.statistics import DAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.statistics import Day

WIDTH: Final = 640
HEIGHT: Final = 160
_GAP: Final = 0.2  # of a day's width


@dataclass(frozen=True, slots=True)
class Bar:
    """One rectangle: the count of one word on one day."""

    x: float
    y: float
    width: float
    height: float
    word: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot, and the same as a table."""

    bars: tuple[Bar, ...]
    words: tuple[str, ...]  # in the order of the stack, from below
    rows: tuple[tuple[str, tuple[int, ...], int], ...]  # date, counts of the words, their sum
    most: int  # the highest day


def plot(days: Sequence[Day], order: Sequence[str]) -> Plot:
    """Stack the counts of each day in this order; a word that never occurs is left out."""
    words = tuple(word for word in order if any(day.counts.get(word) for day in days))
    most = max((sum(day.counts.get(word, 0) for word in words) for day in days), default=0)
    step = WIDTH / max(len(days), 1)
    bars = []
    for n, day in enumerate(days):
        top = float(HEIGHT)
        for word in words:
            height = HEIGHT * day.counts.get(word, 0) / max(most, 1)
            if height:
                top -= height
                left = round((n + _GAP / 2) * step, 1)
                bars.append(Bar(left, round(top, 1), round(step * (1 - _GAP), 1), round(height, 1), word))
    rows = tuple(
        (
            date(day.day),
            tuple(day.counts.get(word, 0) for word in words),
            sum(day.counts.get(word, 0) for word in words),
        )
        for day in days
    )
    return Plot(tuple(bars), words, rows, most)


def date(day: int) -> str:
    """A day as an ISO date."""
    return datetime.fromtimestamp(day * DAY, UTC).strftime("%Y-%m-%d")
