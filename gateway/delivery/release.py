# SPDX-License-Identifier: GPL-2.0-or-later
"""A release: scheduled, claimed, scanned once more, delivered as it was received, settled.

Sends hostile bytes on, unchanged or as an attachment. Before anything is sent the recipients are leased
to this release alone; a crash between the next hop's 250 and the settling leaves them leased, and only
after the lease can they go out again: twice rather than never (RFC 1047). A crash before that leaves an
order behind, which the housekeeper carries out. What comes back into Postfix carries a token on top, so
that it is not held again for what it was held for. Where the smart host has its queue, a release goes into
that, in the transaction that settles it: exactly once, and delivered by the queue's rules.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gateway.delivery.relay import RecipientResult, relay_sync
from gateway.delivery.routes import parse_route
from gateway.delivery.wrap import wrapper
from gateway.mail.domains import domain_of
from gateway.mail.mime import parse
from gateway.mail.types import Envelope, Scan, new_id
from gateway.policy.annotate import RELEASE_FIELD
from gateway.scanners.clamd import Clamd
from gateway.store.database import StoreError
from gateway.store.decisions import RefusedError
from gateway.store.queued import Addressee, Outgoing
from gateway.tls.wish import wish_of

if TYPE_CHECKING:
    from gateway.delivery.routes import Route, Routes
    from gateway.delivery.settings import ReleaseSettings
    from gateway.delivery.ways import Target, Ways
    from gateway.scanners.clamd import ClamdSettings
    from gateway.store.decisions import Order
    from gateway.store.held import Claim
    from gateway.store.quarantine import Quarantine
    from gateway.store.states import Actor

log = logging.getLogger(__name__)

INFECTED = "VIRUS"  # the reason that a message is given which the scanner convicts at its release

# Envelope, original bytes, token -> what became of each recipient of that envelope.
Deliver = Callable[[Envelope, bytes, str], Mapping[str, RecipientResult]]
# Envelope, bytes -> what becomes of each recipient, and what is to be queued for those "delivered".
Enqueue = Callable[[Envelope, bytes], tuple[Mapping[str, RecipientResult], Sequence[Outgoing]]]
# Item, original bytes, recipients -> the message that has it as an attachment.
Wrap = Callable[[str, bytes, Sequence[str]], bytes]

_NO_ROUTE = RecipientResult("refused", 550, "5.4.4", "no next hop is configured")
_ADDRESS = re.compile(r"[^\s<>@\x00-\x20\x7f]{1,64}@[^\s<>@\x00-\x20\x7f]{1,255}")


class ReleaseError(Exception):
    """The release was refused, and nothing was sent."""


@dataclass(frozen=True, slots=True)
class Released:
    """What became of a release. `delivered` maps a held recipient to the address it went to."""

    item: str
    delivered: Mapping[str, str]
    failed: Mapping[str, str]
    doubtful: tuple[str, ...] = ()  # delivered, but another release had taken over meanwhile


@dataclass(frozen=True, slots=True)
class Sender:
    """What a release goes out with: `enqueue` before `deliver`; without `scan` nobody scans again."""

    deliver: Deliver
    wrap: Wrap
    scan: Callable[[bytes], Scan] | None = None
    enqueue: Enqueue | None = None


def release_item(
    quarantine: Quarantine,
    sender: Sender,
    item: str,
    who: Actor,
    *,
    to: str = "",
    only: Sequence[str] | None = None,
    infected: bool = False,
    wrapped: bool = False,
    why: str = "",
) -> Released:
    """Release one item at once to its waiting recipients, or to the address `to` in place of them.

    `only` names some of the recipients; `infected` says that malware is meant as well. Raises
    ReleaseError where nothing may be sent, StoreError where the store failed; after that the order
    stands, and the housekeeper carries it out.
    """
    order = schedule(
        quarantine, item, who, due=time.time(), to=to, only=only, infected=infected, wrapped=wrapped, why=why
    )
    done = send(quarantine, sender, order)
    if done is None:
        raise ReleaseError("it is being released already")
    return done


def schedule(
    quarantine: Quarantine,
    item: str,
    who: Actor,
    *,
    due: float,
    batch: str = "",
    to: str = "",
    only: Sequence[str] | None = None,
    infected: bool = False,
    wrapped: bool = False,
    why: str = "",
    approve: bool = False,
) -> Order:
    """Decide a release that is sent at the time `due`, by whoever calls `send` first. As `release_item`."""
    if to and not _ADDRESS.fullmatch(to):
        raise ReleaseError("not an address that a message can go to")
    try:
        return quarantine.decisions.schedule(
            item,
            only,
            who,
            due=due,
            batch=batch,
            to=to,
            wrapped=wrapped,
            aloud=infected,
            why=why,
            approve=approve,
        )
    except RefusedError as error:
        raise ReleaseError(str(error)) from error


def send(quarantine: Quarantine, sender: Sender, order: Order) -> Released | None:
    """Send what was ordered; None if it is not due, undone, or somebody else sends it."""
    claim = quarantine.claim(order.item, order.recipients, order.who)
    if claim is None:
        return None
    results, outgoing = _attempt(quarantine, sender, claim, order)
    delivered: dict[str, str] = {}
    failed: dict[str, str] = {}
    replies: dict[str, str] = {}
    for recipient in claim.recipients:
        target = order.to or recipient
        result = results.get(target)
        if result is not None and result.status == "delivered":
            delivered[recipient] = target
            replies[recipient] = str(result)
        else:
            failed[recipient] = str(result) if result is not None else "no answer for this recipient"
    doubtful = quarantine.settle(
        claim, who=order.who, delivered=delivered, failed=failed, outgoing=outgoing, replies=replies
    )
    if outgoing and doubtful:
        return None  # nothing was queued: it is the other one's now
    return Released(order.item, delivered, failed, tuple(r for r in doubtful if r in delivered))


def outfit(
    settings: ReleaseSettings,
    table: Routes,
    ways: Ways,
    hostname: str,
    antivirus: ClamdSettings,
    lifetime: float = 0.0,
) -> Sender:
    """What the configuration wants releases to go out with.

    With a `lifetime`, in seconds, there is a queue, and what does not go back into Postfix goes into it.
    """
    hop = parse_route(settings.next_hop) if settings.next_hop else None
    scan = scanner(Clamd(antivirus), antivirus.timeout) if settings.scan_again and antivirus.enabled else None
    enqueue = partial(into_queue, table, lifetime) if lifetime and hop is None else None
    return Sender(deliverer(table, ways, hostname, hop), wrapper(hostname), scan, enqueue)


def scanner(clamd: Clamd, seconds: float) -> Callable[[bytes], Scan]:
    """Make the question to the virus scanner: the message, and what else it may be read as."""

    def scan(raw: bytes) -> Scan:
        return clamd.scan((raw, *parse(raw).readings), time.monotonic() + seconds)

    return scan


def deliverer(routes: Routes, ways: Ways, helo: str, reinject: Route | None = None) -> Deliver:
    """Make the delivery of releases: into `reinject` with a token, or to the recipients' next hops."""

    def into_postfix(envelope: Envelope, raw: bytes, token: str) -> Mapping[str, RecipientResult]:
        assert reinject is not None
        return _send(ways.target(reinject, ""), ways, envelope, with_token(raw, token), helo)

    def to_next_hops(envelope: Envelope, raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
        groups: dict[Target, list[str]] = {}
        results: dict[str, RecipientResult] = {}
        for recipient in envelope.recipients:
            route = routes.route(recipient)
            if route is None:
                results[recipient] = _NO_ROUTE
                continue
            target = ways.target(route, domain_of(recipient), wish_of(envelope.options))
            groups.setdefault(target, []).append(recipient)
        for target, recipients in groups.items():
            part = Envelope(envelope.mail_from, tuple(recipients), envelope.options)
            results.update(_send(target, ways, part, raw, helo))
        return results

    return into_postfix if reinject is not None else to_next_hops


def into_queue(
    table: Routes, lifetime: float, envelope: Envelope, raw: bytes
) -> tuple[Mapping[str, RecipientResult], Sequence[Outgoing]]:
    """Make what is queued for a release. Nobody is told if it fails later: it stays, as "undeliverable"."""
    now = time.time()
    item = new_id(now)
    results: dict[str, RecipientResult] = {}
    people = []
    for recipient in envelope.recipients:
        hop = table.route(recipient)
        if hop is None:
            results[recipient] = _NO_ROUTE
        else:
            results[recipient] = RecipientResult("delivered", 250, "2.0.0", f"queued as {item}")
            people.append(Addressee(recipient, str(hop)))
    message = Outgoing(
        id=item,
        sender=envelope.mail_from,
        recipients=tuple(people),
        message=raw,
        created=now,
        expires=now + lifetime,
        options=envelope.options,
        may_bounce=False,
    )
    return results, (message,) if people else ()


def with_token(raw: bytes, token: str) -> bytes:
    """The message with the token's field on top, and otherwise octet for octet as it was."""
    return f"{RELEASE_FIELD}: {token}\r\n".encode("ascii") + raw


def _send(
    target: Target, ways: Ways, envelope: Envelope, message: bytes, helo: str
) -> Mapping[str, RecipientResult]:
    return relay_sync(
        target, ways, envelope.mail_from, envelope.recipients, message, helo=helo, options=envelope.options
    )


def _attempt(
    quarantine: Quarantine, sender: Sender, claim: Claim, order: Order
) -> tuple[Mapping[str, RecipientResult], Sequence[Outgoing]]:
    """Deliver what was claimed, or say what is to be queued. An error is the outcome of all recipients."""
    recipients = (order.to,) if order.to else claim.recipients
    try:
        original = quarantine.original(claim.item)
        if sender.scan is not None and (why := _infected(quarantine, sender.scan, original.raw, order)):
            return dict.fromkeys(recipients, RecipientResult("refused", 554, "5.7.1", why)), ()
        envelope, message = Envelope(original.envelope.mail_from, recipients, original.envelope.options), None
        if order.wrapped:
            envelope, message = Envelope("", recipients), sender.wrap(claim.item, original.raw, recipients)
        if sender.enqueue is not None:
            return sender.enqueue(envelope, message or original.raw)
        token = quarantine.issue_token(claim.item, recipients, message)
        return sender.deliver(envelope, message or original.raw, token), ()
    except StoreError as error:
        text = str(error)
    except Exception as error:
        log.exception("release of %s failed", claim.item)
        text = type(error).__name__
    return dict.fromkeys(recipients, RecipientResult("deferred", 451, "4.3.0", text)), ()


def _infected(quarantine: Quarantine, scan: Callable[[bytes], Scan], raw: bytes, order: Order) -> str:
    """Why the scanner forbids a release now, or "". What it convicts is held for that from now on."""
    if order.aloud:
        return ""
    found = scan(raw)
    if found.status == "infected":
        quarantine.decisions.convict(order.item, INFECTED, order.who, f"at its release: {found.name}")
        return f"the virus scanner finds {found.name}"
    if found.status == "error":
        return f"the virus scanner could not be asked: {found.detail}"
    return ""
