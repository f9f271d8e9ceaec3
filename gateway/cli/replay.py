# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden replay`: what another policy would have made of the messages in the journal.

Prints hostile text, through `output`. Changes nothing. Several processes read the journal in slices of
its numbers and judge them; what they tell is JSON of a fixed size, so that neither many records nor long
ones fill the memory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gateway.cli.filters import Moment
from gateway.cli.main import (
    DEFAULT,
    EX_CONFIG,
    EX_SOFTWARE,
    EX_UNAVAILABLE,
    EX_USAGE,
    Context,
    Failure,
    json_option,
)
from gateway.cli.output import console, facts, moment, print_json, safe, table
from gateway.mail.headers import printable
from gateway.mail.types import Action
from gateway.replay import Change, Tally, label_of
from gateway.store.database import StoreError, StoreSettings, open_database
from gateway.store.encoding import from_json, to_json
from gateway.store.journal import Filter, Journal, Span
from gateway.store.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from multiprocessing.connection import Connection

    from gateway.classifier.model import Classifier
    from gateway.config import Config
    from gateway.policy.rules import Policy
    from gateway.store.journal import Record

SLICE = 500  # records judged between two words about it
ALL = 1_000_000_000
JOBS = 16
_SIGNALS_SHOWN = 20
# Settings that change what is seen, and not only what it is worth: these cannot be replayed.
_SIGHT = (
    "domains",
    "relay_networks",
    "dns",
    "auth",
    "antivirus",
    "spamassassin",
    "classifier",
    "limits",
    "policy.patterns_dir",
    "policy.attachments",
    "policy.links",
    "policy.impersonation",
    "policy.forwarders",
)


