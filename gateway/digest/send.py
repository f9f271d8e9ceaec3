# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests sent: when they are due, to whom, and how they go out.

Takes addresses from envelopes: only what is plainly an address of one of our domains gets mail from us.
Where there is a queue, a digest is queued in the transaction that notes it, so exactly once; else it goes
to the next hop between a claim and its settling, and a crash between the two sends the same message, with
the same Message-ID, once more. Digests have the null sender, so that nothing ever answers them.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from gateway.auth.outgoing import signed_by_us
from gateway.digest import compose, render
from gateway.digest.settings import DAYS
from gateway.digest.words import language_for
from gateway.mail.domains import domain_of, matches
from gateway.mail.types import Envelope, new_id
from gateway.store.digests import Digests
from gateway.store.queued import Addressee, Outgoing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.auth.outgoing import Signing
    from gateway.delivery.release import Deliver
    from gateway.delivery.routes import Routes
    from gateway.digest.settings import DigestSettings
    from gateway.digest.words import Language
    from gateway.store.quarantine import Quarantine

LATEST: Final = 3 * 3_600.0  # seconds after its time at which a digest is still sent
_BACK: Final = 7 * 86_400.0  # how old what somebody was never told of may be
_AGAIN: Final = 300.0  # seconds until one that could not be sent is tried again
_EACH: Final = 1_000  # messages of one recipient that are looked at
_ABOUT: Final = "domain:"  # before a domain and an address, in the table of what was told
# Plain, since it stands in a To field of ours (RFC 5322 §3.4.1).
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")


@dataclass(frozen=True, slots=True)
class Sending:
    """What became of one digest. `count` messages stand in it, or are new in a domain."""

    address: str
    about: str  # the domain of an administrator's, "" for a recipient's
    count: int
    status: Literal["sent", "queued", "deferred", "due", "nothing"]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A digest that is ready to go, and what is noted once it went: under `key`, up to the item `covered`."""

    address: str
    about: str
    count: int
    raw: bytes
    key: str
    slot: float
    covered: str


@dataclass(frozen=True, slots=True)
class Post:
    """What digests are made and sent with. With a `lifetime`, in seconds, they go into the queue."""

    settings: DigestSettings
    languages: Mapping[str, Language]
    users: frozenset[str]  # reasons that recipients answer themselves
    signing: Signing
    routes: Routes
    deliver: Deliver
    lifetime: float = 0.0

    def language(self, address: str) -> Language:
        """The words for a recipient."""
        return self.languages[language_for(address, self.settings)]


def last_slot(settings: DigestSettings, now: float) -> float:
    """When digests were due last, in seconds since 1970, by the clock of this machine."""
    today = datetime.fromtimestamp(now).astimezone()
    found = 0.0
    for back in range(8):
        day = today.date() - timedelta(days=back)
        if DAYS[day.weekday()] not in settings.days:
            continue
        for clock in settings.at:
            hour, _, minute = clock.partition(":")
            moment = (
                datetime(day.year, day.month, day.day, int(hour), int(minute)).astimezone().timestamp()
            )  # local time is meant
            if moment <= now:
                found = max(found, moment)
        if found:
            break
    return found


def wants(address: str, settings: DigestSettings) -> bool:
    """Whether a recipient is to get digests."""
    if not _ADDRESS.fullmatch(address) or address.lower() in {one.lower() for one in settings.without}:
        return False
    return matches(domain_of(address), settings.domains)


def due(
    quarantine: Quarantine, settings: DigestSettings, slot: float, only: Sequence[str] = ()
) -> dict[str, list[tuple[str, int]]]:
    """Who is to be told what, for this time of the schedule: items, newest first, and the copy's position."""
    digests = Digests(quarantine.database)
    told = digests.all()
    wanted = {one.lower() for one in only}
    found: dict[str, list[tuple[str, int]]] = {}
    for item, recipient, position in digests.waiting(new_id(slot - _BACK)[:9] + "0" * 7):
        address = recipient.lower()
        before = told.get(address)
        if (wanted and address not in wanted) or not wants(recipient, settings):
            continue
        if before is not None and (before.slot >= slot or item <= before.covered):
            continue
        mine = found.setdefault(address, [])
        mine.append((item, position))
        if len(mine) > 2 * _EACH:
            del mine[:-_EACH]
    return {address: items[::-1][:_EACH] for address, items in sorted(found.items())}


