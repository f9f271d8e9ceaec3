# SPDX-License-Identifier: GPL-2.0-or-later
"""The classifier: the base model from an inert artefact, with what the site taught; NumPy alone.

Reads a folder that somebody else may have written: nothing in it is executed (no pickle), sizes
are checked before anything is read, every array is checked for type, shape, order and finite
values and compared with the hash in the manifest. The arrays stay a read-only memory map, so that
all forked workers share one copy. Scores hostile messages; `features` bounds them.

A folder holds manifest.toml, keys.npy (sorted 32-bit feature hashes), weights.npy (two rows of
half-precision weights: the whole model, and the one that sees shape only), known.npy (which keys
are common words), grams.npy (weights of grams of running text, by bucket), card.md, golden.jsonl.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.classifier import grams
from gateway.classifier.features import (
    FEATURE_VERSION,
    NO_LINK,
    SHAPE_WEIGHT,
    Features,
    extract,
    key,
    readable,
)
from gateway.classifier.mapping import ModelError, Watched, open_regular, read_array
from gateway.classifier.own import OwnFile, owner_of
from gateway.classifier.settings import OWN_FILE
from gateway.classifier.site import (
    Seen,
    SiteFile,
    blend,
    buckets,
    learned,
    shapes,
    share_of_base,
    sureness,
)
from gateway.classifier.stored import as_received
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from gateway.classifier.settings import ClassifierSettings
    from gateway.classifier.site import SiteModel
    from gateway.mail.types import Content

__all__ = ["Classifier", "Model", "ModelError", "Score"]

FORMAT_VERSION: Final = 2
MANIFEST: Final = "manifest.toml"
ARRAYS: Final[dict[str, np.dtype[Any]]] = {
    "keys.npy": np.dtype("<u4"),
    "weights.npy": np.dtype("<f2"),
    "known.npy": np.dtype("|u1"),
    "grams.npy": np.dtype("<f2"),
}

_FILE_LIMIT: Final = 8 << 20  # octets of one array file
_MANIFEST_LIMIT: Final = 64 << 10
_WEIGHT_LIMIT: Final = 10_000.0
_REASONS: Final = 5  # in each direction
_GRAM_REASONS: Final = 2
_FEW: Final = 4.0  # known words that give half of the certainty; a link counts for as many
_LOGIT_LIMIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Score:
    """What the classifier thinks of a message.

    `probability` of spam is calibrated and equals the logistic function of `logit`. `known` is the
    share of the message's words that the model knows: near 0 the text says little and shape alone
    is judged. `reasons` are the features that weighed most, with their share of the logit:
    positive speaks for spam. `sure`, 0 to 1, says how much there was to go by: little in a message
    of one line. `acting` is the logit to act upon: that of spam is taken back where there was little
    to read, and what the site's model does not know is left to the base model. Ranking is left to
    `logit`: among short messages, too, spam comes before ham.
    """

    probability: float
    logit: float
    known: float
    reasons: tuple[tuple[str, float], ...]
    sure: float
    acting: float

    @property
    def cautious(self) -> float:
        """The probability to act upon."""
        return sigmoid(self.acting)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The checked part of manifest.toml that scoring needs.

    `slope` and `offset` calibrate the whole model, the next two the one that sees shape only;
    `low` and `high` are the shares of known words between which the text gains its say, from
    `least` of the whole model to all of it;
    `threshold` is the probability from which a cold model calls it spam.
    """

    name: str
    date: str
    slope: float
    offset: float
    shape_slope: float
    shape_offset: float
    bias: float
    low: float
    high: float
    least: float
    threshold: float
    files: dict[str, str]
    trained_on: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A linear model over hashed features. Safe to share between threads and forked workers."""

    version: str
    manifest: Manifest
    keys: NDArray[np.uint32]
    weights: NDArray[np.float16]
    known: NDArray[np.uint8]
    grams: NDArray[np.float16]

    @classmethod
    def load(cls, directory: Path) -> Model:
        """Load and check the artefact in `directory`; raise `ModelError` if anything is wrong."""
        data, digest = _read_manifest(directory / MANIFEST)
        manifest = _check_manifest(data, directory / MANIFEST)
        keys, weights, known, dense = (
            read_array(directory / name, dtype, _FILE_LIMIT, manifest.files[name])
            for name, dtype in ARRAYS.items()
        )
        _check_arrays(directory, keys, weights, known)
        if dense.shape != (grams.BUCKETS,) or not np.all(np.abs(dense) < _WEIGHT_LIMIT):
            raise ModelError(f"{directory}: grams.npy is not what this version reads")
        return cls(f"{manifest.name}-{digest[:8]}", manifest, keys, weights, known, dense)

    def score(self, content: Content) -> Score:
        """Score a parsed message."""
        return self.score_features(extract(content))

    def score_features(self, features: Features) -> Score:
        """Score what `extract` found."""
        names = features.text + features.shape
        scale = self.manifest
        wanted = np.fromiter(map(key, names), np.uint32, len(names))
        at = np.searchsorted(self.keys, wanted)
        at[at == len(self.keys)] = 0
        found = self.keys[at] == wanted
        words = int(np.count_nonzero(self.known[at[: features.words]] & found[: features.words]))
        known = words / max(features.words, 1)
        share = min(max((known - scale.low) / (scale.high - scale.low), 0.0), 1.0)
        share = scale.least + (1 - scale.least) * share
        start, shapes = len(features.text), len(features.shape)
        unit = np.ones(len(names))
        unit[start:] = SHAPE_WEIGHT
        unit *= share * scale.slope / math.sqrt(max(start + SHAPE_WEIGHT**2 * shapes, 1.0))
        weigh = self.weights[0, at] * unit
        weigh[start:] += self.weights[1, at[start:]] * (
            (1 - share) * scale.shape_slope / math.sqrt(max(shapes, 1))
        )
        weigh *= found
        by_gram, letters = self._grams(features.running, share * scale.slope)
        logit = float(weigh.sum()) + by_gram
        logit += share * (scale.slope * scale.bias + scale.offset)
        logit += (1 - share) * (scale.shape_slope * scale.bias + scale.shape_offset)
        logit = min(max(logit, -_LOGIT_LIMIT), _LOGIT_LIMIT)
        reasons = _strongest(_reasons(names, weigh) + letters)
        evidence = words + (0 if NO_LINK in features.shape else _FEW)
        sure = evidence / (evidence + _FEW)
        return Score(sigmoid(logit), logit, known, reasons, sure, logit * sure if logit > 0 else logit)

    def _grams(self, running: str, slope: float) -> tuple[float, list[tuple[str, float]]]:
        """Weigh the grams of running text; give the sum, and those that weighed most."""
        places = grams.hashed(running)
        at = grams.distinct(places)
        if not len(at):
            return 0.0, []
        weigh = self.grams[at].astype(np.float64) * (slope / math.sqrt(len(at)))
        order = np.argsort(weigh)
        chosen = {*order[:_GRAM_REASONS].tolist(), *order[-_GRAM_REASONS:].tolist()}
        reasons = [
            (f"letters “{printable(grams.example(running, places, int(at[i])), 20)}”", float(weigh[i]))
            for i in sorted(chosen)
            if weigh[i]
        ]
        return float(weigh.sum()), reasons


def sigmoid(logit: float) -> float:
    """Turn a logit into a probability, without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)


