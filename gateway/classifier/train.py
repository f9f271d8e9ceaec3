# SPDX-License-Identifier: GPL-2.0-or-later
"""Training of the base model, with scikit-learn; never imported while serving.

Reads labelled mail of strangers through `corpus`, the parser and `features`, each bounded; one
message at a time is in memory, then only its feature hashes are. The same input gives the same
bytes.

A model must generalise to sites it has not seen, so a feature is kept only if it occurs in two
collections of mail, each collection weighs the same, HTML and plain mail are balanced apart, and
calibration and threshold come from scores on a collection that the scoring model had not seen.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import optimize, sparse
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold
from sklearn.pipeline import Pipeline

from gateway.classifier import grams
from gateway.classifier.features import SHAPE_WEIGHT, extract, key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from gateway.mail.types import Content

BIAS: Final = -1.0  # fixed: what is not known leans to ham, whatever the training mail held
STRENGTH: Final = 100.0  # C of the logistic regression
LOW, HIGH = 0.2, 0.4  # shares of known words between which the text gains its say
LEAST: Final = 0.5  # share of the whole model in a text of which it knows no word
GRAMS: Final = 0.25  # share of the model that reads grams, added to that of words and shape
SHAPE_TRUST: Final = 0.85  # slope of the scores by shape alone, of that of the whole model
WEIGHT_CAP: Final = 8.0  # no message weighs more than this many times the mean of its collection
COMMON: Final = 0.01  # a word is known if this share of the messages has it
FALSE_POSITIVES: Final = 0.005  # of the shipped threshold, on collections left out


class TrainingError(Exception):
    """The mail given cannot make a model; the text says what is missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A labelled message as training keeps it: hashes of its features.

    The first `words` of `text` are words. `digest` is the same for messages that say the same.
    """

    name: str
    corpus: str
    spam: bool
    html: bool
    text: NDArray[np.uint32]
    shape: NDArray[np.uint32]
    words: int
    grams: NDArray[np.int32]
    digest: bytes


def example(name: str, corpus: str, spam: bool, content: Content) -> Example:
    """Make an example of a parsed message."""
    found = extract(content)
    text = np.fromiter(map(key, found.text), np.uint32, len(found.text))
    shape = np.fromiter(map(key, found.shape), np.uint32, len(found.shape))
    digest = hashlib.blake2b(np.sort(text).tobytes() or shape.tobytes(), digest_size=16).digest()
    html = any(part.kind == "html" for part in content.texts)
    buckets = grams.distinct(grams.hashed(found.running)).astype(np.int32)
    return Example(name, corpus, spam, html, text, shape, found.words, buckets, digest)


def distinct(examples: Iterable[Example]) -> Iterator[Example]:
    """Leave out what says the same as an earlier example of its collection."""
    seen: set[tuple[str, bytes]] = set()
    for one in examples:
        if (one.corpus, one.digest) not in seen:
            seen.add((one.corpus, one.digest))
            yield one


# ---------------------------------------------------------------- the parts of the pipeline


def _unit(one: Example) -> NDArray[np.float64]:
    """Give the values of text and shape features, of length 1 together."""
    values = np.ones(len(one.text) + len(one.shape))
    values[len(one.text) :] = SHAPE_WEIGHT
    return np.asarray(values / math.sqrt(max(float(values @ values), 1.0)))


def _flat(count: int) -> NDArray[np.float64]:
    return np.full(count, 1 / math.sqrt(max(count, 1)))


class Vocabulary(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Turns examples into rows of unit length, the features that are not kept included.

    So unknown text shrinks a score by itself. `part` is "all", "shape" or "grams". A feature is kept if it
    is in at least two messages of each of two collections (of one, if there is but one).
    """

    def __init__(self, part: str = "all") -> None:
        self.part = part

    def fit(self, examples: Sequence[Example], _y: object = None) -> Vocabulary:
        """Learn which features to keep."""
        groups = defaultdict(list)
        for one in examples:
            groups[one.corpus].append(self._keys(one))
        kept = []
        for arrays in groups.values():
            keys, counts = np.unique(np.concatenate(arrays), return_counts=True)
            kept.append(keys[counts >= 2])
        keys, counts = np.unique(np.concatenate(kept), return_counts=True)
        self.keys_ = keys[counts >= min(2, len(groups))]
        if not len(self.keys_):
            raise TrainingError("the messages have no features in common")
        return self

    def transform(self, examples: Sequence[Example]) -> sparse.csr_matrix:
        """Give one row of the matrix for each example."""
        columns, values, ends = [], [], [0]
        for one in examples:
            keys = self._keys(one)
            at = np.searchsorted(self.keys_, keys)
            at[at == len(self.keys_)] = 0
            kept = self.keys_[at] == keys
            columns.append(at[kept])
            values.append((_unit(one) if self.part == "all" else _flat(len(keys)))[kept])
            ends.append(ends[-1] + len(columns[-1]))
        shape = (len(examples), len(self.keys_))
        return sparse.csr_matrix((np.concatenate(values), np.concatenate(columns), ends), shape=shape)

    def _keys(self, one: Example) -> NDArray[np.uint32] | NDArray[np.int32]:
        if self.part == "all":
            return np.concatenate((one.text, one.shape))
        return one.shape if self.part == "shape" else one.grams


