# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden model`: train, measure and examine the spam classifier.

Reads hostile mail through `corpus` and the parser, which bound it; prints file names and features
of it only as safe text. A message that breaks the parser is counted, and told at the end.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.classifier.corpus import CorpusError, Sample, as_message, read, read_index
from gateway.classifier.model import Classifier, Model, ModelError
from gateway.classifier.settings import ClassifierSettings
from gateway.classifier.site import SiteFile
from gateway.classifier.stored import received
from gateway.cli import learn as site
from gateway.cli.main import (
    EX_DATAERR,
    EX_NOINPUT,
    EX_SOFTWARE,
    EX_UNAVAILABLE,
    EX_USAGE,
    Context,
    Failure,
    config_option,
    json_option,
)
from gateway.cli.measure import measure, tell
from gateway.cli.output import console, facts, octets, print_json, progress, safe, table
from gateway.data import data_dir
from gateway.store.database import state_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


_SIZE_LIMIT = 200_000_000
_EX_CANTCREAT = 73

model_option = click.option(
    "--model",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the model; by default the one that the configuration names, or the shipped one.",
)


def sources(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name labelled mail."""
    path = click.Path(exists=True, path_type=Path)
    text = "folder, Maildir, mbox or file; may be repeated."
    options = (
        click.option("--ham", multiple=True, type=path, metavar="PATH", help=f"Wanted mail: {text}"),
        click.option("--spam", multiple=True, type=path, metavar="PATH", help=f"Unwanted mail: {text}"),
        click.option(
            "--index",
            multiple=True,
            type=path,
            metavar="FILE",
            help='Lines of "ham|spam PATH", a TSV of the same, or a CSV with columns label and text.',
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def model() -> None:
    """Train and examine the classifier.

    \b
    Examples:
      mailwarden model status
      mailwarden model score message.eml
      mailwarden model evaluate --ham ~/Maildir/.Archive --spam ~/Maildir/.Junk
      mailwarden model train --ham ham.mbox --spam spam.mbox --out /var/lib/mailwarden/model
      mailwarden learn --spam ~/Maildir/.Junk
    """


for _command in site.COMMANDS:
    model.add_command(_command)


@model.command()
@model_option
@json_option
@click.pass_obj
def status(context: Context, directory: Path | None, *, as_json: bool) -> None:
    """Say which model is in use, and whether it is sound.

    Exit status 69 (EX_UNAVAILABLE) if it cannot be used, 70 (EX_SOFTWARE) if it no longer gives
    the scores that it gave when it was made.
    """
    from gateway.classifier.artefact import check_golden, golden  # noqa: PLC0415  # help stays quick
    from gateway.mail.mime import parse  # noqa: PLC0415

    where = _directory(context, directory)
    loaded = _load(where)
    manifest = loaded.manifest
    try:
        checks = sum(1 for _ in golden(where))
        wrong = check_golden(where, loaded, parse)
    except ModelError as error:
        raise Failure(str(error), EX_UNAVAILABLE) from error
    rows = {
        "model": loaded.version,
        "folder": str(where),
        "date": manifest.date,
        "features": len(loaded.keys),
        "size": octets(loaded.keys.nbytes + loaded.weights.nbytes + loaded.known.nbytes),
        "trained on": ", ".join(manifest.trained_on),
        "threshold": manifest.threshold,
        "golden scores": f"{checks - len(wrong)} of {checks} right",
    }
    if directory is None and _configured(context):
        rows |= site.standing(context)
    if as_json:
        print_json({**rows, "wrong": list(wrong)})
    else:
        console().print(facts(rows.items()))
    if wrong:
        raise Failure("scores differ from those of its making: " + "; ".join(wrong[:3]), EX_SOFTWARE)


@model.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True, path_type=Path))
@model_option
@click.option(
    "--points/--no-points",
    default=True,
    show_default=True,
    help="Show the points that the policy gives, too.",
)
@click.option("--why", is_flag=True, help="Show the features that weighed most; positive speaks for spam.")
@json_option
@click.pass_obj
def score(
    context: Context,
    files: tuple[Path, ...],
    directory: Path | None,
    *,
    points: bool,
    why: bool,
    as_json: bool,
) -> None:
    """Print path, probability of spam and points of FILES: messages, folders, Maildirs, mboxes.

    "-" is standard input.

    \b
    Examples:
      mailwarden model score --why message.eml
      mailwarden model score --json ~/Maildir/.Junk
    """
    from gateway.mail.mime import parse  # noqa: PLC0415  # help stays quick

    classifier = Classifier(_load(_directory(context, directory)), None if directory else _site(context))
    curve = _curve(context) if points else None
    rows: list[dict[str, Any]] = []
    for sample in _messages(files):
        client, raw = received(sample.raw)
        found = classifier.score(raw, parse(raw), client)
        assert found is not None  # it has a model
        row: dict[str, Any] = {"path": sample.name, "probability": round(found.probability, 6)}
        if curve:
            row["points"] = round(curve(found.cautious), 2)
        row["sure"] = round(found.sure, 3)
        row["known"] = round(found.known, 3)
        if why or as_json:
            row["reasons"] = [{"feature": name, "weight": round(weight, 3)} for name, weight in found.reasons]
        rows.append(row)
    if as_json:
        print_json(rows)
        return
    if not rows:
        raise Failure("there is no mail in what was named", EX_NOINPUT)
    heads = [name + {"path": "!", "reasons": ""}.get(name, ">") for name in rows[0]]
    console().print(table(heads, ([safe(_cell(v), 2_000) for v in row.values()] for row in rows)))


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(f"{reason['feature']} {reason['weight']:+.2f}" for reason in value)
    return f"{value:.4f}" if isinstance(value, float) else value


@model.command()
@sources
@model_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write evaluation.json and evaluation.svg, a plot, to this folder.",
)
@json_option
@click.pass_obj
def evaluate(
    context: Context,
    ham: tuple[Path, ...],
    spam: tuple[Path, ...],
    index: tuple[Path, ...],
    directory: Path | None,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Measure the classifier on labelled mail: ranking, missed spam, false positives, calibration.

    What --ham and --spam name is one set, each --index another; figures are given for each. With
    what the site taught, unless --model names a model to be measured by itself.

    Mail that the model was trained on makes it look better than it is.

    \b
    Examples:
      mailwarden model evaluate --ham corpus/ham --spam corpus/spam --out /tmp/figures
      mailwarden model evaluate --index 2025/index --index 2026/index --json
    """
    loaded = _load(_directory(context, directory))
    classifier = Classifier(loaded, None if directory else _site(context))
    sets = [(", ".join(map(str, ham + spam)), _labelled(ham, spam, ()))] if ham or spam else []
    sets += [(str(path), _labelled((), (), (path,))) for path in index]
    counted = ((name, progress(samples, "Scoring")) for name, samples in sets)
    found, spent = measure(classifier, loaded.manifest.threshold, counted)
    tell(classifier.version, found, spent, as_json=as_json, out=out)


@model.command()
@sources
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the model: a new one, or one that holds a model.",
)
@click.option(
    "--name", default="site", show_default=True, help="Name of the model: letters, digits, - and _."
)
@json_option
def train(
    ham: tuple[Path, ...],
    spam: tuple[Path, ...],
    index: tuple[Path, ...],
    out: Path,
    name: str,
    *,
    as_json: bool,
) -> None:
    """Train a model on labelled mail and write it to a folder. Needs scikit-learn (mailwarden[train]).

    Copies of the same text count once. Probabilities are calibrated on parts of the mail that the
    scoring model had not seen. Name the folder in the configuration, [classifier] model, to use it.

    \b
    Examples:
      mailwarden model train --ham ham.mbox --spam spam.mbox --out /var/lib/mailwarden/model
      mailwarden model train --index corpus/index --out model
    """
    try:
        from gateway.classifier import artefact  # noqa: PLC0415
        from gateway.classifier import train as training  # noqa: PLC0415  # serving never imports scikit-learn
    except ImportError as error:
        raise Failure(f"{error}: install mailwarden[train]", EX_UNAVAILABLE) from error
    from gateway.mail.mime import parse  # noqa: PLC0415

    if not name or not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_"):
        raise Failure("the name of a model has lower-case letters, digits, - and _ only", EX_USAGE)
    examples = list(
        training.distinct(
            training.example(sample.name, name, bool(sample.spam), parse(sample.raw))
            for sample in progress(_labelled(ham, spam, index), "Reading")
        )
    )
    spams = sum(one.spam for one in examples)
    source = artefact.Source(name, len(examples) - spams, spams)
    with _training_errors(out):
        with _working(f"Training on {len(examples)} messages"):
            calibration = training.calibrate([part for _, part in training.cross_validate(examples)])
            trained = training.train(examples)
        date = time.strftime("%Y-%m-%d", time.gmtime())
        scoring = {"bias": training.BIAS, "low": training.LOW, "high": training.HIGH, "least": training.LEAST}
        artefact.save(out, trained, calibration, [source], name=name, date=date, scoring=scoring)
        loaded = Model.load(out)
    rows = {
        "model": loaded.version,
        "folder": str(out),
        "ham": source.ham,
        "spam": source.spam,
        "features": len(loaded.keys),
        "threshold": calibration.threshold,
    }
    if as_json:
        print_json(rows)
    else:
        console().print(facts(rows.items()))