def send_all(
    quarantine: Quarantine, post: Post, slot: float, *, only: Sequence[str] = (), dry: bool = False
) -> Iterator[Sending]:
    """Send all digests of this time of the schedule that were not sent. Raises StoreError.

    `dry` sends nothing, and says who would be told of how many.
    """
    for address, items in due(quarantine, post.settings, slot, only).items():
        if dry:
            language = post.language(address)
            made = compose.for_recipient(
                quarantine, address, items, language, post.settings, now=time.time(), sealing=False
            )
            if made is not None:
                yield Sending(address, "", made.count, "due")
        elif (done := _to_recipient(quarantine, post, slot, address, items)) is not None:
            yield done
    for row in post.settings.administrators:
        if only and row.address.lower() not in {one.lower() for one in only}:
            continue
        done = _to_administrator(quarantine, post, slot, row.domain, row.address, dry=dry)
        if done is not None:
            yield done


def _to_recipient(
    quarantine: Quarantine, post: Post, slot: float, address: str, items: Sequence[tuple[str, int]]
) -> Sending | None:
    digests = Digests(quarantine.database)
    if digests.claim(address, slot) is None:
        return None
    now, language = time.time(), post.language(address)
    made = compose.for_recipient(
        quarantine, address, items, language, post.settings, now=now, users=post.users
    )
    if made is None:
        digests.settle(address, slot, items[0][0], sent=False)
        return Sending(address, "", 0, "nothing")
    texts = (
        render.subject(made, language.words),
        render.text_of(made, language),
        render.html_of(made, language),
    )
    raw = _mail(post, address, texts, language, slot, now)
    return _out(quarantine, post, _Ready(address, "", made.count, raw, address, slot, items[0][0]))


def _to_administrator(
    quarantine: Quarantine, post: Post, slot: float, domain: str, address: str, *, dry: bool
) -> Sending | None:
    digests, key = Digests(quarantine.database), f"{_ABOUT}{domain}:{address.lower()}"[:320]
    told = digests.all().get(key)
    if dry:
        covered = told.covered if told else ""
        made = compose.about_domain(quarantine, domain, covered, post.settings)
        return Sending(address, domain, made.new, "due") if told is None or told.slot < slot else None
    claimed = digests.claim(key, slot)
    if claimed is None:
        return None
    now, language = time.time(), post.language(address)
    covered = new_id(now)[:9] + "0" * 7
    made = compose.about_domain(quarantine, domain, claimed.covered, post.settings)
    if not made.waiting:
        digests.settle(key, slot, covered, sent=False)
        return Sending(address, domain, 0, "nothing")
    texts = (
        render.subject(made, language.words),
        render.overview_text(made, language),
        render.overview_html(made, language),
    )
    raw = _mail(post, address, texts, language, slot, now, about=domain)
    return _out(quarantine, post, _Ready(address, domain, made.new, raw, key, slot, covered))


def _mail(
    post: Post,
    address: str,
    texts: tuple[str, str, str],
    language: Language,
    slot: float,
    now: float,
    about: str = "",
) -> bytes:
    title, text, html = texts
    email, stamp = post.settings.email, f"{slot} {about}"
    name = language.words.from_name
    raw = render.message(address, title, text, html, sender=email, name=name, stamp=stamp, now=now)
    return signed_by_us(raw, email.rpartition("@")[2], post.signing)


def _out(quarantine: Quarantine, post: Post, ready: _Ready) -> Sending:
    """Bring one on its way, and note that."""
    digests, now = Digests(quarantine.database), time.time()
    made = partial(Sending, ready.address, ready.about, ready.count)
    if post.lifetime:
        hop = post.routes.route(ready.address)
        if hop is None:
            digests.give_back(ready.key, _AGAIN)
            return made("deferred", "no next hop is configured")
        outgoing = Outgoing(
            id=new_id(now),
            sender="",
            recipients=(Addressee(ready.address, str(hop)),),
            message=ready.raw,
            created=now,
            expires=now + post.lifetime,
            may_bounce=False,
        )
        digests.settle(ready.key, ready.slot, ready.covered, (outgoing,))
        return made("queued", outgoing.id)
    result = post.deliver(Envelope("", (ready.address,)), ready.raw, "").get(ready.address)
    if result is not None and result.status == "delivered":
        digests.settle(ready.key, ready.slot, ready.covered)
        return made("sent", str(result))
    digests.give_back(ready.key, _AGAIN)
    return made("deferred", str(result or "no answer for this recipient"))
