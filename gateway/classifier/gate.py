# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a newly learned model may replace the one in use: no worse, as far as can be told.

Reads numbers only. Both models score the same mail, which neither learned; they are compared pair
by pair, so that a difference counts only where they disagree (the sign test, exact).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

SIGNIFICANT: Final = 0.01  # how likely chance alone may be, for "worse" to be said
STRANGERS: Final = 0.2  # the same where reporters taught: three more errors and none fewer are enough
FALSE_FIXED: Final = 0.15  # share of the fixed ham that teaching may turn into spam
MISSED_FIXED: Final = 0.25  # share of the fixed spam that teaching may let through
MAILBOX: Final = 100  # messages of one label that may be a folder taken for another
OPPOSITE: Final = 1 / 3  # share of such a folder that the model in use may be sure is of the other kind
CUT: Final = 2.2  # logit (probability 0.9) from which a message counts as called spam


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome: `passed`, why not, and the counts behind it.

    The last six are of the fixed regression set, as `false_before` and so on are of the site's own mail.
    """

    passed: bool
    why: str
    ham: int
    spam: int
    false_before: int  # ham called spam by the model in use
    false_after: int
    missed_before: int  # spam not called so
    missed_after: int
    fixed_ham: int = 0
    fixed_spam: int = 0
    fixed_false_before: int = 0
    fixed_false_after: int = 0
    fixed_missed_before: int = 0
    fixed_missed_after: int = 0


def compare(
    labels: NDArray[np.bool_],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    false_positives: float,
    significant: float = SIGNIFICANT,
) -> Report:
    """Compare the logits of two models on the same mail; `false_positives` is a ceiling in percent."""
    ham, spam = ~labels, labels
    false_old, false_new = (before >= CUT) & ham, (after >= CUT) & ham
    missed_old, missed_new = (before < CUT) & spam, (after < CUT) & spam
    more_false, fewer_false = int((false_new & ~false_old).sum()), int((false_old & ~false_new).sum())
    more_missed, fewer_missed = int((missed_new & ~missed_old).sum()), int((missed_old & ~missed_new).sum())
    ceiling = false_positives / 100 * max(int(ham.sum()), 1)
    why = ""
    if false_new.sum() > max(ceiling, int(false_old.sum())) and more_false - fewer_false > 1:
        why = f"{int(false_new.sum())} of {int(ham.sum())} ham called spam, more than {false_positives:g} %"
    elif chance(more_false, fewer_false) < significant:
        why = f"ham called spam: {more_false} more, {fewer_false} fewer"
    elif chance(more_missed, fewer_missed) < significant:
        why = f"spam missed: {more_missed} more, {fewer_missed} fewer"
    return Report(
        not why,
        why,
        int(ham.sum()),
        int(spam.sum()),
        int(false_old.sum()),
        int(false_new.sum()),
        int(missed_old.sum()),
        int(missed_new.sum()),
    )


def regress(
    report: Report,
    labels: NDArray[np.bool_],
    base: NDArray[np.float64],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
) -> Report:
    """Add what became of the fixed regression set, by the logits of the base alone and of both models.

    The bounds are relative to the base, so that many small steps do not add up to a large one; honest
    teaching of sites that differ much from the set stays well within them.
    """
    ham, spam = ~labels, labels
    false = [int((logits[ham] >= CUT).sum()) for logits in (base, before, after)]
    missed = [int((logits[spam] < CUT).sum()) for logits in (base, before, after)]
    why = report.why
    if not why and false[2] > max(false[0] + FALSE_FIXED * ham.sum(), false[1]):
        why = f"{false[2]} of {int(ham.sum())} ham of the regression set called spam, {false[1]} before"
    elif not why and missed[2] > max(missed[0] + MISSED_FIXED * spam.sum(), missed[1]):
        why = f"{missed[2]} of {int(spam.sum())} spam of the regression set missed, {missed[1]} before"
    return replace(
        report,
        passed=not why,
        why=why,
        fixed_ham=int(ham.sum()),
        fixed_spam=int(spam.sum()),
        fixed_false_before=false[1],
        fixed_false_after=false[2],
        fixed_missed_before=missed[1],
        fixed_missed_after=missed[2],
    )


def doubt(report: Report, labels: Sequence[bool], before: Sequence[float]) -> Report:
    """Refuse a folder that was labelled as a whole, and that the model in use contradicts by much.

    `before` are that model's logits. A few messages it is wrong about are what teaching is for.
    """
    for spam, name in ((True, "ham"), (False, "spam")):
        logits = [logit for label, logit in zip(labels, before, strict=True) if label is spam]
        against = sum((-logit if spam else logit) >= CUT for logit in logits)
        if report.passed and len(logits) >= MAILBOX and against > OPPOSITE * len(logits):
            return replace(report, passed=False, why=f"{against} of {len(logits)} look very much like {name}")
    return report


def chance(worse: int, better: int) -> float:
    """Give the probability of so many worse, or more, if neither model were better."""
    total = worse + better
    return float(sum(comb(total, k) for k in range(worse, total + 1)) / 2**total)
