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
import tarfile
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from contrib.train.card import Figures, card
from gateway.classifier import artefact, corpus, train
from gateway.classifier.evaluate import Evaluation, evaluate
from gateway.classifier.mapping import replace
from gateway.mail.mime import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of one kind of mail in an archive."""

    archive: str
    corpus: str
    folder: str
    spam: bool


TERMS = {
    "spamassassin": "SpamAssassin public corpus, 2002-2003; copyright stays with the senders",
    "lists": "public mailing-list archives, 2019-2021; copyright stays with the senders",
    "csdmc": "CSDMC 2010 spam corpus, free for research; copyright stays with the senders",
    "enron": "Enron-Spam 1-4, preprocessed; the mail became public by order of a court",
}
PARTS = (
    *(
        Part("spamassassin", "spamassassin", f"spamassassin/{f}", False)
        for f in ("easy_ham", "easy_ham_2", "hard_ham")
    ),
    *(Part("spamassassin", "spamassassin", f"spamassassin/{f}", True) for f in ("spam", "spam_2")),
    Part("lists-2019-2021", "lists", "modern_lists_2019_2021/ham", False),
    Part("lists-2019-2021", "lists", "modern_lists_2019_2021/spam", True),
    Part("csdmc2010", "csdmc", "csdmc2010_nonSA/ham", False),
    Part("csdmc2010", "csdmc", "csdmc2010_nonSA/spam", True),
    *(
        Part("enron1-4_preprocessed", "enron", f"enron{n}/{kind}", kind == "spam")
        for n in (1, 2, 3, 4)
        for kind in ("ham", "spam")
    ),
)
TREC = "trec07p_1_30000"
TREC_FROM = 25_000  # lines of its index that are left out; some of the labels before are wrong


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
    examples = list(train.distinct(_examples(options.corpus, scratch)))
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
    sources = [artefact.Source(n, counts[n, False], counts[n, True], t) for n, t in TERMS.items()]
    scoring = {"bias": train.BIAS, "low": train.LOW, "high": train.HIGH}
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


def _examples(folder: Path, scratch: Path) -> Iterator[train.Example]:
    for archive in dict.fromkeys(part.archive for part in PARTS):
        _unpack(folder / f"{archive}.tar.xz", scratch)
        _say(f"reading {archive}")
        for part in PARTS:
            if part.archive == archive:
                for sample in corpus.read(scratch / part.folder):
                    yield train.example(sample.name, part.corpus, part.spam, parse(sample.raw))


def _unpack(archive: Path, scratch: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")


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
        for sample in corpus.read_index(folder / "indonesian-a.csv")
    ]
    figures["indonesian-a"] = Figures(_measured(indonesian, trained, calibration), "not trained on")
    _unpack(folder / f"{TREC}.tar.xz", scratch)
    trec = [
        train.example(sample.name, "trec", bool(sample.spam), parse(sample.raw))
        for number, sample in enumerate(corpus.read_index(scratch / TREC / "index"))
        if number >= TREC_FROM
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
