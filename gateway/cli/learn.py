# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden learn`, and of `model`: `folders`, `forget`, `compare`, `promote`, `rollback`, `export`.

Reads hostile mail that somebody labelled, from files or standard input. The store keeps the samples;
the model is replaced whole, and running workers take the new one within a second.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.classifier.corpus import CorpusError, read
from gateway.classifier.model import Model, ModelError
from gateway.cli.main import (
    EX_DATAERR,
    EX_NOINPUT,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    EX_USAGE,
    Context,
    Failure,
    config_option,
    json_option,
)
from gateway.cli.output import console, facts, print_json, progress, safe
from gateway.cli.person import operator
from gateway.data import data_dir
from gateway.mail.headers import printable
from gateway.store.database import StoreError, open_database, state_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gateway.classifier.gate import Report
    from gateway.learning import Labelled, Learner, Outcome
    from gateway.store.quarantine import Quarantine

_SIZE_LIMIT = 50_000_000  # octets of a piped message
files_argument = click.argument(
    "files", nargs=-1, required=True, type=click.Path(allow_dash=True, path_type=Path)
)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(allow_dash=True, path_type=Path))
@click.option("--ham", is_flag=True, help="The messages are wanted.")
@click.option("--spam", is_flag=True, help="The messages are unwanted.")
@config_option
@click.option(
    "--source",
    default="",
    metavar="NAME",
    help="Who reports it, such as an address: believed less than you, and limited by the day.",
)
@click.option(
    "--owner",
    default="",
    metavar="ADDRESS",
    help='Whose mail it is, where [classifier] per is "domain" or "recipient".',
)
@json_option
@click.pass_obj
def learn(
    context: Context,
    files: tuple[Path, ...],
    *,
    ham: bool,
    spam: bool,
    source: str,
    owner: str,
    as_json: bool,
) -> None:
    """Teach the site's model with FILES: messages, folders, Maildirs, mboxes; "-" is one message piped in.

    Without FILES a message is read from standard input, if that is no terminal.

    The same message counts once, nearly the same a few times; a label of yours replaces an older one
    of the same message. The new model is used only if it is no worse on mail that no model has learned.
    Exit status 75 (EX_TEMPFAIL) if it was refused.

    \b
    Examples:
      mailwarden learn --spam ~/Maildir/.Junk
      mailwarden learn --ham < message.eml
      mailwarden learn --spam --source bob@example.com -
    """
    if ham == spam:
        raise Failure("say either --ham or --spam", EX_USAGE)
    if not files and sys.stdin.isatty():
        raise Failure('name files, or pipe a message in; "-" is standard input', EX_USAGE)
    messages = _labelled(files or (Path("-"),), spam=spam, source=source, owner=owner)
    with learning(context) as learner:
        outcome = learner.learn(progress(_some(messages), "Learning"))
    tell(outcome, as_json=as_json)


@click.command()
@json_option
@click.pass_obj
def folders(context: Context, *, as_json: bool) -> None:
    """Look once into the IMAP folders of [[learning.imap]], and learn what is new in them.

    `mailwarden serve` does the same by itself, every few minutes. What goes beyond a limit is read the
    next time. Exit status 75 (EX_TEMPFAIL) if an account could not be read, or the model was refused.

    \b
    Example:
      mailwarden model folders
    """
    from gateway.feedback.folders import FolderError, poll  # noqa: PLC0415  # help stays quick
    from gateway.learning import Outcome  # noqa: PLC0415  # as above

    accounts = context.config.learning.imap
    if not accounts:
        raise Failure("no account is configured; see [[learning.imap]]", EX_NOINPUT)
    failed = []
    total = Outcome()
    with learning(context) as learner:
        for account in accounts:
            try:
                outcome = poll(account, learner)
            except FolderError as error:
                failed.append(str(error))
                continue
            if outcome is None:
                failed.append(f"{account.user}: another process reads these folders now")
            else:
                total.unfit += outcome.unfit
        while (learned := learner.take_in()) is not None:
            total.add(learned)
    tell(total, as_json=as_json)
    if failed:
        raise Failure("; ".join(failed), EX_TEMPFAIL)


