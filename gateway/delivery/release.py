# SPDX-License-Identifier: GPL-2.0-or-later
"""A release: claim the held message, deliver its original bytes, settle what became of it.

Sends hostile bytes on, unchanged. Before anything is sent the recipients are leased to this release
alone; a crash between the next hop's 250 and the settling leaves them leased, and only after the
lease can they go out again: twice rather than never (RFC 1047). What comes back into Postfix carries
a token on top, so that it is not held again for what it was held for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.delivery.relay import RecipientResult, relay_sync
from gateway.mail.domains import domain_of
from gateway.mail.types import Envelope
from gateway.policy.annotate import RELEASE_FIELD
from gateway.store.database import StoreError
from gateway.store.held import Claim, State
from gateway.tls.outbound import OutboundTlsRule, TlsPolicy, policy_for

if TYPE_CHECKING:
    from gateway.delivery.routes import NextHop, Routes
    from gateway.store.quarantine import Quarantine

log = logging.getLogger(__name__)

INFECTED = "VIRUS"  # the signal whose mail only goes out when that is asked for by name

# Envelope, original bytes, token -> what became of each recipient of that envelope.
Deliver = Callable[[Envelope, bytes, str], Mapping[str, RecipientResult]]

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


def release_item(
    quarantine: Quarantine,
    deliver: Deliver,
    item: str,
    who: str,
    *,
    to: str = "",
    only: Sequence[str] | None = None,
    infected: bool = False,
) -> Released:
    """Release one item to its held recipients, or to the address `to` in place of them.

    `only` names some of the held recipients. Raises ReleaseError where nothing may be sent,
    StoreError where the store failed; after that the lease decides when it may be tried again.
    """
    if to and not _ADDRESS.fullmatch(to):
        raise ReleaseError("not an address that a message can go to")
    found = quarantine.find(item)
    if found is None:
        raise ReleaseError("no such message is held")
    if INFECTED in found.reasons and not infected:
        raise ReleaseError("an infected message is released only where that is asked for")
    claim = quarantine.claim(item, only, who, why=f"to {to}" if to else "")
    if claim is None:
        raise ReleaseError(_nothing_left(found.state))
    results = _attempt(quarantine, deliver, claim, to)
    delivered: dict[str, str] = {}
    failed: dict[str, str] = {}
    for recipient in claim.recipients:
        target = to or recipient
        result = results.get(target)
        if result is not None and result.status == "delivered":
            delivered[recipient] = target
        else:
            failed[recipient] = str(result) if result is not None else "no answer for this recipient"
    doubtful = quarantine.settle(claim, who=who, delivered=delivered, failed=failed)
    return Released(item, delivered, failed, tuple(r for r in doubtful if r in delivered))


def deliverer(
    routes: Routes, tls: Sequence[OutboundTlsRule], helo: str, reinject: NextHop | None = None
) -> Deliver:
    """Make the delivery of releases: into `reinject` with a token, or to the recipients' next hops."""

    def into_postfix(envelope: Envelope, raw: bytes, token: str) -> Mapping[str, RecipientResult]:
        assert reinject is not None
        policy = policy_for(reinject.host, "", tls)
        return _send(reinject, policy, envelope, with_token(raw, token), helo)

    def to_next_hops(envelope: Envelope, raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
        groups: dict[tuple[NextHop, TlsPolicy], list[str]] = {}
        results: dict[str, RecipientResult] = {}
        for recipient in envelope.recipients:
            hop = routes.route(recipient)
            if hop is None:
                results[recipient] = RecipientResult("refused", 550, "5.4.4", "no next hop is configured")
                continue
            groups.setdefault((hop, policy_for(hop.host, domain_of(recipient), tls)), []).append(recipient)
        for (hop, policy), recipients in groups.items():
            part = Envelope(envelope.mail_from, tuple(recipients), envelope.options)
            results.update(_send(hop, policy, part, raw, helo))
        return results

    return into_postfix if reinject is not None else to_next_hops


def with_token(raw: bytes, token: str) -> bytes:
    """The message with the token's field on top, and otherwise octet for octet as it was."""
    return f"{RELEASE_FIELD}: {token}\r\n".encode("ascii") + raw


def _send(
    hop: NextHop, policy: TlsPolicy, envelope: Envelope, message: bytes, helo: str
) -> Mapping[str, RecipientResult]:
    return relay_sync(
        hop, policy, envelope.mail_from, envelope.recipients, message, helo=helo, options=envelope.options
    )


def _attempt(
    quarantine: Quarantine, deliver: Deliver, claim: Claim, to: str
) -> Mapping[str, RecipientResult]:
    """Deliver what was claimed. An error before or while sending is the outcome of all recipients."""
    recipients = (to,) if to else claim.recipients
    try:
        original = quarantine.original(claim.item)
        token = quarantine.issue_token(claim.item, recipients)
        envelope = Envelope(original.envelope.mail_from, recipients, original.envelope.options)
        return deliver(envelope, original.raw, token)
    except StoreError as error:
        text = str(error)
    except Exception as error:
        log.exception("release of %s failed", claim.item)
        text = type(error).__name__
    return dict.fromkeys(recipients, RecipientResult("deferred", 451, "4.3.0", text))


def _nothing_left(state: State) -> str:
    return {
        State.RELEASING: "it is being released already",
        State.RELEASED: "it was released already",
        State.DELETED: "it was deleted",
        State.EXPIRED: "it has expired",
    }.get(state, "it is not held for that recipient")
