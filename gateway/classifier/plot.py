# SPDX-License-Identifier: GPL-2.0-or-later
"""A picture of an evaluation, as SVG: spam missed against ham called spam, and calibration.

Reads numbers, and names of sets that may come from hostile file names; those are escaped. Text only:
no library draws here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

import numpy as np

from gateway.mail.headers import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from gateway.classifier.evaluate import Evaluation

_SIDE: Final = 360  # of a panel
_LEFT: Final = 70
_TOP: Final = 50
_LEAST: Final = 0.01  # percent: where the logarithmic axes begin
_COLOURS: Final = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#566573", "#117a65", "#a04000")
_TICKS: Final = (0.01, 0.1, 1.0, 10.0, 100.0)


def svg(title: str, sets: Sequence[tuple[str, Evaluation, NDArray[np.bool_], NDArray[np.float64]]]) -> str:
    """Draw sets, each a name, its figures, labels and probabilities."""
    width, height = 2 * (_SIDE + _LEFT) + 60, _SIDE + _TOP + 60 + 18 * len(sets)
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="14">{_safe(title)}</text>',
    ]
    second = _LEFT + _SIDE + _LEFT
    parts += _errors_axes(_LEFT)
    parts += _calibration_axes(second)
    for number, (name, figures, labels, probabilities) in enumerate(sets):
        colour = _COLOURS[number % len(_COLOURS)]
        if figures.auc_loss is not None:
            parts.append(_line(colour, _errors(labels, probabilities), _LEFT))
        points = [(b.mean, b.spam) for b in figures.bins]
        parts.append(_line(colour, ((x, 1 - y) for x, y in points), second))
        parts += [
            f'<circle cx="{second + x * _SIDE:.1f}" cy="{_TOP + (1 - y) * _SIDE:.1f}" r="3" fill="{colour}"/>'
            for x, y in points
        ]
        at = _TOP + _SIDE + 52 + 18 * number
        loss = "" if figures.auc_loss is None else f", 1-AUC {figures.auc_loss:.4f} %"
        legend = _safe(f"{name}: {figures.ham} ham, {figures.spam} spam{loss}")
        parts.append(f'<rect x="{_LEFT}" y="{at - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 16}" y="{at}">{legend}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _errors(labels: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> Iterator[tuple[float, float]]:
    """Give places (0 to 1) of the curve: for each threshold, shares of ham above and of spam below."""
    ham, spam = np.sort(probabilities[~labels]), np.sort(probabilities[labels])
    cuts = np.unique(np.concatenate((ham, spam)))
    cuts = cuts[np.unique(np.linspace(0, len(cuts) - 1, 800).astype(int))]
    for cut in cuts:
        false = 100 * (len(ham) - np.searchsorted(ham, cut, "left")) / len(ham)
        missed = 100 * np.searchsorted(spam, cut, "left") / len(spam)
        yield _place(float(false)), 1 - _place(float(missed))


def _place(percent: float) -> float:
    low, high = math.log10(_LEAST), 2.0
    return (math.log10(max(percent, _LEAST)) - low) / (high - low)


def _errors_axes(left: int) -> list[str]:
    parts = [_frame(left, "ham called spam, %", "spam missed, %")]
    for tick in _TICKS:
        at = _place(tick) * _SIDE
        parts += _tick(left, at, f"{tick:g}")
    return parts


def _calibration_axes(left: int) -> list[str]:
    parts = [_frame(left, "probability of spam, mean", "share of spam")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += _tick(left, tick * _SIDE, f"{tick:g}")
    ends = f'x1="{left}" y1="{_TOP + _SIDE}" x2="{left + _SIDE}" y2="{_TOP}"'
    return [*parts, f'<line {ends} stroke="#bbb" stroke-dasharray="4 3"/>']


def _tick(left: int, at: float, text: str) -> list[str]:
    x, y = left + at, _TOP + _SIDE - at
    return [
        f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_TOP + _SIDE}" stroke="#eee"/>',
        f'<line x1="{left}" y1="{y:.1f}" x2="{left + _SIDE}" y2="{y:.1f}" stroke="#eee"/>',
        f'<text x="{x:.1f}" y="{_TOP + _SIDE + 15}" text-anchor="middle">{text}</text>',
        f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>',
    ]


def _frame(left: int, below: str, beside: str) -> str:
    middle = _TOP + _SIDE / 2
    return (
        f'<rect x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#333"/>'
        f'<text x="{left + _SIDE / 2}" y="{_TOP + _SIDE + 32}" text-anchor="middle">{below}</text>'
        f'<text transform="translate({left - 44} {middle}) rotate(-90)" text-anchor="middle">{beside}</text>'
    )


def _line(colour: str, places: Iterator[tuple[float, float]], left: int) -> str:
    points = " ".join(f"{left + x * _SIDE:.1f},{_TOP + y * _SIDE:.1f}" for x, y in places)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _safe(text: str) -> str:
    return escape(printable(text, 200))