@contextmanager
def _training_errors(out: Path) -> Iterator[None]:
    from gateway.classifier.train import TrainingError  # noqa: PLC0415  # serving never imports scikit-learn

    try:
        yield
    except TrainingError as error:
        raise Failure(str(error), EX_DATAERR) from error
    except ModelError as error:
        raise Failure(str(error), _EX_CANTCREAT) from error
    except OSError as error:
        raise Failure(f"{out}: {error.strerror}", _EX_CANTCREAT) from error


# ---------------------------------------------------------------- what the commands share


def _directory(context: Context, directory: Path | None) -> Path:
    if directory is not None:
        return directory
    settings = context.config.classifier if _configured(context) else ClassifierSettings()
    return Path(settings.model) if settings.model else data_dir("models") / "base"


def _site(context: Context) -> SiteFile | None:
    if not _configured(context):
        return None
    path = context.config.classifier.site_path(state_directory(context.config.store))
    return SiteFile(path) if path else None


def _configured(context: Context) -> bool:
    return context.given or context.path.exists()


def _load(directory: Path) -> Model:
    try:
        return Model.load(directory)
    except ModelError as error:
        raise Failure(f"the classifier is unavailable: {error}", EX_UNAVAILABLE) from error


def _curve(context: Context) -> Callable[[float], float]:
    from gateway.policy import rules  # noqa: PLC0415  # compiles all patterns
    from gateway.policy.patterns import RuleError  # noqa: PLC0415

    settings = context.config.policy if _configured(context) else rules.PolicySettings()
    try:
        return rules.load(data_dir("rules"), settings).weights["CLASSIFIER"].points
    except RuleError as error:
        raise Failure(str(error), EX_UNAVAILABLE) from error


def _messages(files: tuple[Path, ...]) -> Iterator[Sample]:
    for path in files:
        if str(path) == "-":
            yield Sample("-", as_message(sys.stdin.buffer.read(_SIZE_LIMIT)))
            continue
        with _corpus_errors():
            yield from read(path)


def _labelled(ham: Iterable[Path], spam: Iterable[Path], index: Iterable[Path]) -> Iterator[Sample]:
    with _corpus_errors():
        for path in ham:
            yield from read(path, spam=False)
        for path in spam:
            yield from read(path, spam=True)
        for path in index:
            yield from read_index(path)


@contextmanager
def _corpus_errors() -> Iterator[None]:
    try:
        yield
    except CorpusError as error:
        raise Failure(str(error), EX_NOINPUT) from error


@contextmanager
def _working(text: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    with console(stderr=True).status(text):
        yield
