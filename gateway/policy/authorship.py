# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen in who claims to have written a message.

Reads header fields of strangers; no network. Whether a domain may be used is for SPF, DKIM and
DMARC to say; here it is about what a reader takes for the author: display names, look-alikes of
our domains, and where an answer would go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec

from gateway.auth import suffixes
from gateway.mail.addresses import mailboxes
from gateway.mail.confusables import skeleton
from gateway.mail.domains import domain_of, matches
from gateway.mail.headers import printable
from gateway.mail.types import Content, Direction, Evidence, Mail, Signal
from gateway.policy.forwarders import vouched
from gateway.policy.lookalikes import Lookalikes
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.policy.forwarders import Forwarders

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_LIST = re.compile(r"<([^<>\s]{1,255})>\s*\Z")
_TITLES = frozenset(("dr", "mr", "mrs", "ms", "prof", "ing", "phd", "mba", "sir", "herr", "frau"))
_AUTHORS = 10  # From mailboxes that are looked at


class ProtectedName(Settings, frozen=True):
    """A person, or a role, whose name is believed from some addresses only."""

    # The name in its usual forms: ["Alice Archer", "Archer Alice Marie"]. Case and order do not matter.
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    # Addresses and domains that may use it, besides `domains`: ["alice@example.net", ".example.org"]
    addresses: tuple[str, ...] = ()


class ImpersonationSettings(Settings, frozen=True):
    """Who must not be impersonated; our own domains are those of the setting `domains`."""

    # Names that outsiders must not use (FROM_PROTECTED_NAME).
    protected: tuple[ProtectedName, ...] = ()
    # Domains that look like ours and are somebody's we know: never a look-alike.
    known_domains: tuple[str, ...] = ()
    # Further domains where anybody gets an address, besides those of `rules/domains.toml`.
    freemail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Person:
    words: frozenset[str]
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Authors:
    """Who is whom: our domains, the protected names, and where addresses are free."""

    own: Lookalikes
    people: tuple[_Person, ...] = ()
    freemail: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()  # our domains, as a display name may show them


def authors(
    domains: tuple[str, ...],
    settings: ImpersonationSettings,
    freemail: frozenset[str] = frozenset(),
    affixes: frozenset[str] = frozenset(),
) -> Authors:
    """Make the tables of a policy. Raises ValueError for a name without letters."""
    people = []
    for entry in settings.protected:
        for name in entry.names:
            words = _words(name)
            if not words:
                raise ValueError(f"[[policy.impersonation.protected]] {name!r}: not a name")
            people.append(_Person(words, tuple(a.lower() for a in entry.addresses)))
    return Authors(
        own=Lookalikes(domains, settings.known_domains, affixes),
        people=tuple(people),
        freemail=freemail | {name.lower() for name in settings.freemail},
        names=frozenset(name for d in domains if "." in (name := d.lstrip(".").lower())),
    )


def examine(
    mail: Mail, content: Content, evidence: Evidence, known: Authors, forwarders: Forwarders
) -> Iterator[Signal]:
    """Compare what the From and Reply-To fields show with what they say."""
    if content.from_fields > 1:
        yield Signal("FROM_SEVERAL", f"{content.from_fields} fields")
    if not any(address for _, address in content.from_addresses):
        yield Signal("FROM_MISSING")
    for display, address in content.from_addresses[:_AUTHORS]:
        shown = _address_in(display)
        if shown and shown.lower() != address.lower() and not _one_house(shown, address, known):
            yield Signal("FROM_NAME_ADDRESS", printable(f"shows {shown}, sent as {address}", 300))
            break
    if mail.session.direction is Direction.INBOUND and evidence.release is None:
        yield from _impersonation(mail, content, evidence, known, forwarders)


def _address_in(display: str) -> str:
    """Return the address that a display name shows, or ""."""
    if "@" not in display:
        return ""
    word = next((w for w in display.replace("<", " ").replace(">", " ").split() if "@" in w), "")
    word = word.strip("\"'()[],;:")
    local, _, domain = word.rpartition("@")
    return word if local and "." in domain else ""


def _one_house(one: str, other: str, known: Authors) -> bool:
    """Whether two addresses belong to one organization, and not to its many customers."""
    site = _site(domain_of(one))
    return bool(site) and site == _site(domain_of(other)) and site not in known.freemail


# ---------------------------------------------------------------- impersonation