def _some(messages: Iterable[Labelled]) -> Iterator[Labelled]:
    """Pass messages on. Raises Failure if there are none: an empty folder is hardly what was meant."""
    found = False
    for message in messages:
        found = True
        yield message
    if not found:
        raise Failure("there is no mail in what was named", EX_NOINPUT)


def tell(outcome: Outcome, *, as_json: bool) -> None:
    """Print what became of labelled messages; end with EX_TEMPFAIL if a model was refused."""
    if as_json:
        print_json(dataclasses.asdict(outcome))
    else:
        words = (
            ("learned", outcome.learned),
            ("kept aside to measure models with", outcome.aside),
            ("known already", outcome.known),
            ("labels replaced", outcome.corrected),
            ("like mail with the other label", outcome.disputed),
            ("contradict another label, not learned", outcome.contradicting),
            ("doubted until somebody else says the same", outcome.doubted),
            ("over a daily limit", outcome.over_limit),
            ("not fit to be learned", outcome.unfit),
            ("refused, since the model became worse", outcome.refused),
        )
        console().print(facts((name, count) for name, count in words if count or name == "learned"))
    if outcome.refused:
        why = next(report.why for report in outcome.reports if not report.passed)
        mend = "see mailwarden model compare; or teach mail of the other kind as well, then run: "
        raise Failure(f"the new model is not used: {why}; {mend}mailwarden model promote", EX_TEMPFAIL)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(allow_dash=True, path_type=Path))
@click.option(
    "--source", default="", metavar="NAME", help="All that NAME taught: a reporter, a reviewer, a folder."
)
@click.option("--bodies", is_flag=True, help="Only the bodies that were kept; what was learned stays.")
@json_option
@click.pass_obj
def forget(context: Context, files: tuple[Path, ...], *, source: str, bodies: bool, as_json: bool) -> None:
    """Take back what was learned of FILES, or of mail that says nearly the same; "-" is piped in.

    The samples are removed from the disk, and so are earlier models, which knew them.

    \b
    Examples:
      mailwarden model forget message.eml
      mailwarden model forget --source bob@example.com
      mailwarden model forget --bodies
    """
    if bool(files) + bool(source) + bodies != 1:
        raise Failure("name either files, or a --source, or --bodies", EX_USAGE)
    if not files:
        with learning(context) as learner:
            count = learner.forget_source(source) if source else learner.samples.drop_bodies()
        if as_json:
            print_json({"forgotten": count})
        else:
            console().print(f"{count} {'samples' if source else 'bodies'} removed")
        if source and not count:
            raise Failure(f"nobody of that name has taught anything: {printable(source, 200)}", EX_NOINPUT)
        return
    with learning(context) as learner:
        found = {message.source: learner.forget(message.raw) for message in _labelled(files, spam=False)}
    if as_json:
        print_json({"forgotten": sum(found.values()), "unknown": sum(not one for one in found.values())})
    else:
        console().print(f"{sum(found.values())} of {len(found)} messages forgotten")
    if not any(found.values()):
        raise Failure("nothing was learned of these messages", EX_NOINPUT)


@click.command()
@json_option
@click.pass_obj
def relearn(context: Context, *, as_json: bool) -> None:
    """Learn anew from the bodies that were kept ([classifier] samples = "bodies"), with the same labels.

    Needed after a version of the program that looks at mail in another way; then samples without a
    body are removed, since nothing can be made of them.

    \b
    Example:
      mailwarden model relearn
    """
    with learning(context) as learner:
        looked, lost = learner.relearn()
    if as_json:
        print_json({"relearned": looked, "removed": lost})
    else:
        console().print(f"{looked} messages looked at again; {lost} samples without a body removed")


