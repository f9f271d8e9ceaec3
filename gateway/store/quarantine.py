# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages held back, from the moment before the 250 until they are released, deleted or expired.

Holds hostile messages and text. Bytes go in and out untouched and are checked against their SHA-256.
A message, its row and its recipients commit together and durably, or `StoreError` is raised and
nothing is kept. A release goes out once for each recipient: who delivers holds a lease, which only
its time or a settled delivery ends.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from typing import TYPE_CHECKING

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, literal, or_, select, update

from gateway.mail.headers import printable
from gateway.mail.types import (
    ID_PATTERN,
    Content,
    Envelope,
    Evidence,
    Mail,
    Release,
    Session,
    Signal,
    Verdict,
)
from gateway.store import audit, held, queued, schema, tokens
from gateway.store.database import Database, StoreError, StoreSettings
from gateway.store.decisions import Decisions, RefusedError
from gateway.store.encoding import to_json
from gateway.store.held import Claim, Item, Judgement, Original
from gateway.store.keys import shared_key
from gateway.store.search import Search, matching, newest
from gateway.store.states import MALWARE, OPEN, OURSELVES, Event, State, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Select

    from gateway.store.decisions import Order
    from gateway.store.queued import Outgoing
    from gateway.store.states import Actor

MAX_REASONS = 200
MAX_JUDGEMENTS = 20  # later verdicts kept of one item, beside the first

# Built once: most of a statement's cost is building it.
_SHA256 = select(schema.quarantine.c.sha256).where(schema.quarantine.c.id == bindparam("item"))
_BYTES = insert(schema.quarantine_bytes)