def _pairs(_ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Read NAME=POINTS."""
    found = {}
    for value in values:
        name, _, points = value.partition("=")
        try:
            found[name.strip()] = float(points)
        except ValueError:
            raise click.BadParameter(f"{printable(value, 80)!r} is not NAME=POINTS", param=param) from None
    return found


@click.command()
@click.option(
    "--since", type=Moment(), default="7d", show_default=True, help="Received since: 7d, 12h, a date."
)
@click.option("--until", type=Moment(), help="Received before: 2d, 12h, or a date.")
@click.option(
    "-c",
    "--config",
    "candidate",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Judge by the policy of this configuration; the journal stays that of `mailwarden --config`.",
)
@click.option(
    "--set-weight", "--weight", "weights", multiple=True, callback=_pairs, metavar="NAME=POINTS",
    help="As if it stood in [policy.weights]; may be repeated.",
)  # fmt: skip
@click.option(
    "--set-threshold", "--threshold", "thresholds", multiple=True, callback=_pairs, metavar="NAME=POINTS",
    help="As if it stood in [policy.thresholds]: tag, quarantine, reject; may be repeated.",
)  # fmt: skip
@click.option(
    "--rules",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="In place of the shipped rules: weights, curves, actions and thresholds of that directory.",
)
@click.option(
    "--model", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIRECTORY",
    help="Score again by this model what is still in the quarantine; nothing else has a text.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1, ALL), default=ALL, help="Only so many of the newest.")
@click.option(
    "--jobs", type=click.IntRange(1, JOBS), default=min(JOBS, os.cpu_count() or 1), help="Processes to use."
)
@json_option
@click.pass_obj
def replay(
    context: Context,
    *,
    since: float,
    until: float | None,
    candidate: Path | None,
    weights: dict[str, float],
    thresholds: dict[str, float],
    rules: Path | None,
    model: Path | None,
    limit: int,
    jobs: int,
    as_json: bool,
) -> None:
    """Judge recorded messages again, and say what would change.

    Weights, actions and thresholds are tried on what was seen then. Nothing is asked, sent or kept.
    What needs a message's text (patterns, attachments, links) cannot be replayed, and the report names it;
    another model is tried on held mail alone. `mailwarden shadow` tries all of that on live mail. Without a
    changed policy every verdict must come out as it was.

    The exit status is 0 if the same happens to every message, and 1 if it does not.

    \b
    Examples:
      mailwarden replay --since 7d --config new.toml
      mailwarden replay --weight SPF_FAIL=4 --threshold quarantine=7
      mailwarden replay --model /var/lib/mailwarden/models/next
      mailwarden replay --since 2026-01-01 --until 2026-02-01 --limit 10000 --json
    """
    live, tried = _configurations(context, candidate)
    changed = _overlaid(tried, weights, thresholds)
    policy, now = policy_of(changed, rules), policy_of(live)
    wanted = Filter(since=since, until=until)
    plan = Plan(live.store, policy, wanted, classifier=_classifier(changed, model))
    try:
        tally = replayed(plan, limit, jobs)
    except StoreError as error:
        raise Failure(printable(str(error), 500), EX_UNAVAILABLE) from error
    notes = [*_not_replayed(live, changed, now, policy), *_told_by(tally, now)]
    if as_json:
        print_json({"policy": policy.hash, **msgspec.to_builtins(tally), "notes": notes})
    else:
        show(tally, policy.hash, notes)
    sys.exit(1 if tally.changed else 0)


# ---------------------------------------------------------------- what to judge by


def _configurations(context: Context, candidate: Path | None) -> tuple[Config, Config]:
    """The configuration whose journal is read, and the one whose policy is tried."""
    if candidate is None:
        return context.config, context.config
    other = Context(candidate, given=True)
    if not context.given and context.path == DEFAULT and not DEFAULT.exists():
        return other.config, other.config
    return context.config, other.config


def _overlaid(config: Config, weights: dict[str, float], thresholds: dict[str, float]) -> Config:
    """The configuration with what the command line changes."""
    if not weights and not thresholds:
        return config
    built: dict[str, Any] = msgspec.to_builtins(config.policy)
    built["weights"] = {**built["weights"], **weights}
    built["thresholds"] = {**built["thresholds"], **thresholds}
    try:
        policy = msgspec.convert(built, type(config.policy))
    except msgspec.ValidationError as error:
        raise Failure(printable(f"--set-weight, --set-threshold: {error}", 300), EX_USAGE) from error
    return msgspec.structs.replace(config, policy=policy)


def policy_of(config: Config, folder: Path | None = None) -> Policy:
    """The policy of a configuration, over the rules in `folder` in place of the shipped ones."""
    from gateway.data import data_dir  # noqa: PLC0415  # help stays quick
    from gateway.policy import rules  # noqa: PLC0415  # as above
    from gateway.policy.patterns import RuleError  # noqa: PLC0415  # as above

    try:
        found = folder or data_dir("rules")
        return rules.load(found, config.policy, config.auth.trusted_forwarders, config.domains)
    except RuleError as error:
        raise Failure(printable(str(error), 500), EX_CONFIG) from error


def _classifier(config: Config, folder: Path | None) -> Classifier | None:
    """The classifier with the base model in `folder`, and this site's own; None for None."""
    if folder is None:
        return None
    from gateway.classifier.model import Classifier, ModelError  # noqa: PLC0415  # help stays quick
    from gateway.data import data_dir  # noqa: PLC0415  # as above
    from gateway.store.database import state_directory  # noqa: PLC0415  # as above

    settings = msgspec.structs.replace(config.classifier, model=str(folder.absolute()))
    try:
        return Classifier.open(settings, data_dir("models"), state_directory(config.store))
    except ModelError as error:
        raise Failure(printable(str(error), 500), EX_CONFIG) from error


# ---------------------------------------------------------------- judging, in processes


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process needs to judge slices of the journal, or to read what a shadow made of them."""

    store: StoreSettings
    policy: Policy | None
    wanted: Filter
    classifier: Classifier | None = None  # that scores anew what is held
    shadow: str = ""

    def judged(self, slices: Iterable[tuple[int, int]]) -> Generator[Tally, None, None]:
        """Judge the records of each slice again. Raises StoreError."""
        database = open_database(self.store)
        try:
            journal, quarantine = Journal(database), Quarantine(database, self.store)
            for first, last in slices:
                records, unreadable = journal.between(first, last, self.wanted)
                held = quarantine.known([record.id for record in records if record.verdict.kept])
                tally = Tally(unreadable=unreadable)
                for record in records:
                    item = held.get(record.id)
                    label = label_of(item) if item else ""
                    if self.policy is None:
                        tally.add_shadow(record, self.shadow, label)
                    elif self.classifier is None:
                        tally.add(record, self.policy, label)
                    elif item is None or not item.content:
                        tally.textless += 1
                    else:
                        tally.add(_scored(record, quarantine, self.classifier), self.policy, label)
                yield tally
        finally:
            database.close()


def _scored(record: Record, quarantine: Quarantine, classifier: Classifier) -> Record:
    """The record as if this classifier had scored the message."""
    from gateway.classifier.stored import trace  # noqa: PLC0415  # help stays quick
    from gateway.mail.mime import parse  # noqa: PLC0415  # as above
    from gateway.policy.examine import Spam, classified  # noqa: PLC0415  # as above

    raw, session = quarantine.raw(record.id), record.session
    client = trace(session.helo, session.client_name, session.client_ip)
    score = classifier.score(raw, parse(raw), client, record.envelope.recipients)
    signal = classified(None if score is None else Spam(score.cautious, score.reasons))
    return replace(record, signals=tuple(signal if s.name == signal.name else s for s in record.signals))


class _Word(msgspec.Struct):
    """What a process tells: a slice's tally, or why it stops."""

    tally: Tally | None = None
    error: str = ""


def replayed(plan: Plan, limit: int, jobs: int) -> Tally:
    """Judge the newest `limit` records again, and count. Raises StoreError."""
    with contextlib.closing(open_database(plan.store)) as database:  # before the fork
        span = Journal(database).span(replace(plan.wanted, limit=limit))
    total = Tally()
    if span is None:
        return total
    slices = [(n, min(n + SLICE - 1, span.last)) for n in range(span.first, span.last + 1, SLICE)]
    jobs = min(jobs, len(slices))
    tallies = plan.judged(slices) if jobs == 1 else _by_processes(plan, slices, jobs)
    with contextlib.closing(tallies):
        for tally in _progress(tallies, span):
            total.merge(tally)
    return total


def _by_processes(plan: Plan, slices: list[tuple[int, int]], jobs: int) -> Generator[Tally, None, None]:
    """Share the slices among processes, which hand back JSON."""
    forked = multiprocessing.get_context("fork")  # as `serve` does: rules are loaded once
    readers: list[Connection] = []
    processes = []
    try:
        for job in range(jobs):
            reader, writer = forked.Pipe(duplex=False)
            process = forked.Process(target=_work, args=(plan, slices[job::jobs], writer), daemon=True)
            process.start()
            writer.close()  # so that the end of the process is the end of the file
            processes.append(process)
            readers.append(reader)
        waiting, left = list(readers), len(slices)
        while waiting:
            ready = wait(waiting)
            for reader in [one for one in waiting if one in ready]:
                try:
                    word: _Word = from_json(reader.recv_bytes().decode(), _Word)
                except EOFError:
                    waiting.remove(reader)
                    continue
                if word.tally is None:
                    raise StoreError(word.error)
                left -= 1
                yield word.tally
        if left:
            raise Failure("a process ended before its work was done", EX_SOFTWARE)
    finally:
        for process in processes:
            process.terminate()
            process.join()
        for reader in readers:
            reader.close()


def _work(plan: Plan, slices: list[tuple[int, int]], writer: Connection) -> None:
    """Judge slices in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    with contextlib.suppress(BrokenPipeError):
        try:
            for tally in plan.judged(slices):
                writer.send_bytes(to_json(_Word(tally)).encode())
        except StoreError as error:
            writer.send_bytes(to_json(_Word(error=str(error))).encode())


def _progress(tallies: Iterator[Tally], span: Span) -> Iterator[Tally]:
    """Show how far it is, if somebody looks at it."""
    if not sys.stderr.isatty():
        yield from tallies
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("Judging again"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    first = next(tallies, None)  # processes start before the progress has a thread
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=span.count)
        while first is not None:
            yield first
            progress.advance(task, first.records + first.unreadable)
            first = next(tallies, None)


# ---------------------------------------------------------------- telling


def _not_replayed(live: Config, tried: Config, now: Policy, policy: Policy) -> Iterator[str]:
    """What the tried configuration has otherwise, and records cannot show."""

    def at(config: Config, path: str) -> object:
        for name in path.split("."):
            config = getattr(config, name)
        return config

    if other := [path for path in _SIGHT if at(live, path) != at(tried, path)]:
        yield f"not replayed, since it changes what is seen: {', '.join(other)}"
    if new := sorted(set(policy.weights) - set(now.weights)):
        yield f"not replayed, since no record has it: {_some(new)}"


def _told_by(tally: Tally, now: Policy) -> Iterator[str]:
    """What the records themselves leave open."""
    for name, count in sorted(tally.gone.items()):
        yield f"{printable(name, 80)} weighs nothing any more, and {count} messages have it"
    others = {name: count for name, count in tally.policies.items() if name != now.hash}
    if others:
        count = sum(others.values())
        many = "1 message was" if count == 1 else f"{count} messages were"
        yield f"{many} not judged by the policy of today, but by {_some(sorted(others))}"
    if tally.unjudged:
        yield f"{tally.unjudged} messages were deferred by a failure and have no signals"
    if tally.textless:
        yield f"{tally.textless} messages were not held, or are gone: without a text no model scores them"
    if tally.unreadable:
        yield f"{tally.unreadable} records cannot be read"


def _some(names: list[str]) -> str:
    shown = ", ".join(printable(name, 80) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def show(tally: Tally, policy: str, notes: list[str]) -> None:
    """Print what would change, by the policy with that hash."""
    out = console()
    judged = tally.identical + tally.rescored + tally.changed
    rows = [
        ("Messages", f"{tally.records}, judged by policy {policy}"),
        ("Identical", f"{tally.identical} of {judged}"),
        (
            "Same outcome",
            f"{tally.rescored} with other points, thresholds or reasons" if tally.rescored else "",
        ),
        ("Changed", tally.changed),
    ]
    out.print(facts(rows))
    if tally.changed:
        _print_changes(tally)
    if tally.known:
        labels = {"ham": "released (ham)", "spam": "deleted (spam)"}
        words = ("messages", "stopped before", "stopped after")
        known = [(labels[label], *(n[word] for word in words)) for label, n in sorted(tally.known.items())]
        out.print()
        out.print(table(("Known!", "Messages>", "Stopped before>", "Stopped after>"), known))
    for note in notes:
        out.print(safe(f"Note: {note}", 800), soft_wrap=True)
    if not tally.changed:
        out.print("Nothing changes." if tally.records else "There are no records of that time.")


def _print_changes(tally: Tally) -> None:
    out = console()
    actions = [a.value for a in Action if a in tally.copies or any(a in row for row in tally.copies.values())]
    matrix = [(old, *(tally.copies.get(old, {}).get(new, 0) for new in actions)) for old in actions]
    out.print()
    titled = "Copies, from old to new"
    out.print(table(("Old!", *(f"{new}>" for new in actions)), matrix, title=titled))
    changes = [change for change in Change if change in tally.changes]
    heads = [f"{change.value}>" for change in changes]
    causes = sorted(tally.causes.items(), key=lambda cause: (-sum(cause[1].values()), cause[0]))
    rows = [("all", *(tally.changes[c] for c in changes))]
    rows += [(name, *(n.get(c, 0) for c in changes)) for name, n in causes[:_SIGNALS_SHOWN]]
    out.print()
    out.print(table(("Weighed otherwise!", *heads), rows, title="Messages, by what changes them"))
    for change in changes:
        found = [
            (
                e.id,
                moment(e.received)[:-3],
                f"{e.old.value} {e.old_score:.1f}",
                f"{e.new.value} {e.new_score:.1f}",
                e.label,
                f"<{e.sender}>",
                e.recipient,
                e.subject,
                ", ".join(e.because),
            )
            for e in tally.examples.get(change, ())
        ]
        head = ("Id!", "Received!", "Old!", "New!", "Known!", "Sender", "Recipient", "Subject", "Because")
        out.print()
        out.print(table(head, found, title=f"{change.value.capitalize()}: the worst"))