class FixedBiasLogistic(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Logistic regression whose bias is given, which scikit-learn's own cannot do.

    Weights are rounded to half precision, as the artefact holds them.
    """

    def __init__(self, strength: float = STRENGTH, bias: float = BIAS) -> None:
        self.strength = strength
        self.bias = bias

    def fit(
        self, rows: sparse.csr_matrix, labels: NDArray[np.bool_], sample_weight: NDArray[np.float64]
    ) -> FixedBiasLogistic:
        """Minimise the weighted logistic loss with an L2 penalty, by L-BFGS."""
        sign = np.where(labels, 1.0, -1.0)
        columns = rows.T.tocsr()

        def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            margin = (rows @ weights + self.bias) * sign
            value = float(sample_weight @ np.logaddexp(0, -margin)) + float(weights @ weights) / (
                2 * self.strength
            )
            pull = -sign * sample_weight / (1 + np.exp(np.minimum(margin, 500)))
            return value, columns @ pull + weights / self.strength

        options = {"maxiter": 200, "ftol": 1e-7}
        start = np.zeros(rows.shape[1])
        found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        self.coef_ = found.x.astype(np.float16)
        self.classes_ = np.array([False, True])
        return self

    def decision_function(self, rows: sparse.csr_matrix) -> NDArray[np.float64]:
        """Give the raw logit of each row."""
        return np.asarray(rows @ self.coef_.astype(np.float64) + self.bias)

    def predict(self, rows: sparse.csr_matrix) -> NDArray[np.bool_]:
        """Say which rows are more likely spam."""
        return self.decision_function(rows) > 0


def pipeline(part: str) -> Pipeline:
    """Join the two parts of a model that reads "all" (words and shape), "shape" only, or "grams"."""
    return Pipeline([("vocabulary", Vocabulary(part)), ("classify", FixedBiasLogistic())])


def balance(examples: Sequence[Example]) -> NDArray[np.float64]:
    """Weigh examples so that each collection counts the same, and so do its ham and its spam.

    Ham and spam are balanced among HTML mail and among plain mail, lest the format decide.
    """
    groups: dict[tuple[str, bool, bool], list[int]] = defaultdict(list)
    for index, one in enumerate(examples):
        groups[one.corpus, one.html, one.spam].append(index)
    weights = np.zeros(len(examples))
    for (corpus, html, _), members in groups.items():
        total = len(groups.get((corpus, html, False), ())) + len(groups.get((corpus, html, True), ()))
        weights[members] = min(total / 2 / len(members), WEIGHT_CAP)
    corpora = sorted({one.corpus for one in examples})
    for corpus in corpora:
        members = [index for index, one in enumerate(examples) if one.corpus == corpus]
        weights[members] *= len(examples) / len(corpora) / weights[members].sum()
    return weights


# ---------------------------------------------------------------- the whole model


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained model: sorted keys, weights (all; shape only), which keys are common words, grams."""

    keys: NDArray[np.uint32]
    weights: NDArray[np.float16]
    known: NDArray[np.uint8]
    grams: NDArray[np.float16]

    def raw(self, examples: Sequence[Example]) -> Raw:
        """Give uncalibrated logits of examples."""
        return Raw(*(np.array(column) for column in zip(*map(self._raw, examples), strict=True)))

    def _raw(self, one: Example) -> tuple[float, float, float]:
        keys = np.concatenate((one.text, one.shape))
        at = np.searchsorted(self.keys, keys)
        at[at == len(self.keys)] = 0
        found = self.keys[at] == keys
        known = np.count_nonzero(self.known[at[: one.words]] & found[: one.words])
        share = LEAST + (1 - LEAST) * min(max((known / max(one.words, 1) - LOW) / (HIGH - LOW), 0.0), 1.0)
        weights = self.weights[:, at].astype(np.float64) * found
        whole = float(weights[0] @ _unit(one)) + BIAS
        whole += float(self.grams[one.grams].astype(np.float64) @ _flat(len(one.grams)))
        shape = float(weights[1, len(one.text) :] @ _flat(len(one.shape))) + BIAS
        return whole, shape, share


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """Uncalibrated logits by the whole model and by shape alone; how much the whole one counts."""

    whole: NDArray[np.float64]
    shape: NDArray[np.float64]
    share: NDArray[np.float64]


def train(examples: Sequence[Example]) -> Trained:
    """Train on examples that hold both kinds; the order of the examples does not matter much."""
    labels = np.array([one.spam for one in examples])
    if labels.all() or not labels.any():
        raise TrainingError("training needs both ham and spam")
    weights = balance(examples)
    fitted = []
    for part in ("all", "shape"):
        line = pipeline(part)
        line.fit(examples, labels, classify__sample_weight=weights)
        fitted.append((line["vocabulary"].keys_, line["classify"].coef_))
    line = pipeline("grams")
    line.fit(examples, labels, classify__sample_weight=weights)
    dense = np.zeros(grams.BUCKETS, np.float16)
    dense[line["vocabulary"].keys_] = GRAMS * line["classify"].coef_.astype(np.float64)
    common = _common_words(examples)
    keys = np.unique(np.concatenate([common, *(part for part, _ in fitted)]))
    rows = np.zeros((2, len(keys)), np.float16)
    for row, (part, coefficients) in zip(rows, fitted, strict=True):
        row[np.searchsorted(keys, part)] = coefficients
    known = np.isin(keys, common).astype(np.uint8)
    used = rows.any(axis=0) | (known > 0)
    return Trained(keys[used], np.ascontiguousarray(rows[:, used]), known[used], dense)


def _common_words(examples: Sequence[Example]) -> NDArray[np.uint32]:
    keys, counts = np.unique(np.concatenate([one.text[: one.words] for one in examples]), return_counts=True)
    return keys[counts >= max(2, COMMON * len(examples))]


@dataclass(frozen=True, slots=True, eq=False)
class Unseen:
    """Logits of examples by models that had not seen their collection (or their fold)."""

    examples: tuple[Example, ...]
    raw: Raw

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Which examples are spam."""
        return np.array([one.spam for one in self.examples])

    @property
    def groups(self) -> NDArray[np.str_]:
        """The collection of each example."""
        return np.array([one.corpus for one in self.examples])


def cross_validate(examples: Sequence[Example]) -> Iterator[tuple[str, Unseen]]:
    """Score each collection by a model of the others; with one collection, each of five folds."""
    labels = np.array([one.spam for one in examples])
    groups = np.array([one.corpus for one in examples])
    several = len(set(groups)) > 1
    splitter: Any = LeaveOneGroupOut() if several else StratifiedKFold(5, shuffle=True, random_state=0)
    if not several and min(labels.sum(), (~labels).sum()) < 5:
        raise TrainingError("training needs at least five ham and five spam messages")
    for number, (train_on, test_on) in enumerate(
        splitter.split(labels, labels, groups if several else None), 1
    ):
        model = train([examples[i] for i in train_on])
        held = tuple(examples[i] for i in test_on)
        yield (held[0].corpus if several else f"fold {number}"), Unseen(held, model.raw(held))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Turns raw logits into that of a probability; `threshold` is the shipped probability."""

    slope: float
    offset: float
    shape_slope: float
    shape_offset: float
    threshold: float = 0.5

    def logits(self, raw: Raw) -> NDArray[np.float64]:
        """Give calibrated logits, as serving does."""
        whole = self.slope * raw.whole + self.offset
        shape = self.shape_slope * raw.shape + self.shape_offset
        return np.asarray(raw.share * whole + (1 - raw.share) * shape)


def calibrate(parts: Sequence[Unseen]) -> Calibration:
    """Fit Platt's line to unseen scores, each collection weighing the same, and set the threshold.

    Shape alone keeps most of that slope: a line of its own ranks text that is half known worse.
    """
    labels = np.concatenate([part.labels for part in parts])
    weights = np.concatenate([_half_and_half(part.labels) for part in parts])
    raw = np.concatenate([part.raw.whole for part in parts])
    line = LogisticRegression(C=1e6).fit(raw[:, None], labels, sample_weight=weights)
    slope, offset = max(float(line.coef_[0, 0]), 1e-3), float(line.intercept_[0])
    calibration = Calibration(
        round(slope, 6), round(offset, 6), round(SHAPE_TRUST * slope, 6), round(offset, 6)
    )
    ham = np.concatenate([calibration.logits(part.raw)[~part.labels] for part in parts])
    share = np.concatenate([np.full(n := int((~part.labels).sum()), 1 / max(n, 1)) for part in parts])
    order = np.argsort(-ham, kind="stable")
    above = int(np.searchsorted(np.cumsum(share[order]), FALSE_POSITIVES * len(parts)))
    threshold = 1 / (1 + math.exp(-float(ham[order][min(above, len(ham) - 1)])))
    return replace(calibration, threshold=round(min(max(threshold, 0.5), 0.999), 6))


def _half_and_half(labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    spam = max(int(labels.sum()), 1)
    ham = max(len(labels) - spam, 1)
    return np.where(labels, 0.5 / spam, 0.5 / ham)
