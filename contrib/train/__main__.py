# SPDX-License-Identifier: GPL-2.0-or-later
"""Reproduce the base model in models/base from public collections of mail, with one command.

    python -m contrib.train --corpus ../shared/corpus --out models/base

Unpacks into a temporary folder, which is removed; nothing of any message is kept but weights of
features that occur in two collections. TREC 2007 is for evaluation only, and is only evaluated.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from contrib.train import collections
from contrib.train.card import Figures, card
from gateway.classifier import artefact, corpus, train
from gateway.classifier.evaluate import Evaluation, evaluate
from gateway.classifier.mapping import replace
from gateway.mail.mime import parse

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Train, measure, and write the model with its card and golden scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d", time.gmtime(_epoch())), help="YYYY-MM-DD")
    parser.add_argument("--quick", action="store_true", help="train only, measure nothing but the threshold")
    options = parser.parse_args()
    # One thread: sums in one order give the same bytes, and the other cores stay free.
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="mailwarden-train-") as scratch:
        _run(options, Path(scratch))


def _run(options: argparse.Namespace, scratch: Path) -> None:
    examples = list(train.distinct(collections.examples(options.corpus, scratch)))
    _say(f"{len(examples)} messages, each once")
    figures: dict[str, Figures] = {}
    parts = dict(train.cross_validate(examples))
    calibration = train.calibrate(list(parts.values()))
    for name, part in parts.items():
        measured = _measure(part.labels, part.raw, calibration)
        figures[f"{name}, left out of training"] = Figures(measured, "cross-validated")
    trained = train.train(examples)
    _say(f"{len(trained.keys)} features, {calibration}")
    counts = Counter((one.corpus, one.spam) for one in examples)
    sources = [artefact.Source(n, counts[n, False], counts[n, True], t) for n, t in collections.TERMS.items()]
    scoring = {"bias": train.BIAS, "low": train.LOW, "high": train.HIGH, "least": train.LEAST}
    artefact.save(options.out, trained, calibration, sources, name="base", date=options.date, scoring=scoring)
    messages = tomllib.loads((HERE / "golden.toml").read_text("utf-8"))
    artefact.write_golden(options.out, messages, parse)
    if not options.quick:
        figures |= _cold(options.corpus, scratch, examples, trained, calibration)
        text = card(options.date, len(trained.keys), calibration, sources, figures)
        replace(options.out / artefact.CARD, text.encode())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _say(f"done: {usage.ru_utime + usage.ru_stime:.0f} s of processor time, {usage.ru_maxrss / 1e6:.2f} GB")


def _epoch() -> float:
    return float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def _cold(
    folder: Path,
    scratch: Path,
    examples: list[train.Example],
    trained: train.Trained,
    calibration: train.Calibration,
) -> dict[str, Figures]:
    """Measure on mail that no part of the training has seen."""
    figures = {}
    for number in (1, 2, 3, 4):
        inside = [f"/enron{number}/" in one.name for one in examples]
        model = train.train([one for one, held in zip(examples, inside, strict=True) if not held])
        figures[f"enron{number}, left out of training"] = Figures(
            _measured([one for one, held in zip(examples, inside, strict=True) if held], model, calibration),
            "its folder left out",
        )
    indonesian = [
        train.example(sample.name, "indonesian", bool(sample.spam), parse(sample.raw))
        for sample in corpus.read_index(folder / collections.INDONESIAN)
    ]
    figures["indonesian-a"] = Figures(_measured(indonesian, trained, calibration), "not trained on")
    trec = [
        train.example(sample.name, "trec", bool(sample.spam), parse(sample.raw))
        for number, sample in enumerate(collections.trec(folder, scratch))
        if number >= collections.TREC_FROM
    ]
    figures["TREC 2007, messages 25001-30000"] = Figures(
        _measured(trec, trained, calibration), "not trained on"
    )
    return figures


def _measured(
    examples: list[train.Example], model: train.Trained, calibration: train.Calibration
) -> Evaluation:
    return _measure(np.array([one.spam for one in examples]), model.raw(examples), calibration)


def _measure(labels: NDArray[np.bool_], raw: train.Raw, calibration: train.Calibration) -> Evaluation:
    return evaluate(labels, 1 / (1 + np.exp(-calibration.logits(raw))), calibration.threshold)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