@click.command()
@json_option
@click.pass_obj
def compare(context: Context, *, as_json: bool) -> None:
    """Measure the refused candidate, or else the model before this one, against the one in use.

    Both score mail that neither has learned.
    """
    from gateway.classifier.site import SiteModel  # noqa: PLC0415  # help stays quick

    with learning(context) as learner:
        if learner.candidate.exists():
            name, report = "candidate", learner.measure(learner.live(), SiteModel.load(learner.candidate))
        elif learner.previous.exists():
            name, report = "in use", learner.measure(SiteModel.load(learner.previous), learner.live())
        else:
            raise Failure("there is nothing to compare with yet", EX_NOINPUT)
    _show(report, as_json=as_json, name=name)


@click.command()
@click.option("--force", is_flag=True, help="Use it even if it is worse.")
@json_option
@click.pass_obj
def promote(context: Context, *, force: bool, as_json: bool) -> None:
    """Learn what was refused after all, if the model is no worse by now.

    Exit status 75 (EX_TEMPFAIL) if it is refused again.
    """
    with learning(context) as learner:
        report = learner.promote(force=force)
    _show(report, as_json=as_json, name="candidate")
    if not report.passed and not force:
        raise Failure(f"still worse: {report.why}", EX_TEMPFAIL)


@click.command()
@json_option
@click.pass_obj
def rollback(context: Context, *, as_json: bool) -> None:
    """Go back to the model before the last change. What it learned since then is kept as refused."""
    with learning(context) as learner:
        count = learner.rollback()
    if as_json:
        print_json({"refused": count})
    else:
        console().print(f"back to the model before; {count} samples are no longer learned")


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.pass_obj
def export(context: Context, directory: Path) -> None:
    """Write the site's model and a list of its samples (labels and digests, no mail) to a new folder."""
    from gateway.store.samples import SampleState  # noqa: PLC0415  # help stays quick

    with learning(context) as learner:
        try:
            directory.mkdir(parents=True)
        except OSError as error:
            raise Failure(f"{directory}: {error.strerror}", EX_DATAERR) from error
        learner.live().save(directory / learner.path.name)
        with (directory / "samples.jsonl").open("w", encoding="utf-8") as file:
            for sample in learner.samples.read(SampleState.LEARNED):
                row = {
                    "sha256": sample.digest,
                    "label": "spam" if sample.spam else "ham",
                    "origin": sample.origin,
                    "source": sample.source,
                    "time": sample.time,
                }
                file.write(json.dumps(row) + "\n")
    console().print(safe(f"written to {directory}", 1_000))


@click.command("learn")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--ham", is_flag=True, help="The messages are wanted.")
@click.option("--spam", is_flag=True, help="The messages are unwanted.")
@json_option
@click.pass_obj
def learn_held(context: Context, ids: tuple[str, ...], *, ham: bool, spam: bool, as_json: bool) -> None:
    """Teach the classifier with held messages, exactly as they were received, after your review.

    See `release --learn` and `delete --learn` for both in one.

    \b
    Example:
      mailwarden quarantine learn --ham 1M80JFSJGNG4SMAS
    """
    if ham == spam:
        raise Failure("say either --ham or --spam", EX_USAGE)
    from gateway.feedback.held import learn_reviewed  # noqa: PLC0415  # help stays quick
    from gateway.store.quarantine import Quarantine  # noqa: PLC0415  # as above

    with learning(context) as learner:
        held = Quarantine(learner.samples.database)
        items = [item.upper() for item in ids]
        outcome = learn_reviewed(learner, held, items, spam=spam, who=operator())
    tell(outcome, as_json=as_json)


