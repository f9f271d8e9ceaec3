# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden trace`: find messages in the journal, and say what became of each.

Prints hostile text, through `output`. Joins what is written apart: the journal says what was judged and
answered, the quarantine what happened since to what was held, the queue what still waits for its next hop,
and the deliveries how it ended. What goes on through Postfix
ends in its log, under the queue id that is told here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.database import opened
from gateway.cli.filters import Moment
from gateway.cli.main import Context, config_option, json_option
from gateway.cli.output import console, facts, moment, octets, print_json, safe, table
from gateway.mail.headers import printable
from gateway.mail.types import Action
from gateway.store import deliveries, queued
from gateway.store.deliveries import Delivery
from gateway.store.fates import WORDS
from gateway.store.journal import Filter, Journal, Record
from gateway.store.quarantine import Quarantine
from gateway.store.queue import Queue
from gateway.store.search import Search
from gateway.store.states import UNDELIVERED, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.delivery.routes import Routes
    from gateway.store.audit import Event
    from gateway.store.database import Database
    from gateway.store.held import HeldRecipient, Item
    from gateway.store.queued import Recipient

_ADDRESS = 320  # characters of an address, as the quarantine keeps it
_SLACK = 86_400.0  # seconds from the receipt of a message until its next hop has refused it
_SHORT = frozenset({"spf", "dkim", "dmarc", "virus", "release"})  # what a table has room for
_SENT = frozenset({"relayed", "stripped"})  # what the queue or the deliveries may know more of
_QUEUED = re.compile(r"queued as ([0-9A-Z]{16})")  # as a release says it of our queue
_MANY = 1_000  # copies that next hops refused, looked through for one page


@dataclass(frozen=True, slots=True)
class Copy:
    """What became of one recipient's copy."""

    recipient: str
    action: Action
    # relayed, stripped, queued, undeliverable, held in the queue, and the words of `deliveries.Ended`;
    # held, releasing, released, deleted, expired, forgotten; deferred, rejected
    state: str
    to: str = ""  # next hop, or the address that it was released to
    note: str = ""  # the reply of who answered last, or why
    changed: float = 0.0
    item: str = ""  # where it is or was held
    server: str = ""  # which gave the reply
    tls: str = ""  # of the session with it
    attempts: int = 0
    queued: str = ""  # the queue's id of it, where it was released


@click.command()
@click.option("--sender", default="", help="Part of the envelope sender, in any case.")
@click.option("--recipient", default="", help="Part of a recipient's address.")
@click.option("--subject", default="", help="Part of the subject.")
@click.option("--message-id", default="", help="Part of the Message-ID.")
@click.option("--client", default="", help='Client address, or its start: "192.0.2.", "2001:db8:".')
@click.option("--queue-id", default="", help="Postfix's queue id.")
@click.option("--action", type=click.Choice([a.value for a in Action]), help="What was decided.")
@click.option("--reason", default="", help="Name of the signal that decided, or score.")
@click.option(
    "--became",
    type=click.Choice(WORDS),
    multiple=True,
    help="What became of a recipient's copy; repeatable: any of them.",
)
@click.option("--since", type=Moment(), help="Received since: 2d, 12h, or a date.")
@click.option("--until", type=Moment(), help="Received before: 2d, 12h, or a date.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="So many of the newest."
)
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many of the newest.")
@json_option
@config_option
@click.pass_obj
def trace(context: Context, /, *, action: str | None, limit: int, as_json: bool, **chosen: Any) -> None:
    """Find messages, newest first: what came in, what was found, what was decided, where it is now.

    One that is found alone is shown with its whole way. Why it was judged so, `mailwarden explain` says.

    \b
    Examples:
      mailwarden trace --recipient bob@example.com --since 2d
      mailwarden trace --message-id 20260131.1234@example.net
      mailwarden trace --client 192.0.2. --action reject --limit 500 --json
      mailwarden trace --became bounced --became failed --since 1d
    """
    wanted = Filter(action=Action(action) if action else None, limit=limit + 1, **chosen)
    with opened(context.config) as database:
        records, unreadable = Journal(database).page(wanted)
        more, records = len(records) + unreadable > limit, records[:limit]
        quarantine = Quarantine(database, context.config.store)
        copies = _ended(_copies(records, quarantine, _routes(context)), database)
        alone = len(records) == 1 and not more
        history = {r.id: _history(quarantine, copies[r.id]) for r in records if alone or as_json}
    if as_json:
        print_json([_as_dict(record, copies[record.id], history[record.id]) for record in records])
    elif alone:
        _print_way(records[0], copies[records[0].id], history[records[0].id])
    else:
        _print_page(records, copies)
    if unreadable:
        console(stderr=True).print(f"{unreadable} records cannot be read")
    if more and not as_json:
        console(stderr=True).print(f"There are more: --offset {wanted.offset + limit}")