class Quarantine:
    """The quarantine in one database. Thread-safe; all methods raise StoreError."""

    def __init__(self, database: Database, settings: StoreSettings | None = None) -> None:
        self.database = database
        self._settings = settings or StoreSettings()
        self._key: bytes | None = None
        self.decisions = Decisions(database)

    # -------------------------------------------------------------- holding

    def hold(
        self,
        mail: Mail,
        verdict: Verdict,
        evidence: Evidence,
        signals: Sequence[Signal],
        *,
        content: Content | None,
        reasons: Sequence[str],
    ) -> str:
        """Keep a message for those for whom `verdict` holds or strips it; on disk when this returns.

        `reasons` are what it is held for, and what its release lifts. Holding the same `mail.id`
        again changes nothing. Returns the item's id, which is the mail's.
        """
        people = tuple(dict.fromkeys(verdict.kept))
        if not people:
            raise StoreError("nobody to hold the message for")
        if not ID_PATTERN.fullmatch(mail.id):
            raise StoreError("not an id of ours")
        names = tuple(dict.fromkeys(reasons))[:MAX_REASONS]
        judgement = Judgement(time.time(), evidence, tuple(signals), verdict)
        try:
            rows = held.rows_of(mail, content, judgement, people, names)
            packed = zlib.compress(mail.raw, 1)
        except (TypeError, ValueError, MemoryError) as error:
            raise StoreError(f"cannot be kept: {type(error).__name__}") from error

        def work(connection: Connection) -> None:
            found = connection.execute(_SHA256, {"item": mail.id}).scalar()
            if found is not None:
                if found != _sha256(mail.raw):
                    raise StoreError("another message is held under this id")
                return
            for row, values in rows:
                connection.execute(row, values)
            connection.execute(_BYTES, {"item": mail.id, "data": packed})
            audit.append(connection, mail.id, OURSELVES.name, "held", ", ".join(names))

        self.database.write(work, mail=len(packed))
        return mail.id

    # -------------------------------------------------------------- looking

    def find(self, item: str) -> Item | None:
        """One item by its id, whatever its state."""
        if not ID_PATTERN.fullmatch(item):
            return None
        return self.known([item]).get(item)

    def search(self, wanted: Search) -> list[Item]:
        """Items that match, newest first."""

        def work(connection: Connection) -> list[Item]:
            found = held.items(connection, newest(connection, wanted))
            return sorted(found, key=lambda item: item.id, reverse=True)

        return self.database.search(work)

    def known(self, ids: Sequence[str]) -> dict[str, Item]:
        """Those of `ids` that are or were held, whatever their state."""
        found = self.database.read(lambda connection: held.items(connection, ids))
        return {item.id: item for item in found}

    def count(self, wanted: Search, upto: int = 1_000_000_000) -> int:
        """How many items match, limit and offset aside; counting ends at `upto`."""

        def work(connection: Connection) -> int:
            found = matching(connection, wanted, literal(1)).limit(upto).subquery()
            return int(connection.execute(select(func.count()).select_from(found)).scalar_one())

        return self.database.search(work)

    def raw(self, item: str) -> bytes:
        """The message exactly as received, proven by its SHA-256."""
        return self.database.read(lambda connection: held.bytes_of(connection, item))

    def original(self, item: str) -> Original:
        """Session, envelope and bytes exactly as received."""
        table = schema.quarantine_envelopes

        def work(connection: Connection) -> Original:
            row = connection.execute(select(table).where(table.c.item == item)).mappings().first()
            if row is None:
                raise StoreError(f"{item} holds no message any more")
            return Original(
                held.decode(row["session"], Session),
                held.decode(row["envelope"], Envelope),
                held.bytes_of(connection, item),
            )

        return self.database.read(work)

    def judgements(self, item: str) -> list[Judgement]:
        """Why the item is held, oldest first. Empty once its content is gone."""
        table = schema.quarantine_judgements
        statement = select(table).where(table.c.item == item).order_by(table.c.number)
        rows = self.database.read(lambda connection: connection.execute(statement).mappings().all())
        return [
            Judgement(
                row["time"],
                held.decode(row["evidence"], Evidence),
                held.decode(row["signals"], tuple[Signal, ...]),
                held.decode(row["verdict"], Verdict),
            )
            for row in rows
        ]

    def judged_again(self, item: str, judgement: Judgement, stamp: str = "") -> bool:
        """Keep a later verdict beside the first; of many the newest. False for what is gone.

        `stamp` is what judged it, where the judgement does not tell: a scanner may not have been asked. With
        it nothing is kept, either, if the same has judged already: another node was faster.
        """
        once, stamp = bool(stamp), stamp or held.stamp(judgement)
        table, judged = schema.quarantine, schema.quarantine_judgements

        def work(connection: Connection) -> bool:
            if not held.lock(connection, item):
                return False
            before = connection.execute(select(table.c.judged_by).where(table.c.id == item)).scalar_one()
            if once and stamp in held.stamps(before):
                return False
            last = select(func.max(judged.c.number)).where(judged.c.item == item)
            number = int(connection.execute(last).scalar() or 0) + 1
            row = held.judgement_row(item, number, judgement)
            connection.execute(insert(judged).values(**row))
            old = (judged.c.item == item, judged.c.number > 0, judged.c.number <= number - MAX_JUDGEMENTS)
            connection.execute(delete(judged).where(*old))
            by = held.stamped(before, stamp)
            connection.execute(update(table).where(table.c.id == item).values(judged_by=by))
            verdict = judgement.verdict
            why = f"{verdict.action}: {verdict.reason} ({verdict.score:.2f}) by {stamp}"
            audit.append(connection, item, OURSELVES.name, "judged", why)
            return True

        return self.database.write(work, durable=False)

    def history(self, item: str) -> list[audit.Event]:
        """The audit of one item, oldest first."""
        return self.database.read(lambda connection: audit.events(connection, item))

    def note(self, item: str, who: str, action: str, why: str = "") -> None:
        """Write something down in the audit of an item."""
        self.database.write(lambda connection: audit.append(connection, item, who, action, why))

    # -------------------------------------------------------------- releasing

    def claim(
        self,
        item: str,
        recipients: Sequence[str] | None,
        who: str,
        *,
        lease_seconds: float | None = None,
    ) -> Claim | None:
        """Take those of `recipients` (None: all) whose release is due, so that nobody else delivers to them.

        Of two claims at once one gets a recipient, the other does not. None if nothing was left.
        """
        if not ID_PATTERN.fullmatch(item):
            return None
        lease = os.urandom(16).hex()
        seconds = self._settings.lease_seconds if lease_seconds is None else lease_seconds

        def work(connection: Connection) -> Claim | None:
            now = time.time()
            people = held.lock(connection, item)
            table, orders = schema.quarantine_recipients, schema.quarantine_orders
            due = select(orders.c.position).where(orders.c.item == item, orders.c.due <= now)
            mine = [
                table.c.item == item,
                table.c.position.in_(held.positions(people, recipients)),
                or_(
                    and_(table.c.state == State.SCHEDULED, table.c.position.in_(due)),
                    and_(table.c.state == State.RELEASING, table.c.lease_until < now),
                ),
            ]
            free = connection.execute(select(table.c.position).where(*mine).order_by(table.c.position))
            chosen = list(free.scalars())
            if not chosen:
                return None
            held.move(connection, item, chosen, Event.CLAIM, OURSELVES, now)
            leased = {"lease": lease, "lease_until": now + seconds}
            connection.execute(
                update(table).where(table.c.item == item, table.c.position.in_(chosen)).values(**leased)
            )
            taken = tuple(people[n] for n in chosen)
            audit.append(connection, item, who, Event.CLAIM, held.listed(taken))
            return Claim(item, lease, taken, now + seconds)

        return self.database.write(work)

    def settle(
        self,
        claim: Claim,
        *,
        who: str,
        delivered: Mapping[str, str] | None = None,
        failed: Mapping[str, str] | None = None,
        outgoing: Sequence[Outgoing] = (),
        replies: Mapping[str, str] | None = None,
    ) -> tuple[str, ...]:
        """Note what became of a claim.

        `delivered` maps recipients to the address they went to, `failed` to the error; the failed
        are held again; `replies` are what was said to the delivered. Returns the recipients whose lease
        had passed to another claimant meanwhile: a delivered one among them may arrive twice. What is
        `outgoing` to those delivered is queued in the same transaction, all or nothing: not if one of these
        leases had passed on.
        """
        said = replies or {}
        done = [(r, Event.DELIVER, to, said.get(r, "")) for r, to in (delivered or {}).items()]
        done += [(r, Event.FAIL, "", error) for r, error in (failed or {}).items()]

        def work(connection: Connection) -> tuple[str, ...]:
            now = time.time()
            people = held.lock(connection, claim.item, gone_too=True)
            table, orders = schema.quarantine_recipients, schema.quarantine_orders
            if outgoing:
                if not held.leased(connection, claim, people).issuperset(delivered or {}):
                    return tuple(delivered or {})
                queued.put(connection, outgoing)
            late = []
            for recipient, event, to, note in done:
                position = people.index(recipient) if recipient in people else -1
                mine = (table.c.item == claim.item, table.c.position == position)
                still = update(table).where(
                    *mine, table.c.lease == claim.lease, table.c.state == State.RELEASING
                )
                values = {"delivered_to": printable(to, 320), "note": printable(note, 500)}
                settled = connection.execute(still.values(**values, lease="", lease_until=0.0)).rowcount
                if settled:
                    held.move(connection, claim.item, [position], event, OURSELVES, now)
                    ordered = (orders.c.item == claim.item, orders.c.position == position)
                    connection.execute(delete(orders).where(*ordered))
                else:
                    late.append(recipient)
                word = event.value + ("" if settled else " late")
                audit.append(connection, claim.item, who, word, f"{recipient}: {to or note}")
            return tuple(late)

        return self.database.write(work)

    def issue_token(self, item: str, recipients: Sequence[str], message: bytes | None = None) -> str:
        """Make the token that lets an item, for these recipients, in again until it expires.

        `message` is what is sent where that is not the item as it was received.
        """
        key = self._release_key()
        nonce, bound = tokens.new_nonce(), tokens.normal(recipients)

        def work(connection: Connection) -> tokens.Bond:
            table, issued = schema.quarantine, schema.release_tokens
            columns = (table.c.sha256, table.c.size, table.c.state)
            row = connection.execute(select(*columns).where(table.c.id == item)).first()
            if row is None or row.state not in {State.RELEASING, State.RELEASED}:
                raise StoreError(f"{item} is not being released")
            now = time.time()
            connection.execute(delete(issued).where(issued.c.expires < now))
            digest, size = (row.sha256, row.size) if message is None else (_sha256(message), len(message))
            bond = tokens.Bond(item, nonce, digest, bound, now + self._settings.token_seconds)
            values = {"item": item, "recipients": to_json(bound), "expires": bond.expires}
            connection.execute(insert(issued).values(nonce=nonce, sha256=digest, size=size, **values))
            return bond

        return tokens.seal(key, self.database.write(work))

    def check_token(self, value: str, raw: bytes, recipients: Sequence[str]) -> Release | None:
        """The release that a token proves for this message and all these recipients, or None.

        `raw` is the message without the token's own field. Raises StoreError when it cannot be told.
        """
        token = tokens.parse(value)
        if token is None or not recipients:
            return None
        key = self._release_key()

        def work(connection: Connection) -> Release | None:
            found = _issued(connection, token)
            if found is None or not tokens.proves(token, key, found[0]):
                return None
            bond, size = found
            if bond.expires < time.time() or not set(tokens.normal(recipients)) <= set(bond.recipients):
                return None
            if not tokens.same_message(raw, size, bond.sha256):
                return None
            reasons = held.reasons_by_item(connection, [token.item]).get(token.item, {})
            # Nobody has answered an infection that was found after the release, in what others have of it.
            lifted = (name for name, answered in reasons.items() if answered or name not in MALWARE)
            return Release(token.item, tuple(lifted))

        return self.database.read(work)

    # -------------------------------------------------------------- removing

    def delete(self, item: str, who: Actor, *, why: str = "") -> bool:
        """Remove a message and its content for good; an empty row stays, saying so.

        False if there is no such item, it is gone already, or it is being released right now. Raises
        RefusedError.
        """
        if no := refusal(Event.DELETE, who):
            raise RefusedError(no)
        return self._delete(item, who.name, why, (*OPEN, State.RELEASED))

    def discard(self, item: str, who: Actor, *, due: float, batch: str = "", why: str = "") -> Order | None:
        """Delete it at the time `due`, by whoever calls `delete_due` first; until then it can be undone.

        None for what has gone out already: only its content is left, which goes at once. Raises RefusedError.
        """
        found = self.find(item)
        if found is None or found.state is not State.RELEASED:
            return self.decisions.discard(item, who, due=due, batch=batch, why=why)
        if not self.delete(item, who, why=why):
            raise RefusedError("it is gone already")
        return None

    def delete_due(self, order: Order) -> bool:
        """Do a deletion that was ordered; False if it is not due, undone, or done already."""
        orders = schema.quarantine_orders
        mine = and_(orders.c.item == order.item, orders.c.batch == order.batch, orders.c.due <= time.time())
        return self._delete(order.item, order.who, "", (State.DELETING,), select(orders.c.item).where(mine))

    def _delete(
        self,
        item: str,
        who: str,
        why: str,
        states: tuple[State, ...],
        ordered: Select[str] | None = None,
    ) -> bool:
        """Remove what is in one of `states`, and `ordered` if that is given; whether it was."""
        if not ID_PATTERN.fullmatch(item):
            return False

        def work(connection: Connection) -> bool:
            now = time.time()
            if not held.free(connection, [item], now, *states):
                return False
            if ordered is not None and connection.execute(ordered).first() is None:
                return False
            held.remove(connection, [item], State.DELETED, now)
            audit.append(connection, item, who, Event.DELETE, why)
            return True

        done = self.database.write(work)
        if done:
            self.database.purge()
        return done

    def expire(self, older_than: float, batch: int = 200) -> int:
        """Remove the content of what was held before `older_than`, `batch` at most; how many it was."""
        table = schema.quarantine
        old = select(table.c.id).where(table.c.content == 1, table.c.held_at < older_than)

        # Looked for first, so that nobody who wants to hold a message waits for the search.
        return self.expire_these(self._ids(old.order_by(table.c.held_at).limit(batch)))

    def expire_these(self, items: Sequence[str], *, why: str = "") -> int:
        """Remove the content of those of `items` that nobody is releasing; how many it was."""

        def work(connection: Connection) -> int:
            now = time.time()
            free = held.free(connection, items, now, *OPEN, State.RELEASED)
            held.remove(connection, free, State.EXPIRED, now)
            audit.append_all(connection, free, OURSELVES.name, Event.EXPIRE, why)
            return len(free)

        return self.database.write(work, durable=False) if items else 0

    def forget(self, older_than: float, batch: int = 1_000) -> int:
        """Drop the empty rows of what was removed before `older_than`, `batch` at most."""
        table = schema.quarantine
        old = select(table.c.id).where(table.c.content == 0, table.c.changed < older_than)

        def work(connection: Connection) -> int:
            return held.drop(connection, found)

        found = self._ids(old.limit(batch))
        return self.database.write(work, durable=False) if found else 0

    def verify_audit(self, known: tuple[int, str] | None = None) -> int | None:
        """None if the audit is whole, and has the row `known`, else the first number that does not fit."""
        return self.database.read(lambda connection: audit.verify(connection, known))

    def audit_head(self) -> str:
        """Number and hash of the newest row of the audit, "" if it is empty."""
        return self.database.read(audit.head)

    def unaudited(self) -> list[str]:
        """Some of the items that the audit says nothing of, though it knows all that were ever held."""
        table, told = schema.quarantine, schema.audit
        known = select(told.c.item).where(told.c.item == table.c.id)
        return self._ids(select(table.c.id).where(~known.exists()).limit(10))

    def latest(self, limit: int) -> list[audit.Event]:
        """The newest rows of the audit, newest first."""
        return self.database.read(lambda connection: audit.latest(connection, limit))

    # -------------------------------------------------------------- inside

    def _ids(self, statement: Select[str]) -> list[str]:
        return self.database.read(lambda connection: list(connection.execute(statement).scalars()))

    def _release_key(self) -> bytes:
        if self._key is None:
            self._key = shared_key(self.database, "release")
        return self._key


def _issued(connection: Connection, token: tokens.Token) -> tuple[tokens.Bond, int] | None:
    """What the token was bound to, and the message's size, if its item goes out or has gone out."""
    table, issued, people = schema.quarantine, schema.release_tokens, schema.quarantine_recipients
    going = select(people.c.item).where(
        people.c.item == table.c.id, people.c.state.in_([State.RELEASING, State.RELEASED])
    )
    row = connection.execute(
        select(issued.c.sha256, issued.c.size, issued.c.recipients, issued.c.expires)
        .join(issued, issued.c.item == table.c.id)
        .where(table.c.id == token.item, issued.c.nonce == token.nonce, going.exists())
    ).first()
    if row is None:
        return None
    bound: tuple[str, ...] = held.decode(row.recipients, tuple[str, ...])
    return tokens.Bond(token.item, token.nonce, row.sha256, bound, row.expires), row.size


def _sha256(message: bytes) -> str:
    return hashlib.sha256(message).hexdigest()