def learn_items(
    learner: Learner | None, held: Quarantine, items: Sequence[str], *, spam: bool
) -> Outcome | None:
    """Learn what was just released or is about to be deleted; None without a learner."""
    if learner is None:
        return None
    from gateway.feedback.held import learn_reviewed  # noqa: PLC0415  # help stays quick
    from gateway.store.states import State  # noqa: PLC0415  # as above

    found = held.known(items)
    there = [
        item for item in items if item in found and found[item].state not in (State.DELETED, State.EXPIRED)
    ]
    return learn_reviewed(learner, held, there, spam=spam, who=operator())


COMMANDS = (learn, folders, relearn, forget, compare, promote, rollback, export)


# ---------------------------------------------------------------- what they share


@contextmanager
def learning(context: Context) -> Iterator[Learner]:
    """The site model of the configuration, to be taught; its errors end the program."""
    from gateway.learning import Learner  # noqa: PLC0415  # help stays quick
    from gateway.store.samples import Samples  # noqa: PLC0415  # as above

    config = context.config
    path = config.classifier.site_path(state_directory(config.store))
    if not config.classifier.enabled or path is None:
        raise Failure("the site's model is switched off; see [classifier] site", EX_UNAVAILABLE)
    try:
        base = Model.load(
            Path(config.classifier.model) if config.classifier.model else data_dir("models") / "base"
        )
        with closing(open_database(config.store)) as database:
            fixed = data_dir("models") / "regression"
            yield Learner(Samples(database), config.classifier, base, path, fixed)
    except (ModelError, StoreError) as error:
        raise Failure(printable(str(error), 500), EX_UNAVAILABLE) from error
    except CorpusError as error:
        raise Failure(printable(str(error), 500), EX_NOINPUT) from error
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", EX_UNAVAILABLE) from error


def standing(context: Context) -> dict[str, Any]:
    """Say what the site has taught, and whether that counts."""
    from gateway.classifier.site import SiteFile, learned, share_of_base  # noqa: PLC0415  # help stays quick

    config = context.config
    path = config.classifier.site_path(state_directory(config.store))
    if path is None:
        return {"site model": "not active because [classifier] site is off"}
    file = SiteFile(path)
    model = file.current()
    if model is None:
        why = file.problem or f"nothing was taught: there is no {path}"
        return {"site model": f"not active because {why}"}
    count = learned(model.ham, model.spam)
    rows = {"site": str(path), "learned": f"{model.ham} ham, {model.spam} spam"}
    if not count:
        missing = "ham" if not model.ham else "spam"
        return {"site model": f"not active because it has learned no {missing}", **rows}
    text = f"active because it has learned both kinds; the base model counts {share_of_base(count):.0%}"
    return {"site model": text, **rows}


def _labelled(files: Iterable[Path], *, spam: bool, source: str = "", owner: str = "") -> Iterator[Labelled]:
    from gateway.learning import Labelled  # noqa: PLC0415  # help stays quick
    from gateway.store.samples import OPERATOR  # noqa: PLC0415  # help stays quick

    origin = "report" if source else OPERATOR
    for path in files:
        if str(path) == "-":
            yield Labelled(
                sys.stdin.buffer.read(_SIZE_LIMIT), spam, origin, source or "-", recipients=(owner,)
            )
            continue
        for sample in read(path):
            yield Labelled(sample.raw, spam, origin, source or sample.name, recipients=(owner,))


def _show(report: Report, *, as_json: bool, name: str) -> None:
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    rows = (
        ("measured on", f"{report.ham} ham, {report.spam} spam that no model learned"),
        ("ham called spam", f"{report.false_before} before, {report.false_after} by the {name} model"),
        ("spam missed", f"{report.missed_before} before, {report.missed_after} by the {name} model"),
        (
            f"regression set: ham called spam, of {report.fixed_ham}",
            f"{report.fixed_false_before} before, {report.fixed_false_after} by the {name} model",
        ),
        (
            f"regression set: spam missed, of {report.fixed_spam}",
            f"{report.fixed_missed_before} before, {report.fixed_missed_after} by the {name} model",
        ),
        ("verdict", report.why or "no worse"),
    )
    console().print(facts(rows))
