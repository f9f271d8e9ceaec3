# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden explain`: why a message was judged as it was, from its record alone.

Prints hostile text, made safe by `output`. Needs the journal's record, or, where that is gone, what
the quarantine keeps with a held message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from gateway.cli.database import opened
from gateway.cli.main import EX_NOINPUT, EX_USAGE, Context, Failure, config_option
from gateway.cli.output import console, facts, moment, octets, print_json, safe, table
from gateway.data import data_dir
from gateway.mail.types import ID_PATTERN, Action, EditOp, Reply
from gateway.policy.brief import brief
from gateway.policy.brief import load as wording
from gateway.policy.counterfactual import answers, words
from gateway.store.journal import Journal, Record
from gateway.store.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from rich.console import Console

    from gateway.mail.types import Evidence, Thresholds, Unpacked, Verdict
    from gateway.store.database import Database

SHOWN = 10  # recipients on the line that says what came; the outcome lists all
_COUNTED = (EditOp.REPLACE, EditOp.DELETE)
_STYLES = {
    Action.RELAY: "green",
    Action.TAG: "yellow",
    Action.STRIP: "yellow",
    Action.LEARN: "cyan",
    Action.QUARANTINE: "magenta",
    Action.DEFER: "yellow",
    Action.REJECT: "red",
}


@click.command()
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print the whole record as JSON.")
@click.option("--brief", "in_brief", is_flag=True, help="Two sentences, for the message's recipient.")
@config_option
@click.pass_obj
def explain(context: Context, id: str, *, as_json: bool, in_brief: bool) -> None:  # noqa: A002  # it is the argument's name
    """Say why the message ID was judged as it was, and what would have let it pass.

    The id stands in the reply to the sender, in the log, and in the header field of the verdict.

    \b
    Examples:
      mailwarden explain 1M80JFSJGNG4SMAS
      mailwarden explain --json 1M80JFSJGNG4SMAS
      mailwarden explain --brief 1M80JFSJGNG4SMAS
    """
    if as_json and in_brief:
        raise Failure("one of --json and --brief", EX_USAGE)
    wanted = id.upper()
    with opened(context.config) as database:
        record = _find(database, wanted) if ID_PATTERN.fullmatch(wanted) else None
    if record is None:
        raise Failure(f"no record of {safe(id, 40)}; records are kept for a limited time", EX_NOINPUT)
    lifted = record.evidence.release.lifted if record.evidence.release else ()
    if as_json:
        found = {"pass": answers(record.verdict, lifted), "classifier": words(record.verdict)}
        print_json({**as_dict(record), **msgspec.to_builtins(found)})
    elif in_brief:
        click.echo(brief(wording(data_dir("rules")), record.verdict, lifted))
    else:
        render_verdict(console(), record)


def as_dict(record: Record) -> dict[str, Any]:
    """The whole record as plain values for JSON."""
    return msgspec.to_builtins(record)  # type: ignore[no-any-return]  # a dataclass becomes a dict


def render_verdict(out: Console, record: Record) -> None:
    """Print what came, what was asked, what it weighed, and what was decided."""
    verdict = record.verdict
    word, why = verdict.action.value.upper(), _join(verdict.reason, verdict.reason_text)
    out.print(safe(f"{word}  {why}", 300, f"bold {_STYLES[verdict.action]}"))
    out.print(facts(_what_came(record)))
    out.print()
    if asked := list(_what_was_asked(record.evidence)):
        _section(out, "Evidence", ("Asked!", "Answer!", "About", "ms>"), asked)
    if weighed := sorted(verdict.contributions, key=lambda c: (c.decides is None, -abs(c.points))):
        rows = [(f"{c.points:+.2f}", c.name, c.decides.value if c.decides else "", c.text) for c in weighed]
        _section(out, "Contributions", ("Points>", "Signal!", "Decides!", "Why"), rows)
    decided = [
        (o.recipient, safe(o.action.value, style=_STYLES[o.action]), f"{o.score:.2f}", *_limits(o.thresholds))
        for o in verdict.outcomes
    ]
    _section(out, "Outcome", ("Recipient", "Action!", "Score>", "Tag>", "Quarantine>", "Reject>"), decided)
    lifted = record.evidence.release.lifted if record.evidence.release else ()
    if ways := list(pass_rows(verdict, lifted)):
        _section(out, "What would have let it pass", ("Recipients", "Without", "Score>", "Held from>"), ways)
    if told := words(verdict):
        kinds = {"spam": [w for w in told.words if w[1] > 0], "ham": [w for w in told.words if w[1] < 0]}
        read = [
            (kind, ", ".join(f"{word} {weight:+.2f}" for word, weight in found))
            for kind, found in kinds.items()
            if found
        ]
        if read:
            title = f"Behind the classifier's probability of {told.probability:.4f}"
            _section(out, title, ("For!", "What it read"), read)
    if verdict.edits:
        edits = [(e.op.value, e.name, e.index if e.op in _COUNTED else "", e.value) for e in verdict.edits]
        _section(out, "Changes to the header", ("Edit!", "Field!", "Number>", "Value"), edits)
    if verdict.cuts:
        gone = [(f"{c.start}-{c.end}", part) for c in verdict.cuts for part in c.parts]
        _section(out, "Taken out, and kept in the quarantine", ("Octets!", "What"), gone)
    versions = verdict.versions
    judged_by = [("Program", versions.program), ("Policy", versions.policy), ("Model", versions.model)]
    out.print(facts([("Reply", str(record.reply)), *judged_by]))


