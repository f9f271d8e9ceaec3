# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists in the DNS (RFC 5782): what they say about a client, its domains, its links and its files.

Reads names made by strangers, and answers of list operators. Off until zones are named. All
questions of a message go out at once, bounded in number, and what comes back is a value: a listing
with the points that the configuration gives to its return code, or an error. A list that refuses to
answer (over its limit, or asked through a public resolver) says so by an address as well; that is
never taken for a listing, nor is the answer of a zone that somebody has parked.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import time
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from gateway.auth import suffixes
from gateway.mail.domains import domain_of, to_ascii
from gateway.mail.headers import printable
from gateway.mail.networks import address, reverse_name
from gateway.mail.types import Direction, Listing
from gateway.mail.urls import inner, place
from gateway.settings import Positive, Seconds, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gateway.dns import Answer, Question, Resolver
    from gateway.mail.types import Attachment, Content, Mail

Asked = Literal["client", "helo", "sender", "from", "dkim", "url", "hash"]
Points = Annotated[float, msgspec.Meta(ge=-100, le=100)]

_URLS = 200  # links that are looked at
_FILES = 10
_SIGNATURES = 5
_CODE = re.compile(r"127(?:\.\d{1,3}){3}(?:-\d{1,3})?|&\d{1,3}")
_SIGNER = re.compile(rb"(?:\A|;)\s*d\s*=\s*([A-Za-z0-9._-]{1,253})\s*(?:;|\Z)")
_REFUSED = ipaddress.ip_network("127.255.255.0/24")
_LISTED = ipaddress.ip_network("127.0.0.0/8")
_NEVER = ipaddress.ip_address("127.0.0.1")  # RFC 5782 §5: listed by no list; some refuse by it


class ZoneSettings(Settings, frozen=True):
    """One list."""

    # The zone that is asked: "bl.example.org".
    zone: Annotated[str, msgspec.Meta(min_length=3, max_length=150)]
    # What it is asked about: "client" address; domain of the "helo" name, of the envelope "sender", of the
    # "from" address, of a valid "dkim" signature; hosts of each "url"; "hash" of attachments.
    ask: Annotated[tuple[Asked, ...], msgspec.Meta(min_length=1)]
    # Points of a listing; below zero for a list of good senders.
    weight: Points = 1.0
    # Points by return code, if not all are worth the same: "127.0.0.2", "127.0.0.4-7" or, for lists that add
    # up bits in the last octet, "&8". A code that is not named is then no listing.
    codes: dict[str, Points] = msgspec.field(default_factory=dict)
    # Whether it lists domains as they were "registered" (example.com) or single hosts ("host").
    names: Literal["registered", "host"] = "registered"
    # How the list writes the hash of a file.
    hash: Literal["sha256-base32", "sha1", "md5"] = "sha256-base32"

    def __post_init__(self) -> None:
        if to_ascii(self.zone) is None or "." not in self.zone:
            raise ValueError(f"not a zone: {self.zone!r}")
        for code in self.codes:
            if not _CODE.fullmatch(code):
                raise ValueError(f'not a return code: {code!r}; use "127.0.0.2", "127.0.0.4-7" or "&8"')


class ListSettings(Settings, frozen=True):
    """Lists in the DNS, none until zones are named. Mind their terms; ask through a resolver of your own."""

    # The lists.
    zones: tuple[ZoneSettings, ...] = ()
    # Seconds for all answers about one message.
    timeout: Seconds = 3.0
    # Names of a message that each list is asked about.
    max_names: Positive = 30
    # Domains that no list is asked about, besides our own: those that everybody's mail links to.
    exempt: tuple[str, ...] = ()


class Lists:
    """The lists of one configuration. Safe for threads; opens no socket before it is asked."""

    def __init__(self, settings: ListSettings, resolver: Resolver, own: tuple[str, ...] = ()) -> None:
        self._settings = settings
        self._resolver = resolver
        names = (*settings.exempt, *own)
        self._exempt = frozenset(n for name in names if (n := to_ascii(name.lstrip("."))) is not None)

    def ask(
        self, mail: Mail, content: Content, deadline: float, *, relayed: bool = False
    ) -> tuple[Listing, ...]:
        """Ask all lists about one message, until `deadline` (monotonic seconds). Never raises.

        `relayed` says that the client is a relay of ours, about which no list is asked. What DKIM
        signatures name is asked about unverified: the caller drops what does not verify.
        """
        asked = _Names(mail, content, self._exempt, relayed=relayed)
        questions: dict[Question, tuple[ZoneSettings, Asked, str]] = {}
        for zone in self._settings.zones:
            count = 0
            for kind, shown, label in asked.of(zone):
                name = to_ascii(f"{label}.{zone.zone}")
                if name is None or (name, "A") in questions:
                    continue
                count += 1
                if count > self._settings.max_names:
                    break
                questions[name, "A"] = (zone, kind, shown)
        if not questions:
            return ()
        end = min(deadline, time.monotonic() + self._settings.timeout)
        answers = self._resolver.ask(list(questions), end)
        return tuple(_listings(questions, answers))