def _impersonation(
    mail: Mail, content: Content, evidence: Evidence, known: Authors, forwarders: Forwarders
) -> Iterator[Signal]:
    written = [(display, address) for display, address in content.from_addresses[:_AUTHORS] if address]
    claims = next((claim for one in written if (claim := _claimed(*one, known))), "")
    if claims:
        yield Signal("FROM_PROTECTED_NAME", printable(claims, 300))
    replies = mailboxes(content.all("Reply-To")[:2])[:_AUTHORS]
    for where, address in (
        *(("From", address) for _, address in written),
        *(("Reply-To", address) for _, address in replies),
        ("MAIL FROM", mail.envelope.mail_from),
    ):
        if alike := known.own.find(domain_of(address)):
            yield Signal("FROM_LOOKALIKE", printable(f"{where}: {alike}", 300))
            break
    domains = [domain_of(address) for _, address in written]
    own = next((domain for domain in domains if known.own.ours(domain)), "")
    forged = _unproved(own, mail, evidence, forwarders) if own else None
    if forged:
        yield forged
    if replies:
        doubtful = bool(claims) or (forged is not None and forged.state == "hit")
        yield from _replies(domains, replies, known, claims=doubtful, listed=_list(content))


def _claimed(display: str, address: str, known: Authors) -> str:
    """Whom of ours a display name claims to be though the address is somebody else's, in words."""
    domain = domain_of(address)
    if not display or known.own.ours(domain):
        return ""
    words = _words(display)
    for person in known.people:
        # A single name must be all there is; of several, the others may be a title or a role.
        if words == person.words or (len(person.words) > 1 and words >= person.words):
            if address.lower() in person.addresses or matches(domain, person.addresses):
                continue
            return f"{display} as {address}"
    if "." in display:
        pieces = re.split(r"[\s<>()\[\]\"',;:@/|]+", display.lower())[:40]
        found = next((piece for piece in pieces if piece.removeprefix("www.") in known.names), "")
        if found:
            return f"shows {found}, sent as {address}"
    return ""


def _words(name: str) -> frozenset[str]:
    """The words of a name as they look, without titles, in no order."""
    return frozenset(_WORD.findall(skeleton(name[:200]))) - _TITLES


def _unproved(domain: str, mail: Mail, evidence: Evidence, forwarders: Forwarders) -> Signal | None:
    """Mail from outside under a domain of ours must be authenticated for it."""
    if not evidence.spf and not evidence.dkim and evidence.dmarc is None:
        return None  # nothing was asked
    dmarc = evidence.dmarc
    if dmarc is not None and (dmarc.result == "pass" or vouched(mail, evidence, dmarc, forwarders)):
        return None
    site = suffixes.organizational(domain)
    proved = [d.domain for d in evidence.dkim if d.result == "pass" and d.covers_all]
    proved += [s.domain for s in evidence.spf if s.result == "pass" and s.identity == "mailfrom"]
    if any(suffixes.organizational(other) == site for other in proved):
        return None
    answers = (*(d.result for d in evidence.dkim), *(s.result for s in evidence.spf))
    if "temperror" in (*answers, dmarc.result if dmarc is not None else ""):
        return Signal("FROM_OWN_DOMAIN", f"{printable(domain, 200)}: DNS failed", state="error")
    return Signal("FROM_OWN_DOMAIN", f"{printable(domain, 200)}, from outside and not authenticated")


def _replies(
    domains: list[str], replies: tuple[tuple[str, str], ...], known: Authors, *, claims: bool, listed: str
) -> Iterator[Signal]:
    """Answers that go to somebody else than who seems to have written.

    A mailing list that writes in its own name lets answers go to the author, wherever that is.
    """
    sites = {_site(domain) for domain in domains}
    for _, address in replies:
        domain = domain_of(address)
        if not domain or _site(domain) in sites or known.own.ours(domain):
            continue
        text = printable(f"From {', '.join(domains[:3])}, answers to {address}", 300)
        if claims:
            yield Signal("REPLY_TO_ELSEWHERE", text)
            return
        if domain in known.freemail and known.freemail.isdisjoint(domains) and listed not in sites:
            yield Signal("REPLY_TO_FREEMAIL", text)
            return


def _list(content: Content) -> str:
    """The site of the mailing list that a message says it comes from (RFC 2919), "" for none."""
    fields = content.all("List-Id")
    found = _LIST.search(fields[0].value[:1_000].decode("latin-1")) if fields else None
    return _site(found[1].lower()) if found else ""


def _site(domain: str) -> str:
    return suffixes.organizational(domain) or domain
