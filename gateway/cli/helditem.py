# SPDX-License-Identifier: GPL-2.0-or-later
"""A held message as the commands print it: a row of a list, the whole of it, and the same as JSON.

Shows hostile messages: nothing is rendered, opened or fetched; every text passes `output`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.cli.explain import pass_rows
from gateway.cli.output import console, entries, facts, moment, octets, safe, table
from gateway.mail.headers import printable, split
from gateway.mail.shown import TEXT_SHOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.mail.types import Content, Contribution
    from gateway.store.held import Item, Judgement

NARROW = 130  # columns of a terminal below which a row of the list takes two lines


def listing(items: list[Item], width: int) -> Any:
    """Items as a table, or two lines each where the terminal is narrow."""
    if width < NARROW:
        return entries(
            (
                f"{item.id}  {moment(item.held_at)[:-3]}  {item.state}  {item.score:.1f}  "
                + (", ".join(item.reasons) or item.reason),
                f"<{item.sender}> to {_people(item)}: {item.subject}",
            )
            for item in items
        )
    rows = [
        (
            item.id,
            moment(item.held_at)[:-3],
            item.state.value,
            safe(f"<{item.sender}>", 48),
            safe(_people(item), 60),
            safe(", ".join(item.reasons) or item.reason, 60),
            f"{item.score:.1f}",
            safe(item.subject, 60),
        )
        for item in items
    ]
    return table(("Id!", "Held!", "State!", "Sender", "Recipients", "Reasons", "Score>", "Subject"), rows)


def _people(item: Item) -> str:
    shown = ", ".join(recipient.address for recipient in item.recipients[:3])
    more = len(item.recipients) - 3
    return f"{shown} and {more} more" if more > 0 else shown


def print_item(
    item: Item,
    content: Content | None,
    message: bytes,
    events: Sequence[Sequence[str]],
    judgements: Sequence[Judgement] = (),
) -> None:
    """Print all that is known of an item; `events` are when, who, what and why."""
    out = console()
    out.print(
        facts(
            [
                ("Id", item.id + (f" (queue id {item.queue_id})" if item.queue_id else "")),
                ("State", item.state.value),
                ("Held", moment(item.held_at)),
                ("Reasons", ", ".join(item.reasons) or item.reason),
                ("Score", f"{item.score:.2f}"),
                ("Client", f"[{item.client_ip}] {item.helo}" if item.client_ip else item.helo),
                ("Sender", f"<{item.sender}>"),
                ("Size", octets(item.size)),
                ("SHA-256", item.sha256),
            ]
        )
    )
    people = [(r.address, r.state.value, r.delivered_to, r.note) for r in item.recipients]
    out.print()
    out.print(table(("Recipient", "State!", "Delivered to", "Note"), people))
    _print_judgements(judgements)
    if content is not None:
        out.print()
        out.print(safe("Header fields", style="bold"))
        print_fields(message)
        _print_content(content)
    out.print()
    out.print(safe("History", style="bold"))
    out.print(table(("When!", "Who", "What!", "Why"), events))
    if content is not None:
        out.print(safe(f"mailwarden explain {item.id} says how it was judged."))


def _print_judgements(judgements: Sequence[Judgement]) -> None:
    """What it was held for, and what later scans said."""
    if not judgements:
        return
    out = console()
    out.print()
    shown = sorted(judgements[0].verdict.contributions, key=lambda c: (c.decides is None, -abs(c.points)))
    rows = [
        (f"{c.points:+.2f}", c.name, c.decides.value if c.decides else "", c.text) for c in shown if _says(c)
    ]
    out.print(table(("Points>", "Signal!", "Decides!", "Why"), rows, title="Why it is held"))
    if ways := list(pass_rows(judgements[0].verdict)):
        out.print()
        out.print(table(("Recipients", "Passes without", "Score>", "Held from>"), ways))
    if len(judgements) > 1:
        out.print()
        told = [
            (moment(j.time), j.verdict.action.value, f"{j.verdict.score:.2f}", j.verdict.reason)
            for j in judgements
        ]
        out.print(table(("Judged!", "Verdict!", "Score>", "Reason"), told))


def _says(one: Contribution) -> bool:
    return bool(one.points or one.decides)


def print_fields(message: bytes) -> None:
    """Print the header fields, decoded in no way."""
    out = console()
    for field in split(message).fields[:200]:
        value = printable(field.value[:4_000].decode("utf-8", "replace").strip(), 1_000)
        out.print(safe(f"{field.name}: {value}", 1_100), soft_wrap=True)


def _print_content(content: Content) -> None:
    out = console()
    for text in content.texts[:2]:
        out.print()
        out.print(safe(f"Text ({text.kind})", style="bold"))
        for line in text.text[:TEXT_SHOWN].splitlines()[:40]:
            out.print(safe(line, 500), soft_wrap=True)
        if len(text.text) > TEXT_SHOWN:
            out.print("...")
    if content.urls:
        links = [(safe(url.target, 200), safe(url.shown, 80)) for url in content.urls[:30]]
        out.print()
        out.print(table(("Link", "Shown as"), links))
    if content.attachments:
        parts = [
            (
                " / ".join(a.names) or "(no name)",
                a.declared_type,
                a.detected_type,
                octets(a.size),
                a.sha256,
            )
            for a in content.attachments[:50]
        ]
        out.print()
        out.print(table(("Attachment", "Declared", "Detected", "Size>", "SHA-256"), parts))
    broken = [*content.defects, *content.ambiguities, *content.limits]
    if broken:
        out.print()
        out.print(facts([("Broken", ", ".join(broken))]))