def _listings(
    questions: Mapping[Question, tuple[ZoneSettings, Asked, str]], answers: Mapping[Question, Answer[str]]
) -> Iterator[Listing]:
    """What the answers mean, in the order of the questions; of errors, the first of each zone."""
    failed: set[str] = set()
    for question, (zone, kind, shown) in questions.items():
        answer = answers[question]
        if answer.status == "ok":
            listing = _meaning(zone, kind, shown, answer.values)
        elif answer.status == "temperror":
            reason = printable(answer.reason, 100) or "did not answer"
            listing = Listing(zone.zone, kind, shown, status="error", reason=reason)
        else:
            continue
        if listing is None or (listing.status == "error" and zone.zone in failed):
            continue
        if listing.status == "error":
            failed.add(zone.zone)
        yield listing


def _meaning(zone: ZoneSettings, kind: Asked, shown: str, codes: Iterable[str]) -> Listing | None:
    """The listing that return codes make; None if they say nothing of what was asked for."""
    listed = []
    for code in codes:
        found = ipaddress.ip_address(code)
        if found not in _LISTED or found in _REFUSED or found == _NEVER:
            return Listing(zone.zone, kind, shown, (code,), status="error", reason=f"refused by {code}")
        listed.append(code)
    points = [_points(zone, code) for code in listed]
    known = [(points, code) for points, code in zip(points, listed, strict=True) if points is not None]
    if not known:
        return None
    weight = max((points for points, _ in known), key=abs)
    return Listing(zone.zone, kind, shown, tuple(sorted(code for _, code in known))[:8], weight)


def _points(zone: ZoneSettings, code: str) -> float | None:
    """The points of one return code; None if the zone's settings do not name it."""
    if not zone.codes:
        return zone.weight
    if code in zone.codes:
        return zone.codes[code]
    front, _, last = code.rpartition(".")
    number, bits = int(last), []
    for written, points in zone.codes.items():
        if written[0] == "&":
            if number & int(written[1:]):
                bits.append(points)
        elif "-" in written:
            start, _, end = written.partition("-")
            if start.rpartition(".")[0] == front and int(start.rpartition(".")[2]) <= number <= int(end):
                return points
    return sum(bits) if bits else None


# ---------------------------------------------------------------- what is asked about


class _Names:
    """What one message gives to ask about, worked out once for all lists."""

    def __init__(self, mail: Mail, content: Content, exempt: frozenset[str], *, relayed: bool) -> None:
        self._content = content
        self._exempt = exempt
        self._hosts: list[tuple[str, bool]] | None = None
        inbound = mail.session.direction is Direction.INBOUND
        client = address(mail.session.client_ip) if inbound and not relayed else None
        self._client = str(client) if client is not None and _public(client) else ""
        self._domains: dict[str, list[str]] = {}
        if inbound:
            self._domains["helo"] = [] if relayed else [mail.session.helo]
            self._domains["sender"] = [domain_of(mail.envelope.mail_from)]
            self._domains["from"] = [domain_of(a) for _, a in content.from_addresses[:_SIGNATURES]]
            self._domains["dkim"] = _signers(content)

    def of(self, zone: ZoneSettings) -> Iterator[tuple[Asked, str, str]]:
        """Yield (what was asked for, what is shown of it, its label) for one list."""
        for kind in zone.ask:
            if kind == "client":
                if self._client:
                    yield kind, self._client, _reversed(self._client)
            elif kind == "hash":
                for attachment in self._content.attachments[:_FILES]:
                    if attachment.data:
                        digest = _digest(attachment, zone.hash)
                        yield kind, digest, digest
            elif kind == "url":
                for host, is_address in self._urls():
                    if is_address:
                        yield kind, host, _reversed(host)
                    elif name := self._name(host, zone):
                        yield kind, name, name
            else:
                for domain in self._domains.get(kind, ()):
                    if name := self._name(domain, zone):
                        yield kind, name, name

    def _name(self, host: str, zone: ZoneSettings) -> str:
        """What a list is asked about a host, "" if nothing."""
        name = to_ascii(host)
        if name is None or "." not in name or name.startswith("["):
            return ""
        site = suffixes.organizational(name)
        if site is None or site in self._exempt or name in self._exempt:
            return ""
        return site if zone.names == "registered" else name

    def _urls(self) -> list[tuple[str, bool]]:
        """The hosts that links lead to, those in redirects among them, each once."""
        if self._hosts is None:
            found: dict[tuple[str, bool], None] = {}
            for url in self._content.urls[:_URLS]:
                goal = place(url.target)
                further = place(inner(goal.rest)) if goal else None
                for one in (goal, further):
                    if one is None or not one.host:
                        continue
                    if not one.address or _public(ipaddress.ip_address(one.host)):
                        found.setdefault((one.host, one.address))
            self._hosts = list(found)
        return self._hosts


def _public(found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether lists can know an address: not one of a private network. RFC 5737 examples count."""
    return not (
        found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
    ) and not any(found in network for network in _PRIVATE if network.version == found.version)


_PRIVATE = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)


def _reversed(ip: str) -> str:
    return reverse_name(ip).removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")


def _signers(content: Content) -> list[str]:
    found = []
    for field in content.all("DKIM-Signature")[:_SIGNATURES]:
        signer = _SIGNER.search(field.value[:10_000])
        if signer:
            found.append(signer[1].decode("ascii").lower())
    return found


def _digest(attachment: Attachment, how: str) -> str:
    """The hash of a file as a label; SHA-256 in hexadecimal would be too long for one."""
    if how == "sha256-base32":
        return base64.b32encode(bytes.fromhex(attachment.sha256)).decode("ascii").rstrip("=").lower()
    return hashlib.new(how, attachment.data, usedforsecurity=False).hexdigest()