# ---------------------------------------------------------------- joining


def _routes(context: Context) -> Routes:
    from gateway.delivery.routes import routes  # noqa: PLC0415  # help stays quick

    return routes(context.config.routes, context.config.next_hop)


def _copies(records: Sequence[Record], quarantine: Quarantine, table: Routes) -> dict[str, list[Copy]]:
    """What was decided of each recipient's copy, and the quarantine knows of it, by the message's id."""
    held: dict[str, Item] = {}
    ids = [record.id for record in records if record.verdict.kept]
    for start in range(0, len(ids), _MANY):
        held |= quarantine.known(ids[start : start + _MANY])
    refused = _refused(records, quarantine)
    found: dict[str, list[Copy]] = {}
    for record in records:
        late = refused.get((record.received, printable(record.envelope.mail_from, _ADDRESS)), [])
        found[record.id] = [
            _copy(record, outcome.recipient, outcome.action, held.get(record.id), late, table)
            for outcome in record.verdict.outcomes
        ]
    return found


def _refused(records: Sequence[Record], quarantine: Quarantine) -> dict[tuple[float, str], list[Item]]:
    """What next hops refused after others' copies were taken; it is held under ids of its own."""
    times = [r.received for r in records if r.door == "smarthost" and r.verdict.relayed]
    found: dict[tuple[float, str], list[Item]] = {}
    if times:
        wanted = Search(reason=UNDELIVERED, since=min(times) - _SLACK, until=max(times) + _SLACK, limit=_MANY)
        for item in quarantine.search(wanted):
            found.setdefault((item.received, item.sender), []).append(item)
    return found


def _copy(
    record: Record, recipient: str, action: Action, held: Item | None, refused: list[Item], table: Routes
) -> Copy:
    address = printable(recipient, _ADDRESS)
    if action in (Action.DEFER, Action.REJECT):
        return Copy(
            address, action, "deferred" if action is Action.DEFER else "rejected", note=str(record.reply)
        )
    if action is Action.STRIP:
        return _stripped_copy(address, held)
    if action is Action.LEARN:
        return Copy(address, action, "learned", note=printable(record.verdict.reason_text, _ADDRESS))
    if action is Action.QUARANTINE:
        if one := _of(held, address):
            return _held_copy(address, action, one, held)
        return Copy(address, action, "forgotten", note="the quarantine does not know it any more")
    for item in refused:
        if one := _of(item, address):
            return _held_copy(address, action, one, item, "the next hop refused it")
    if record.door != "smarthost":
        note = f"queue id {record.queue_id}" if record.queue_id else ""
        return Copy(address, action, "relayed", "Postfix", note)
    return Copy(address, action, "relayed", str(table.route(recipient) or ""))


def _ended(copies: dict[str, list[Copy]], database: Database) -> dict[str, list[Copy]]:
    """The same copies, with what the queue and the deliveries know of those that were sent on."""
    ids = [name for name, found in copies.items() if any(one.state in _SENT for one in found)]
    ids += [one.queued for found in copies.values() for one in found if one.queued]
    last: dict[tuple[str, str], Recipient | Delivery] = {
        (item, printable(one.address, _ADDRESS)): one
        for item, ends in deliveries.known(database, ids).items()
        for one in ends
    }
    for start in range(0, len(ids), _MANY):
        chosen = tuple(ids[start : start + _MANY])
        for entry in Queue(database).search(queued.Filter(ids=chosen, limit=_MANY)):
            last |= {(one.item, printable(one.address, _ADDRESS)): one for one in entry.recipients}

    def end(item: str, copy: Copy) -> Copy:
        where = (copy.queued, copy.to) if copy.queued else (item, copy.recipient)
        one = last.get(where) if copy.queued or copy.state in _SENT else None
        return _told(copy, one) if one else copy

    return {item: [end(item, copy) for copy in found] for item, found in copies.items()}


