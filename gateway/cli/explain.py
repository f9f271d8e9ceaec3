# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden explain`: why a message was judged as it was, from its record alone.

Prints hostile text, made safe by `output`. Needs the journal's record, or, where that is gone, what
the quarantine keeps with a held message.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gateway.cli.main import EX_NOINPUT, EX_UNAVAILABLE, Context, Failure, config_option
from gateway.cli.output import console, facts, moment, octets, print_json, safe, table
from gateway.mail.types import ID_PATTERN, Action, Reply, Scan, SpamCheck
from gateway.store.database import StoreError, open_database
from gateway.store.journal import Journal, Record
from gateway.store.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from gateway.mail.types import Evidence
    from gateway.store.database import Database

_STYLES = {
    Action.RELAY: "green",
    Action.TAG: "yellow",
    Action.QUARANTINE: "magenta",
    Action.DEFER: "yellow",
    Action.REJECT: "red",
}


@click.command()
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print the whole record as JSON.")
@config_option
@click.pass_obj
def explain(context: Context, id: str, *, as_json: bool) -> None:  # noqa: A002  # it is the argument's name
    """Say why the message ID was judged as it was.

    The id stands in the reply to the sender, in the log, and in the header field of the verdict.

    \b
    Examples:
      mailwarden explain 1M80JFSJGNG4SMAS
      mailwarden explain --json 1M80JFSJGNG4SMAS
    """
    wanted = id.upper()
    try:
        database = open_database(context.config.store)
        try:
            record = _find(database, wanted) if ID_PATTERN.fullmatch(wanted) else None
        finally:
            database.close()
    except StoreError as error:
        raise Failure(str(error), EX_UNAVAILABLE) from error
    if record is None:
        raise Failure(f"no record of {safe(id, 40)}; records are kept for a limited time", EX_NOINPUT)
    if as_json:
        print_json(as_dict(record))
    else:
        render_verdict(console(), record)


def as_dict(record: Record) -> dict[str, Any]:
    """The whole record as plain values for JSON."""
    return msgspec.to_builtins(record)  # type: ignore[no-any-return]  # a dataclass becomes a dict


def render_verdict(out: Console, record: Record) -> None:
    """Print what came, what was asked, what it weighed, and what was decided."""
    verdict = record.verdict
    style = _STYLES[verdict.action]
    out.print(
        safe(f"{verdict.action.value.upper()}  {verdict.reason_text or verdict.reason}", 300, f"bold {style}")
    )
    out.print(facts(_what_came(record)))
    out.print()
    asked = list(_what_was_asked(record.evidence))
    if asked:
        out.print(table(("Asked!", "Answer!", "About", "ms>"), asked, title="Evidence"))
        out.print()
    weighed = sorted(verdict.contributions, key=lambda c: (c.decides is None, -abs(c.points)))
    if weighed:
        rows = [(f"{c.points:+.2f}", c.name, c.decides.value if c.decides else "", c.text) for c in weighed]
        out.print(table(("Points>", "Signal!", "Decides!", "Why"), rows, title="Contributions"))
        out.print()
    decided = [
        (o.recipient, safe(o.action.value, style=_STYLES[o.action]), f"{o.score:.2f}", *_limits(o.thresholds))
        for o in verdict.outcomes
    ]
    out.print(
        table(("Recipient", "Action!", "Score>", "Tag>", "Quarantine>", "Reject>"), decided, title="Outcome")
    )
    out.print()
    if verdict.edits:
        edits = [
            (e.op.value, e.name, e.index if e.op.value in {"replace", "delete"} else "", e.value)
            for e in verdict.edits
        ]
        out.print(table(("Edit!", "Field!", "Number>", "Value"), edits, title="Changes to the header"))
        out.print()
    versions = verdict.versions
    out.print(
        facts(
            [
                ("Reply", str(record.reply)),
                ("Program", versions.program),
                ("Policy", versions.policy),
                ("Model", versions.model),
            ]
        )
    )


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
    door = record.door + (f", {session.listener}" if session.listener else "")
    yield "Door", f"{door}, {session.direction.value}" if door else session.direction.value
    yield (
        "Client",
        " ".join(filter(None, [session.client_name, f"[{session.client_ip}]" if session.client_ip else ""])),
    )
    yield "HELO", session.helo
    yield "Login", session.login
    if session.tls is not None:
        yield "TLS", f"{session.tls.version} {session.tls.cipher}".strip()
    yield "Sender", f"<{record.envelope.mail_from}>"
    people = record.envelope.recipients
    yield (
        "Recipients",
        ", ".join(f"<{r}>" for r in people[:10])
        + (f" and {len(people) - 10} more" if len(people) > 10 else ""),
    )
    yield "Subject", record.subject
    yield "Message-ID", record.message_id
    yield "Size", octets(record.size)
    if record.seconds:
        yield "Judged in", f"{record.seconds * 1000:.1f} ms"


def _what_was_asked(evidence: Evidence) -> Iterator[tuple[object, ...]]:
    """Rows of: what was asked, the answer, what about, milliseconds."""
    left = dict(evidence.durations)

    def row(asked: str, answer: str, about: str, *keys: str) -> tuple[object, ...]:
        taken = [left.pop(key) for key in keys if key in left]
        return asked, answer, about, f"{sum(taken):.1f}" if taken else ""

    if evidence.iprev:
        yield row("iprev", evidence.iprev.result, evidence.iprev.name, "iprev")
    for spf in evidence.spf:
        yield row(f"SPF {spf.identity}", spf.result, _join(spf.domain, spf.reason), "spf")
    for dkim in evidence.dkim:
        partly = "" if dkim.covers_all else "covers only part of the message"
        yield row(
            "DKIM",
            dkim.result,
            _join(f"d={dkim.domain} s={dkim.selector}", dkim.algorithm, partly, dkim.reason),
            "dkim",
        )
    if evidence.arc:
        yield row(
            "ARC", evidence.arc.result, _join(", ".join(evidence.arc.sealers), evidence.arc.reason), "arc"
        )
    if evidence.dmarc:
        dmarc = evidence.dmarc
        aligned = f"aligned {' and '.join(dmarc.aligned)}" if dmarc.aligned else ""
        policy = f"p={dmarc.policy}" if dmarc.policy else ""
        yield row("DMARC", dmarc.result, _join(dmarc.domain, policy, aligned, dmarc.reason), "dmarc")
    yield from _scanners(evidence.antivirus, evidence.spamd, row)
    if evidence.release:
        yield row(
            "Release", "valid", f"item {evidence.release.item}, lifts {', '.join(evidence.release.lifted)}"
        )
    for key, taken in left.items():
        yield key, "", "", f"{taken:.1f}"


def _scanners(antivirus: Scan, spamd: SpamCheck, row: Any) -> Iterator[tuple[object, ...]]:
    if antivirus.status != "off":
        yield row(
            "Antivirus",
            antivirus.status,
            _join(antivirus.name, antivirus.detail, antivirus.engine),
            "antivirus",
            "clamd",
        )
    if spamd.status != "off":
        about = f"{spamd.score:.1f} of {spamd.required:.1f}" if spamd.status == "ok" else spamd.detail
        yield row(
            "SpamAssassin", spamd.status, _join(about, ", ".join(spamd.symbols)), "spamd", "spamassassin"
        )


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _limits(thresholds: object) -> list[str]:
    return [f"{value:g}" for value in asdict(thresholds).values()]  # type: ignore[call-overload]  # Thresholds
