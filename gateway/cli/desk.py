# SPDX-License-Identifier: GPL-2.0-or-later
"""What a reviewer does at the terminal, without the terminal: pages, and decisions that wait to be undone.

Shows hostile messages as safe text only. A release or a deletion is ordered in the store at once, so that
nothing is lost if the terminal goes away.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.text import Text

from gateway.cli.explain import pass_rows
from gateway.cli.output import moment, octets, safe
from gateway.delivery.release import ReleaseError, schedule, send
from gateway.mail.charsets import decode_words
from gateway.mail.headers import printable, split
from gateway.mail.mime import parse
from gateway.mail.types import new_id
from gateway.store.database import StoreError
from gateway.store.decisions import RefusedError
from gateway.store.search import Search
from gateway.store.senders import Senders, of_message
from gateway.store.states import WAITING, Event, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.delivery.release import Sender
    from gateway.store.decisions import Order
    from gateway.store.held import Item
    from gateway.store.quarantine import Quarantine
    from gateway.store.senders import Rule
    from gateway.store.states import Actor

PAGE = 100  # items read at once
_SHOWN = ("to", "cc", "reply-to", "date", "list-id")
_TEXT = 3_000  # characters of text in the preview
_LINES = 60


@dataclass(frozen=True, slots=True)
class Pending:
    """Something decided that can be undone until `due`."""

    item: Item
    due: float
    order: Order
    deletes: bool = False


class Desk:
    """One reviewer's work on one quarantine. Its methods return what to tell the reviewer."""

    def __init__(
        self,
        quarantine: Quarantine,
        sender: Sender | None,
        who: Actor,
        *,
        window: float,
        learn: Callable[[str, bool], str],
        wanted: Search | None = None,
    ) -> None:
        """`window` are the seconds to undo; `learn` teaches an item as spam or not, and tells."""
        self._quarantine = quarantine
        self._sender = sender
        self._who = who
        self._window = window
        self._learn = learn
        self._senders = Senders(quarantine.database)
        self.wanted = replace(wanted or Search(), state=WAITING, limit=PAGE)
        self.pending: list[Pending] = []

    # -------------------------------------------------------------- looking

    def page(self, before: str = "") -> list[Item]:
        """The next items that wait, newest first; what is decided, though it can be undone, does not."""
        return self._quarantine.search(replace(self.wanted, before=before))

    def count(self) -> int:
        """How many there are, ten thousand at most."""
        return self._quarantine.count(self.wanted, upto=10_000)

    def filter(self, text: str) -> None:
        """Show only what has `text` in its subject, or, with an "@" in it, in its sender."""
        field = "sender" if "@" in text else "subject"
        self.wanted = replace(self.wanted, **{"sender": "", "subject": "", field: text})  # type: ignore[arg-type]  # both are texts

    def preview(self, item: Item) -> Text:
        """All that helps to decide about an item, as text that obeys nothing."""
        shown = Text()
        try:
            raw, judgements = self._quarantine.raw(item.id), self._quarantine.judgements(item.id)
        except StoreError as error:
            return safe(f"{error}", 300)
        content = parse(raw)
        # What people know a message by comes first: a small terminal shows little more.
        _line(shown, "Subject", item.subject, 300)
        for name, address in content.from_addresses[:5]:
            _line(shown, "From", f"{name} <{address}>", 300)
        for name, value in (
            ("Why", ", ".join(item.reasons) + f"  ({item.score:.1f} points)"),
            ("Sender", f"<{item.sender}>"),
            ("For", ", ".join(f"<{one.address}> {one.state.value}" for one in item.recipients[:5])),
            ("Client", f"{item.helo} [{item.client_ip}]"),
            ("Held", moment(item.held_at)),
            ("Size", octets(item.size)),
            ("Id", item.id),
        ):
            _line(shown, name, value)
        if judgements:
            verdict = judgements[0].verdict
            for row in list(pass_rows(verdict))[:3]:
                _line(shown, "Passes", f"without {row[1]}")
            for one in sorted(verdict.contributions, key=lambda c: -abs(c.points))[:8]:
                if one.points or one.decides:
                    _line(shown, f"{one.points:+.2f}", f"{one.name} {one.text}", 160)
        shown.append("\n")
        for field in split(raw).fields[:200]:
            if field.name.lower() in _SHOWN:
                value = decode_words(field.value[:1_000].decode("utf-8", "replace").strip())
                _line(shown, field.name, value, 300)
        for url in content.urls[:10]:
            _line(shown, "Link", url.target, 160)
        for part in content.attachments[:10]:
            _line(shown, "File", f"{' / '.join(part.names)} {part.declared_type} {octets(part.size)}", 160)
        for text in content.texts[:1]:
            shown.append("\n")
            for line in text.text[:_TEXT].splitlines()[:_LINES]:
                shown.append_text(safe(line, 500))
                shown.append("\n")
        return shown

    # -------------------------------------------------------------- deciding

    def release(self, item: Item, *, infected: bool = False) -> str:
        """Schedule a release; it goes out when the time to undo is over."""
        if self._sender is None:
            raise RefusedError("no next hop is configured to release to")
        due = time.time() + self._window
        try:
            order = schedule(self._quarantine, item.id, self._who, due=due, batch=new_id(), infected=infected)
        except ReleaseError as error:
            raise RefusedError(str(error)) from error
        self.pending.append(Pending(item, due, order))
        return f"{item.id} goes out in {self._window:.0f} s; u undoes"

    def delete(self, item: Item) -> str:
        """Delete when the time to undo is over."""
        due = time.time() + self._window
        order = self._quarantine.discard(item.id, self._who, due=due, why="in a review")
        if order is None:
            return f"{item.id} deleted"
        self.pending.append(Pending(item, due, order, deletes=True))
        return f"{item.id} is deleted in {self._window:.0f} s; u undoes"

    def undo(self) -> Item:
        """Take back what was decided last; what it was about."""
        if not self.pending:
            raise RefusedError("there is nothing to undo")
        last = self.pending.pop()
        if not self._quarantine.decisions.undo(self._who, batch=last.order.batch):
            raise RefusedError(f"{last.item.id} is {'deleted' if last.deletes else 'sent'} already")
        return last.item

    def due(self, *, all_of_it: bool = False) -> list[Pending]:
        """What is to be settled now, and can be undone no more."""
        now = time.time()
        due = [one for one in self.pending if all_of_it or one.due <= now]
        self.pending = [one for one in self.pending if one not in due]
        return due

    def waits(self, item: Item) -> bool:
        """Whether it still waits for a decision: others may have decided meanwhile."""
        try:
            found = self._quarantine.find(item.id)
        except StoreError:
            return True
        return found is not None and found.state in WAITING

    def learn(self, item: Item, *, spam: bool) -> str:
        """Teach the classifier with an item."""
        return self._learn(item.id, spam)

    def rule(self, item: Item, rule: Rule) -> str:
        """Block or allow the sender of an item."""
        if no := refusal(Event.DENY, self._who):
            raise RefusedError(no)
        pattern = self._senders.put(
            of_message(item.sender), rule, self._who.name, why="in a review", item=item.id
        )
        return f"{pattern} is {'blocked' if rule == 'block' else 'allowed'} from now on"

    def settle(self, one: Pending) -> str:
        """Do what was decided, when its time to undo is over; what there is to tell."""
        name = one.item.id
        try:
            time.sleep(max(0.0, one.order.due - time.time()))
            if one.deletes:
                done = self._quarantine.delete_due(one.order)
                return f"{name} " + ("deleted" if done else "was deleted by the service, or undone")
            assert self._sender is not None
            sent = send(self._quarantine, self._sender, one.order)
        except StoreError as error:
            return printable(f"{name}: {error}", 300)
        if sent is None:
            return f"{name} was sent by the service"
        for recipient, why in sent.failed.items():
            return printable(f"{name} not released to <{recipient}>: {why}", 300)
        return f"{name} released"


def _line(text: Text, name: str, value: str, limit: int = 400) -> None:
    text.append_text(safe(f"{name:>8}  ", 20, "bold"))
    text.append_text(safe(value, limit))
    text.append("\n")