def pass_rows(verdict: Verdict, lifted: Collection[str] = ()) -> Iterator[tuple[str, str, str, str]]:
    """Rows of: recipients, the signals without which they had got it, the score then, their threshold."""
    for answer in answers(verdict, lifted):
        people = ", ".join(f"<{one}>" for one in answer.recipients[:3])
        more = len(answer.recipients) - 3
        people += f" and {more} more" if more > 0 else ""
        limit = f"{answer.thresholds.quarantine:g}"
        for way in answer.ways:
            yield people, ", ".join(way.without), f"{way.score:.2f}", limit
        if not answer.ways:
            yield people, "nothing: the thresholds alone stop it", "", limit


def _section(out: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    out.print(table(columns, rows, title=title))
    out.print()


def _find(database: Database, id: str) -> Record | None:  # noqa: A002  # as above
    found = Journal(database).find(id)
    if found is not None:
        return found
    quarantine = Quarantine(database)
    item, judgements = quarantine.find(id), quarantine.judgements(id)
    if item is None or not judgements:
        return None
    first, original = judgements[0], quarantine.original(id)
    return Record(
        id=id,
        queue_id=item.queue_id,
        received=item.received,
        door="",
        session=original.session,
        envelope=original.envelope,
        subject=item.subject,
        message_id=item.message_id,
        size=item.size,
        seconds=0.0,
        evidence=first.evidence,
        signals=first.signals,
        verdict=first.verdict,
        reply=Reply(250, "2.0.0", ""),
    )


def _what_came(record: Record) -> Iterator[tuple[str, object]]:
    session = record.session
    yield "Id", record.id + (f" (queue id {record.queue_id})" if record.queue_id else "")
    yield "Received", moment(record.received)
    yield (
        "Door",
        ", ".join(dict.fromkeys(filter(None, (record.door, session.listener, session.direction.value)))),
    )
    yield "Client", f"{session.client_name} [{session.client_ip}]".strip() if session.client_ip else ""
    yield "HELO", session.helo
    yield "Login", session.login
    if session.tls is not None:
        yield "TLS", f"{session.tls.version} {session.tls.cipher}".strip()
    yield "Sender", f"<{record.envelope.mail_from}>"
    people = record.envelope.recipients
    more = f" and {len(people) - SHOWN} more" if len(people) > SHOWN else ""
    yield "Recipients", ", ".join(f"<{r}>" for r in people[:SHOWN]) + more
    yield "Subject", record.subject
    yield "Message-ID", record.message_id
    yield "Size", octets(record.size)
    if record.seconds:
        yield "Judged in", f"{record.seconds * 1000:.1f} ms"


def _what_was_asked(evidence: Evidence) -> Iterator[tuple[str, str, str, str]]:
    """Rows of: what was asked, the answer, about what, milliseconds."""
    seen: set[str] = set()
    for asked, answer, about in _answers(evidence):
        key = asked.split()[0].lower()
        taken = None if key in seen else evidence.durations.get(key)
        seen.add(key)
        yield asked, answer, about, "" if taken is None else f"{taken:.1f}"
    for key, taken in evidence.durations.items():
        if key not in seen:
            yield key, "", "", f"{taken:.1f}"


def _answers(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    """Rows of: what was asked, the answer, about what. The first word names the duration."""
    if "dns" in evidence.durations:
        yield "DNS", "", f"questions about the sender that the cache could not answer: {evidence.queries}"
    if evidence.iprev:
        yield "iprev", evidence.iprev.result, evidence.iprev.name
    for spf in evidence.spf:
        yield f"SPF {spf.identity}", spf.result, _join(spf.domain, spf.reason)
    for dkim in evidence.dkim:
        signed = f"d={dkim.domain} s={dkim.selector}" if dkim.domain else ""
        partly = "" if dkim.covers_all else "covers only part of the message"
        yield "DKIM", dkim.result, _join(signed, dkim.algorithm, partly, dkim.reason)
    if not evidence.dkim and "dkim" in evidence.durations:
        yield "DKIM", "none", "not signed"
    if arc := evidence.arc:
        yield "ARC", arc.result, _join(", ".join(arc.sealers), arc.reason)
    if dmarc := evidence.dmarc:
        aligned = f"aligned {' and '.join(dmarc.aligned)}" if dmarc.aligned else ""
        policy = f"p={dmarc.policy}" if dmarc.policy else ""
        yield "DMARC", dmarc.result, _join(dmarc.domain, policy, aligned, dmarc.reason)
    scan, spamd = evidence.antivirus, evidence.spamd
    if scan.status != "off":
        yield "Antivirus", scan.status, _join(scan.name, scan.detail, scan.engine)
    if spamd.status != "off":
        about = f"{spamd.score:.1f} of {spamd.required:.1f}" if spamd.status == "ok" else spamd.detail
        yield "SpamAssassin", spamd.status, _join(about, ", ".join(spamd.symbols))
    if unpacked := evidence.unpacked:
        kinds = ", ".join(dict.fromkeys(finding.kind for finding in unpacked.findings))
        yield "Unpack", unpacked.status, _join(_counts(unpacked), kinds, unpacked.detail)
    if release := evidence.release:
        yield "Release", "valid", f"item {release.item}, answers {', '.join(release.lifted)}"


def _counts(unpacked: Unpacked) -> str:
    links = f", {len(unpacked.links)} links" if unpacked.links else ""
    return f"{unpacked.count} members{links}"


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _limits(thresholds: Thresholds) -> list[str]:
    return [f"{points:g}" for points in (thresholds.tag, thresholds.quarantine, thresholds.reject)]