def _told(copy: Copy, one: Recipient | Delivery) -> Copy:
    """What the last word about a copy makes of it."""
    words = {queued.State.HELD: "held in the queue", queued.State.LEASED: "queued"}
    if isinstance(one, Delivery):
        state = one.ended.value
    elif one.state is queued.State.FAILED:
        state = one.ended or "failed"
    else:
        state = words.get(one.state, one.state.value)
    return replace(
        copy,
        state=f"{copy.state}, {state}" if copy.queued or copy.state == "stripped" else state,
        to=copy.to if copy.queued else one.hop or copy.to,
        note="; ".join(filter(None, (copy.note if not copy.queued else "", one.reply))),
        changed=one.changed,
        server=one.server,
        tls=one.tls,
        attempts=one.attempts,
    )


def _stripped_copy(address: str, held: Item | None) -> Copy:
    """What was delivered without an attachment, and what became of the original."""
    one = _of(held, address)
    if held is None or one is None:
        return Copy(
            address, Action.STRIP, "stripped", note="the quarantine does not know the original any more"
        )
    kept = one.state is State.HELD
    note = "the original is held" if kept else f"the original is {one.state.value}"
    return Copy(address, Action.STRIP, "stripped", one.delivered_to, note, one.changed, held.id)


def _of(item: Item | None, address: str) -> HeldRecipient | None:
    return next((one for one in item.recipients if one.address == address), None) if item else None


def _held_copy(address: str, action: Action, one: HeldRecipient, item: Item | None, note: str = "") -> Copy:
    gone_on = _QUEUED.search(one.note) if one.state is State.RELEASED else None
    return Copy(
        address,
        action,
        one.state.value,
        to=one.delivered_to,
        note="; ".join(filter(None, (note, one.note))),
        changed=one.changed,
        item=item.id if item else "",
        queued=gone_on[1] if gone_on else "",
    )


def _history(quarantine: Quarantine, copies: Sequence[Copy]) -> list[Event]:
    items = dict.fromkeys(copy.item for copy in copies if copy.item)
    return [event for item in items for event in quarantine.history(item)]


# ---------------------------------------------------------------- telling


def findings(record: Record, *, short: bool = False) -> str:
    """The evidence in a line, in the words of Authentication-Results; `short` for a cell of a table."""
    found = [one for one in _found(record) if not short or one[0] in _SHORT]
    return " ".join(
        f"{name}={what}" + (f"({about})" if about and not short else "") for name, what, about in found
    )


def _found(record: Record) -> Iterator[tuple[str, str, str]]:
    """What was asked, the answer, about what. What was not asked, or found nothing, is left out."""
    evidence = record.evidence
    for spf in evidence.spf[:1]:
        yield "spf", spf.result, printable(spf.domain, 80)
    if evidence.dkim:
        best = next((one for one in evidence.dkim if one.result == "pass"), evidence.dkim[0])
        yield "dkim", best.result, printable(best.domain, 80)
    if dmarc := evidence.dmarc:
        yield "dmarc", dmarc.result, f"p={dmarc.policy}" if dmarc.policy else ""
    if evidence.arc and evidence.arc.result != "none":
        yield "arc", evidence.arc.result, ""
    if evidence.antivirus.status not in ("off", "clean"):
        yield "virus", evidence.antivirus.status, printable(evidence.antivirus.name, 80)
    if evidence.spamd.status == "ok":
        yield "spamassassin", f"{evidence.spamd.score:.1f}", ""
    for signal in record.signals:
        if signal.name == "CLASSIFIER" and signal.state == "hit":
            yield "classifier", f"{signal.value:.2f}", ""
        elif signal.state == "error":
            yield signal.name, "error", ""
    if evidence.release:
        yield "release", evidence.release.item, ""


def _became(copies: Sequence[Copy]) -> str:
    """One phrase for equal fates: "released (2), held"."""
    counts: dict[str, int] = {}
    for copy in copies:
        words = copy.state + (f" to {copy.to}" if copy.state == "relayed" and copy.to else "")
        counts[words] = counts.get(words, 0) + 1
    return ", ".join(words + (f" ({n})" if len(copies) > 1 else "") for words, n in counts.items())


