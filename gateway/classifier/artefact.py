# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing a trained model as an inert artefact, and checking its golden scores.

Writes into a folder of ours; each file replaces the old one whole and the manifest comes last, so
a reader in between sees a hash that does not fit and keeps what it had.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gateway.classifier.features import FEATURE_VERSION
from gateway.classifier.mapping import array_bytes, replace
from gateway.classifier.model import FORMAT_VERSION, MANIFEST, Model, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from gateway.classifier.train import Calibration, Trained
    from gateway.mail.types import Content

GOLDEN = "golden.jsonl"
CARD = "card.md"
_GOLDEN_LIMIT = 4 << 20
TOLERANCE = 1e-6  # of a golden logit


@dataclass(frozen=True, slots=True)
class Source:
    """A collection of mail that a model was trained on."""

    name: str
    ham: int
    spam: int
    terms: str = ""


def save(
    directory: Path,
    trained: Trained,
    calibration: Calibration,
    sources: Iterable[Source],
    *,
    name: str,
    date: str,
    scoring: Mapping[str, float],
) -> None:
    """Write arrays and manifest into `directory`; `scoring` holds bias, low, high and least.

    Refuses a folder that holds other things. Raises `ModelError`, `OSError`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()) and not (directory / MANIFEST).is_file():
        raise ModelError(f"{directory}: not empty, and not a model; name a new folder")
    arrays: dict[str, NDArray[Any]] = {
        "keys.npy": trained.keys,
        "weights.npy": trained.weights,
        "known.npy": trained.known,
        "grams.npy": trained.grams,
    }
    hashes = {}
    for file, array in arrays.items():
        data = array_bytes(array)
        hashes[file] = hashlib.sha256(data).hexdigest()
        replace(directory / file, data)
    numbers = {**asdict(calibration), **scoring}
    lines = [
        f"format = {FORMAT_VERSION}",
        f"features = {FEATURE_VERSION}",
        f"name = {json.dumps(name)}",
        f"date = {json.dumps(date)}",
        "",
        "[scoring]",
        *(f"{key} = {value!r}" for key, value in numbers.items()),
        "",
        "[files]",
        *(f'"{file}" = "{digest}"' for file, digest in hashes.items()),
    ]
    for source in sources:
        lines += [
            "",
            "[[training]]",
            f"name = {json.dumps(source.name)}",
            f"ham = {source.ham}",
            f"spam = {source.spam}",
            f"terms = {json.dumps(source.terms)}",
        ]
    replace(directory / MANIFEST, ("\n".join(lines) + "\n").encode())


# ---------------------------------------------------------------- golden scores


@dataclass(frozen=True, slots=True)
class Golden:
    """An invented message with the score it must get."""

    name: str
    message: str
    logit: float
    known: float


def golden(directory: Path) -> Iterator[Golden]:
    """Read the golden scores of a model; none if it has no such file."""
    path = directory / GOLDEN
    if not path.is_file():
        return
    if path.stat().st_size > _GOLDEN_LIMIT:
        raise ModelError(f"{path}: more than {_GOLDEN_LIMIT} octets")
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            yield Golden(str(row["name"]), str(row["message"]), float(row["logit"]), float(row["known"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"{path}:{number}: not a golden score: {error}") from error


def write_golden(directory: Path, messages: Mapping[str, str], parse: Callable[[bytes], Content]) -> None:
    """Score `messages`, by name, with the model in `directory`, and keep the scores beside it."""
    model = Model.load(directory)
    lines = []
    for name, message in messages.items():
        score = model.score(parse(message.encode()))
        row = {
            "name": name,
            "logit": round(score.logit, 9),
            "known": round(score.known, 9),
            "message": message,
        }
        lines.append(json.dumps(row))
    replace(directory / GOLDEN, ("\n".join(lines) + "\n").encode())


def check_golden(directory: Path, model: Model, parse: Callable[[bytes], Content]) -> tuple[str, ...]:
    """Name the golden messages whose score is not what it was when the model was made."""
    wrong = []
    for row in golden(directory):
        score = model.score(parse(row.message.encode()))
        if abs(score.logit - row.logit) > TOLERANCE or abs(score.known - row.known) > TOLERANCE:
            wrong.append(f"{row.name}: {score.logit:.6f} instead of {row.logit:.6f}")
    return tuple(wrong)
