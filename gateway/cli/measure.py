# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden model evaluate`: how good the classifier is on labelled mail, set by set.

Reads hostile mail through `corpus` and the parser, which bound it; prints names only as safe text.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

from gateway.classifier.stored import received
from gateway.cli.main import EX_NOINPUT, Failure
from gateway.cli.output import console, facts, print_json, safe, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from gateway.classifier.corpus import Sample
    from gateway.classifier.evaluate import Evaluation
    from gateway.classifier.model import Classifier

    Measured = tuple[str, Evaluation, NDArray[np.bool_], NDArray[np.float64]]

_EX_CANTCREAT = 73


def measure(
    classifier: Classifier, threshold: float, sets: Iterable[tuple[str, Iterable[Sample]]]
) -> tuple[list[Measured], float]:
    """Score sets of labelled mail; give each with its figures, and milliseconds a message."""
    import numpy as np  # noqa: PLC0415  # help stays quick

    from gateway.classifier.evaluate import evaluate  # noqa: PLC0415
    from gateway.mail.mime import parse  # noqa: PLC0415

    found: list[Measured] = []
    count, started = 0, time.process_time()
    for name, samples in sets:
        labels, probabilities = [], []
        for sample in samples:
            client, raw = received(sample.raw)
            score = classifier.score(raw, parse(raw), client)
            assert score is not None  # it has a model
            labels.append(bool(sample.spam))
            probabilities.append(score.probability)
        if labels:
            count += len(labels)
            arrays = np.array(labels), np.array(probabilities)
            found.append((name, evaluate(*arrays, threshold), *arrays))
    if not found:
        raise Failure("there is no mail to measure with", EX_NOINPUT)
    return found, 1000 * (time.process_time() - started) / count


def tell(version: str, found: Sequence[Measured], spent: float, *, as_json: bool, out: Path | None) -> None:
    """Print figures, and write them as JSON and as a picture to the folder `out`."""
    sets = [{"set": name, **dataclasses.asdict(figures)} for name, figures, _, _ in found]
    answer = {"model": version, "milliseconds": round(spent, 3), "sets": sets}
    if out is not None:
        _write(out, version, found, answer)
    if as_json:
        print_json(answer)
        return
    screen = console()
    screen.print(facts((("model", version), ("processor time a message", f"{spent:.2f} ms, with parsing"))))
    for name, figures, _, _ in found:
        screen.print()
        screen.print(facts(_rows(name, figures)))
        bins = (
            (f"{b.low:g} to {b.high:g}", str(b.count), f"{100 * b.mean:.1f} %", f"{100 * b.spam:.1f} %")
            for b in figures.bins
        )
        title = "Calibration: mean should equal spam"
        screen.print(table(("probability", "messages>", "mean>", "spam>"), bins, title=title))
    if out is not None:
        screen.print(safe(f"written to {out}/evaluation.json and {out}/evaluation.svg", 1_000))


def _rows(name: str, figures: Evaluation) -> Iterable[tuple[str, object]]:
    return (
        ("set", safe(name, 1_000)),
        ("messages", f"{figures.ham} ham, {figures.spam} spam"),
        ("1-AUC", _percent(figures.auc_loss)),
        ("spam missed at 0.1 % false positives", _percent(figures.missed_01)),
        ("spam missed at 1 % false positives", _percent(figures.missed_1)),
        (f"at the threshold {figures.threshold:g}: ham called spam", _percent(figures.false_positives)),
        (f"at the threshold {figures.threshold:g}: spam missed", _percent(figures.missed)),
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.4f} %"


def _write(out: Path, version: str, found: Sequence[Measured], answer: dict[str, Any]) -> None:
    from gateway.classifier.plot import svg  # noqa: PLC0415  # help stays quick

    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(answer, indent=2) + "\n", "utf-8")
        (out / "evaluation.svg").write_text(svg(f"Mailwarden, {version}", found), "utf-8")
    except OSError as error:
        raise Failure(f"{out}: {error.strerror}", _EX_CANTCREAT) from error