def _people(record: Record) -> str:
    people = record.envelope.recipients
    return ", ".join(people[:3]) + (f" and {len(people) - 3} more" if len(people) > 3 else "")


def _decided(record: Record) -> str:
    verdict = record.verdict
    return f"{verdict.action.value}: {verdict.reason} ({verdict.score:.1f})"


def _print_page(records: Sequence[Record], copies: dict[str, list[Copy]]) -> None:
    rows = [
        (
            record.id,
            moment(record.received)[:-3],
            record.session.client_ip,
            safe(f"<{record.envelope.mail_from}>", 48),
            safe(_people(record), 60),
            safe(findings(record, short=True), 100),
            safe(_decided(record), 60),
            safe(_became(copies[record.id]), 60),
        )
        for record in records
    ]
    heads = ("Id!", "Received!", "Client!", "Sender", "Recipients", "Evidence", "Verdict", "Became")
    console().print(table(heads, rows) if rows else "Nothing matches.")


def _print_way(record: Record, copies: Sequence[Copy], events: Sequence[Event]) -> None:
    out, session, verdict = console(), record.session, record.verdict
    where = ", ".join(filter(None, (record.door, session.listener, session.direction.value)))
    rows = [
        ("Id", record.id + (f" (queue id {record.queue_id})" if record.queue_id else "")),
        ("Received", f"{moment(record.received)} by {where}"),
        ("Client", f"{session.client_name} [{session.client_ip}]".strip() if session.client_ip else ""),
        ("Sender", f"<{record.envelope.mail_from}>"),
        ("Subject", record.subject),
        ("Message-ID", record.message_id),
        ("Size", octets(record.size)),
        ("Evidence", findings(record)),
        ("Verdict", "; ".join(filter(None, (_decided(record), verdict.reason_text)))),
        ("Reply", str(record.reply)),
    ]
    out.print(facts(rows))
    became = [
        (f"<{c.recipient}>", c.action.value, c.state, _where(c), _told_so(c), moment(c.changed))
        for c in copies
    ]
    out.print()
    out.print(table(("Recipient", "Verdict!", "Became!", "To", "Note", "Since!"), became))
    if events:
        out.print()
        out.print(
            table(
                ("When!", "Who", "What!", "Why"), [(moment(e.time), e.who, e.action, e.why) for e in events]
            )
        )
    out.print(safe(f"mailwarden explain {record.id} says why."))


def _where(copy: Copy) -> str:
    """Next hop or address, the server that answered if it is another, and its TLS."""
    sent = copy.attempts > 0
    named = f" at {copy.server}" if copy.server and copy.server not in copy.to else ""
    return copy.to + named + (f" ({copy.tls or 'in clear'})" if sent and copy.server else "")


def _told_so(copy: Copy) -> str:
    tries = f"{copy.attempts} attempts" if copy.attempts > 1 else ""
    return "; ".join(filter(None, (copy.note, tries)))


def _as_dict(record: Record, copies: Sequence[Copy], events: Sequence[Event]) -> dict[str, Any]:
    return {
        "id": record.id,
        "queue_id": record.queue_id,
        "received": record.received,
        "door": record.door,
        "client_ip": record.session.client_ip,
        "client_name": record.session.client_name,
        "helo": record.session.helo,
        "login": record.session.login,
        "sender": record.envelope.mail_from,
        "subject": record.subject,
        "message_id": record.message_id,
        "size": record.size,
        "seconds": record.seconds,
        "evidence": findings(record),
        "action": record.verdict.action.value,
        "reason": record.verdict.reason,
        "score": record.verdict.score,
        "reply": str(record.reply),
        "released_from": record.evidence.release.item if record.evidence.release else "",
        "copies": [
            {
                "recipient": c.recipient,
                "action": c.action.value,
                "state": c.state,
                "to": c.to,
                "note": c.note,
                "changed": c.changed,
                "item": c.item,
                "server": c.server,
                "tls": c.tls,
                "attempts": c.attempts,
                "queued": c.queued,
            }
            for c in copies
        ],
        "history": [{"time": e.time, "who": e.who, "action": e.action, "why": e.why} for e in events],
    }
