# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in a digest: values, out of the quarantine, for one recipient or about one domain.

Holds hostile text: subjects and senders of held mail go to the very people that they were to deceive. They
are bounded and printable, and what a mail program would make a link of is taken apart. No word of a body, no
link of theirs, no attachment and no infected message is ever in it: one that any scan has convicted is only
counted, and only for administrators. What a link may do is settled by `gateway.store.grants`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from gateway.mail.headers import printable
from gateway.policy.brief import because
from gateway.policy.decide import SCORE, STRIPPED, UNANSWERED
from gateway.store.grants import Deed, Grant, Grants
from gateway.store.reach import Reach
from gateway.store.search import Search
from gateway.store.states import MALWARE, WAITING, Actor, Role, State, releases_alone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.digest.settings import DigestSettings
    from gateway.digest.words import Language
    from gateway.store.held import Item
    from gateway.store.quarantine import Quarantine

_SUBJECT: Final = 120
_SENDER: Final = 100
_TOLD: Final = 2_000  # new items of a domain that figures are made of
_REQUESTS: Final = 50
_GROUPS: Final = 10
_DAY: Final = 86_400.0
# What mail programs make links of: schemes, and names with dots.
_SCHEME = re.compile(r"(?<=\w):(?=//|[^\W\d_]{2})")
_DOT = re.compile(r"(?<=\w)\.(?=[^\W\d_]{2})")


@dataclass(frozen=True, slots=True)
class Line:
    """A held message in a digest. `links` and `addresses` are by deed; empty where the settings want none."""

    id: str
    held_at: float
    sender: str
    subject: str
    size: int
    why: str
    requested: bool
    at_once: bool  # its recipient needs no reviewer
    links: dict[Deed, str]
    addresses: dict[Deed, str]


@dataclass(frozen=True, slots=True)
class Digest:
    """What one recipient is told. `count` messages are new, of which `lines` are the newest."""

    address: str
    count: int
    lines: tuple[Line, ...]
    expires: float
    overview: str  # a link to all of theirs, "" for none


@dataclass(frozen=True, slots=True)
class Request:
    """A copy that its recipient has asked for."""

    id: str
    recipient: str
    sender: str
    subject: str


@dataclass(frozen=True, slots=True)
class Overview:
    """What an administrator is told about a domain."""

    domain: str
    waiting: int
    new: int
    malware: int
    requests: tuple[Request, ...]
    reasons: tuple[tuple[str, int], ...]
    senders: tuple[tuple[str, int], ...]
    link: str  # to the page of what waits in the domain, "" without one
    asked: str  # to that of what is requested there


def harmless(text: str, limit: int) -> str:
    """Hostile text that no program makes a link of: the dots and colons of names are in brackets."""
    plain = printable(text, limit)
    return _DOT.sub("[.]", _SCHEME.sub("[:]", plain))


def infected(item: Item, quarantine: Quarantine) -> bool:
    """Whether any scan found malware in an item, or could not say; it is held for it or not."""
    if MALWARE & {reason.removesuffix(UNANSWERED) for reason in item.reasons}:
        return True
    for one in quarantine.judgements(item.id):
        if one.evidence.antivirus.status == "infected" or any(s.name in MALWARE for s in one.signals):
            return True
    return False


def for_recipient(
    quarantine: Quarantine,
    address: str,
    items: Sequence[tuple[str, int]],
    language: Language,
    settings: DigestSettings,
    *,
    now: float,
    users: Iterable[str] = (),
    sealing: bool = True,
) -> Digest | None:
    """The digest about `items`, by id and position of the copy, newest first; None if nothing is to be told.

    `users` are the reasons that recipients answer themselves. Without `sealing` links have no token.
    """
    grants, who = Grants(quarantine.database), Actor(address, Role.USER, frozenset(users))
    expires = now + settings.valid_days * _DAY
    lines: list[Line] = []
    count = 0
    known = quarantine.known([item for item, _ in items[:1_000]])
    for name, position in items:
        item = known.get(name)
        if item is None or not item.content or infected(item, quarantine):
            continue
        count += 1
        if len(lines) >= settings.most:
            continue
        mine = item.recipients[position]
        links, addresses = {}, {}
        for deed in (Deed.RELEASE, Deed.SPAM):
            if deed is Deed.RELEASE and mine.state is State.REQUESTED:
                continue
            grant = Grant(deed, address, expires, name, position)
            token = grants.seal(grant) if sealing else "TOKEN"
            if settings.base_url:
                links[deed] = f"{settings.base_url.rstrip('/')}/act/{token}"
            if settings.reply_address:
                local, _, domain = settings.reply_address.rpartition("@")
                addresses[deed] = f"{local}+{token}@{domain}"
        lines.append(
            Line(
                name,
                item.held_at,
                harmless(item.sender, _SENDER) or "<>",
                harmless(item.subject, _SUBJECT),
                item.size,
                why(quarantine, item, language),
                mine.state is State.REQUESTED,
                releases_alone(item.reasons, item.answered, who),
                links,
                addresses,
            )
        )
    if not lines:
        return None
    token = grants.seal(Grant(Deed.LOGIN, address, expires)) if sealing else "TOKEN"
    overview = f"{settings.base_url.rstrip('/')}/act/{token}" if settings.base_url else ""
    return Digest(address, count, tuple(lines), expires, overview)


def why(quarantine: Quarantine, item: Item, language: Language) -> str:
    """Why an item is held, for people: what forces it, or else what gave it most points."""
    names = [reason for reason in item.reasons if reason not in (SCORE, STRIPPED)]
    if not names and (judged := quarantine.judgements(item.id)):
        by_points = sorted(judged[0].verdict.contributions, key=lambda c: -c.points)
        names = [c.name for c in by_points[:2] if c.points > 0]
    return because(language.reasons, names)


def about_domain(quarantine: Quarantine, domain: str, covered: str, settings: DigestSettings) -> Overview:
    """What an administrator is told about what is held for recipients of `domain`, newer than `covered`."""
    reach = Reach(domains=(domain,))
    waiting = Search(within=reach, state=WAITING)
    new = quarantine.search(Search(within=reach, state=WAITING, after=covered, limit=_TOLD))
    asked = quarantine.search(Search(within=reach, state=State.REQUESTED, limit=_REQUESTS))
    safe = [item for item in new if not MALWARE & set(item.reasons)]
    reasons: dict[str, int] = {}
    senders: dict[str, int] = {}
    for item in safe:
        for reason in item.reasons:
            reasons[reason] = reasons.get(reason, 0) + 1
        sender = harmless(item.sender, _SENDER) or "<>"
        senders[sender] = senders.get(sender, 0) + 1
    requests = [
        Request(item.id, copy.address, harmless(item.sender, _SENDER), harmless(item.subject, _SUBJECT))
        for item in asked
        if not MALWARE & set(item.reasons)
        for copy in item.recipients
        if copy.state is State.REQUESTED and reach.covers(copy.address)
    ]
    page = f"{settings.base_url.rstrip('/')}/held" if settings.base_url else ""
    return Overview(
        domain,
        quarantine.count(waiting, upto=100_000),
        len(new),
        len(new) - len(safe),
        tuple(requests),
        _largest(reasons),
        _largest(senders),
        f"{page}?{urlencode({'domain': domain})}" if page else "",
        f"{page}?{urlencode({'state': 'requested', 'domain': domain})}" if page else "",
    )


def _largest(counts: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_GROUPS])
