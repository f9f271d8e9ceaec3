# SPDX-License-Identifier: GPL-2.0-or-later
"""The shipped base model on mail of sites that taught nothing, and models made without a collection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contrib.train import collections
from gateway.classifier import corpus, train
from gateway.classifier.evaluate import auc_loss, missed
from gateway.classifier.model import Model
from gateway.mail.mime import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from contrib.evaluate.site import Plan, Trec

Scored = dict[str, tuple[list[str], "NDArray[np.bool_]", "NDArray[np.float64]"]]  # names, labels, logits


def trec(read: Trec, plan: Plan) -> dict[str, float]:
    """The shipped model on the slice of TREC 2007 that everything is tested on."""
    labels, scores = read.labels[slice(*plan.test)], read.base[slice(*plan.test)]
    ham, spam = scores[~labels], scores[labels]
    return {
        "cold_trec_1mauc": round(auc_loss(ham, spam), 3),
        "cold_trec_fnr1": round(missed(ham, spam, 0.01), 2),
        "cold_trec_fnr01": round(missed(ham, spam, 0.001), 2),
    }


def indonesian(folder: Path, directory: Path) -> dict[str, float]:
    """Ham in a language that the model does not know."""
    model = Model.load(directory)
    samples = corpus.read_index(folder / collections.INDONESIAN)
    found = [model.score(parse(sample.raw)).probability for sample in samples if not sample.spam]
    return {
        "cold_indonesian_fpr": round(100 * float((np.array(found) >= model.manifest.threshold).mean()), 3)
    }


def left_out(folder: Path, scratch: Path, say: Callable[[str], None]) -> tuple[dict[str, float], Scored]:
    """Train without each collection, and without each folder of Enron, as the base model is trained."""
    examples = list(train.distinct(collections.examples(folder, scratch)))
    parts = dict(train.cross_validate(examples))
    calibration = train.calibrate(list(parts.values()))
    figures, scored = {}, {}
    for name, part in parts.items():
        labels, logits = part.labels, calibration.logits(part.raw)
        figures[f"cold_loco_{name}_1mauc"] = round(auc_loss(logits[~labels], logits[labels]), 3)
        scored[name] = ([one.name for one in part.examples], labels, logits)
    figures["cold_loco_1mauc"] = round(float(np.mean(list(figures.values()))), 3)
    ham, threshold = [], np.log(calibration.threshold / (1 - calibration.threshold))
    for number in (1, 2, 3, 4):
        say(f"  without enron{number}")
        inside = [f"/enron{number}/" in one.name for one in examples]
        model = train.train([one for one, held in zip(examples, inside, strict=True) if not held])
        held = [one for one, held in zip(examples, inside, strict=True) if held and not one.spam]
        ham.append(calibration.logits(model.raw(held)))
    figures["cold_enron_fpr"] = round(100 * float((np.concatenate(ham) >= threshold).mean()), 3)
    return figures, scored


def sample(
    scored: Scored, count: int
) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.float64], list[bytes]]]:
    """Take every so-many-th message of each set: labels, our logits, and the messages."""
    taken = {}
    for name, (names, labels, logits) in scored.items():
        chosen = np.arange(0, len(names), max(len(names) // count, 1))[:count]
        messages = [_message(Path(names[index])) for index in chosen]
        taken[name] = (labels[chosen], logits[chosen], messages)
    return taken


def _message(path: Path) -> bytes:
    return next(corpus.read(path)).raw


def of_trec(read: Trec, plan: Plan) -> Scored:
    """The tested slice of TREC, as `sample` takes it."""
    chosen = slice(*plan.test)
    return {"trec": ([str(path) for path in read.paths[chosen]], read.labels[chosen], read.base[chosen])}