def _reasons(names: tuple[str, ...], weigh: NDArray[np.float64]) -> list[tuple[str, float]]:
    order = np.argsort(weigh)
    strongest = [i for i in order[: -_REASONS - 1 : -1] if weigh[i] > 0]
    strongest += [i for i in order[:_REASONS] if weigh[i] < 0]
    return [(readable(names[i]), float(weigh[i])) for i in strongest]


def _strongest(reasons: list[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    reasons.sort(key=lambda reason: -abs(reason[1]))
    chosen = [reason for reason in reasons if reason[1] > 0][:_REASONS]
    chosen += [reason for reason in reasons if reason[1] < 0][:_REASONS]
    return _by_weight(chosen)


# ---------------------------------------------------------------- both models


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """The models that there are. With none, the classifier is unavailable, which is not ham."""

    base: Model | None = None
    site: SiteFile | None = None
    newer: Watched[Model] | None = None  # versions of the base that come while it is in use
    own: OwnFile | None = None
    per: str = "site"  # whose models `own` has

    @classmethod
    def open(cls, settings: ClassifierSettings, models: Path, state: Path) -> Classifier | None:
        """Load what the settings name, the shipped model by default; None if it is switched off.

        `state` is the folder of the site's own model. Raises `ModelError`.
        """
        if not settings.enabled:
            return None
        path = settings.site_path(state)
        folder = Path(settings.model) if settings.model else models / "base"
        base = Model.load(folder)
        newer = Watched(folder / MANIFEST, lambda manifest: Model.load(manifest.parent), base)
        own = OwnFile(path.with_name(OWN_FILE)) if path and settings.per != "site" else None
        return cls(base, SiteFile(path) if path else None, newer, own, settings.per)

    def current(self) -> Model | None:
        """The base model in use: a version that was saved to its folder since is taken within a second."""
        return (self.newer.current() if self.newer else None) or self.base

    @property
    def version(self) -> str:
        """What judged: the base model's version, and how much the site has taught."""
        model = self.current()
        names = [model.version] if model else []
        local = self.site.current() if self.site else None
        if local and learned(local.ham, local.spam):
            names.append(f"site-{local.ham + local.spam}")
        if self.own and (own := self.own.current()):
            names.append(f"own-{len(own)}")
        return "+".join(names) or "none"

    def score(
        self, raw: bytes, content: Content, client: bytes = b"", recipients: tuple[str, ...] = ()
    ) -> Score | None:
        """Score a message, given as received and as parsed; None if there is no model.

        `client` is what `stored.trace` says of who sent it. A message for recipients of several
        owners is judged by the models of all alone, since it has one score.
        """
        features = extract(content)
        model = self.current()
        base = model.score_features(features) if model else None
        local = self.site.current() if self.site else None
        count = learned(local.ham, local.spam) if local else 0
        own = self.own.current() if self.own else None
        owner = owner_of(recipients, self.per) if own else ""
        if (local is None or not count) and not owner:
            return base
        start = client + as_received(raw)
        seen = Seen(buckets(start), shapes(features.shape), base.logit if base else 0.0)
        score = with_site(local, seen, base, start) if local is not None and count else base
        added = own.score(owner, seen) if own and owner else None
        return with_own(score, owner, *added) if score and added else score


def with_site(local: SiteModel, seen: Seen, base: Score | None, start: bytes = b"") -> Score:
    """Add what the site taught to the score of the base model; `start` is what it says in its reasons."""
    count = learned(local.ham, local.spam)
    found = local.score(seen)
    logit = blend(count, found, seen.base)
    sure = sureness(found)
    pieces = [(piece, sure * weight) for piece, weight in local.telling(start)]
    share = share_of_base(count) if base else 0.0
    taught = sure * (logit - share * seen.base)
    rest = taught - sum(weight for _, weight in pieces)
    reasons = [(f"what else this site taught in {count} messages", rest)]
    reasons += [(f"this site on “{printable(piece, 40)}”", weight) for piece, weight in pieces]
    if base is None:
        return Score(sigmoid(logit), logit, 1.0, _by_weight(reasons), sure, taught)
    left = sure * share * base.logit + (1 - sure) * base.acting
    scale = left / base.logit if base.logit else 0.0
    reasons += [(name, weight * scale) for name, weight in base.reasons]
    sure += (1 - sure) * base.sure
    return Score(sigmoid(logit), logit, base.known, _by_weight(reasons), sure, taught + left)


def _by_weight(reasons: list[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(reasons, key=lambda reason: -abs(reason[1])))


def with_own(score: Score, owner: str, logit: float, count: int) -> Score:
    """Add what the model of an owner says to the score of the others."""
    total = score.logit + logit
    reason = (f"what {printable(owner, 100)} taught in {count} messages", logit)
    return dataclasses.replace(
        score,
        probability=sigmoid(total),
        logit=total,
        reasons=_by_weight([reason, *score.reasons]),
        acting=score.acting + logit,
    )


# ---------------------------------------------------------------- reading the artefact


def _read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    with os.fdopen(open_regular(path, _MANIFEST_LIMIT), "rb") as file:
        raw = file.read(_MANIFEST_LIMIT)
    try:
        return tomllib.loads(raw.decode("utf-8")), hashlib.sha256(raw).hexdigest()
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not TOML: {error}") from error


def _check_manifest(data: dict[str, Any], path: Path) -> Manifest:
    if data.get("format") != FORMAT_VERSION:
        raise ModelError(f"{path}: format {data.get('format')!r}, this program reads {FORMAT_VERSION}")
    if data.get("features") != FEATURE_VERSION:
        raise ModelError(
            f"{path}: made for features {data.get('features')!r}, this program has {FEATURE_VERSION}"
        )
    try:
        numbers = {name: float(data["scoring"][name]) for name in _NUMBERS}
        manifest = Manifest(
            name=str(data["name"]),
            date=str(data["date"]),
            files={name: str(data["files"][name]) for name in ARRAYS},
            trained_on=tuple(str(source["name"]) for source in data.get("training", [])),
            **numbers,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: missing or wrong value: {error}") from error
    if (
        not all(map(math.isfinite, numbers.values()))
        or not manifest.low < manifest.high
        or not 0 <= manifest.least <= 1
    ):
        raise ModelError(f"{path}: a number is out of range")
    if (
        min(manifest.slope, manifest.shape_slope) <= 0
        or not 0 < manifest.threshold < 1
        or not _NAME_SAFE.issuperset(manifest.name)
    ):
        raise ModelError(f"{path}: name, slope or threshold is out of range")
    return manifest


_NUMBERS = ("slope", "offset", "shape_slope", "shape_offset", "bias", "low", "high", "least", "threshold")
_NAME_SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def _check_arrays(
    directory: Path, keys: NDArray[np.uint32], weights: NDArray[np.float16], known: NDArray[np.uint8]
) -> None:
    if keys.ndim != 1 or not len(keys) or np.any(keys[1:] <= keys[:-1]):
        raise ModelError(f"{directory}: keys are empty or not in order")
    if weights.shape != (2, len(keys)) or known.shape != keys.shape:
        raise ModelError(f"{directory}: the arrays do not fit together")
    if not np.all(np.abs(weights) < _WEIGHT_LIMIT):  # false for NaN, too
        raise ModelError(f"{directory}: a weight is not a number, or too large")
    if np.any(known > 1):
        raise ModelError(f"{directory}: known.npy holds more than 0 and 1")
