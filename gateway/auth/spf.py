# SPDX-License-Identifier: GPL-2.0-or-later
"""SPF (RFC 7208), on pyspf.

Reads hostile text: the client's HELO name and envelope sender, and policy records of strangers.
Asks the DNS through the message's `Lookup`.

pyspf parses and evaluates the records. Guarded here, because of pyspf 2.0.14:
- its DNS access, which appends search domains and keeps no cache: `_Query.dns` asks our resolver;
- `exp=`, fetched even on "pass" and then never shown: `_Query.get_explanation` asks nothing;
- macro expansion, quadratic in the length of a term, which cuts an overlong name to the wrong
  length: `_Query.expand_domain` is linear, and keeps 253 octets (§7.3); what all macros of one
  check expand to is limited, and those of unknown modifiers are checked, never expanded;
- DNS errors under `ptr`, which are no match (§5.5): `_Query.validated_ptrs`;
- comparing addresses, 10 µs each, any number: `_Query.cidrmatch` compares octets, and a limited number;
- records of any size: the octets and the terms of all records of one check are limited;
- exceptions other than its own: each becomes "permerror".
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import spf

from gateway.mail.domains import to_ascii
from gateway.mail.headers import printable
from gateway.mail.networks import address, inside
from gateway.mail.types import AuthWord, Envelope, Session, Spf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.dns import Answer, Kind, Lookup

_MAX_RECORDS_OCTETS: Final = 12_000  # of all policy records of one check; the largest senders need 5,000
_MAX_TERMS: Final = 600  # of the same, the largest senders need 300
_MAX_ADDRESSES: Final = 2_000  # of all names of one check that the client is compared with
_MAX_SPEC: Final = 512  # octets of a domain-spec; a domain name has 253
_MAX_EXPANDED: Final = 16_384  # octets of all macros of one check; those of a term are rarely 300
_MAX_NAME: Final = 256  # octets of a local part or HELO name in a macro (RFC 5321 §4.5.3.1)
_RECORD: Final = re.compile(rb"v=spf1(?: |\Z)", re.IGNORECASE)
_MACRO: Final = re.compile(
    r"%(?:%|_|-|\{([slodipvh])(\d{0,3})(r?)([.\-+,/_=]*)\})",  # c, r and t occur in explanations only
    re.IGNORECASE | re.ASCII,
)
_FIXED: Final = {"%%": "%", "%_": " ", "%-": "%20"}
_TOP_LABEL: Final = re.compile(r"(?!\d+\Z)[0-9a-z](?:[0-9a-z-]*[0-9a-z])?\Z", re.IGNORECASE | re.ASCII)
_KINDS: Final[dict[str, Kind]] = {"A": "A", "AAAA": "AAAA", "MX": "MX", "TXT": "TXT"}
_RESULTS: Final[frozenset[str]] = frozenset(
    {"pass", "fail", "softfail", "neutral", "none", "temperror", "permerror"}
)


def check_spf(
    session: Session,
    envelope: Envelope,
    lookup: Lookup,
    *,
    hostname: str = "",
    trusted_forwarders: tuple[str, ...] = (),
) -> tuple[Spf, ...]:
    """Check MAIL FROM and HELO, in this order; the null sender stands for postmaster@HELO (§2.4).

    `hostname` is the receiver's name for macros. Never raises.
    """
    if address(session.client_ip) is None:
        return ()
    trusted = inside(session.client_ip, trusted_forwarders)
    # MAIL FROM goes first: HELO is of the client's making, and may use up time and questions.
    sender = envelope.mail_from
    mail_from = _check(session, "mailfrom", sender, lookup, hostname, trusted=trusted) if sender else None
    helo = _check(session, "helo", f"postmaster@{session.helo}", lookup, hostname, trusted=trusted)
    return mail_from or Spf("mailfrom", helo.domain, helo.result, helo.reason), helo


def _check(
    session: Session, identity: Any, sender: str, lookup: Lookup, hostname: str, *, trusted: bool
) -> Spf:
    local, _, domain = sender.rpartition("@")
    name = to_ascii(domain)
    if name is None or "." not in name or name.startswith("["):  # §4.3
        return Spf(identity, printable(domain, 255), "none", "not a domain name")
    first = lookup.txt(name)
    if first.status == "temperror":
        return Spf(identity, name, "temperror", first.reason)
    if not any(map(_RECORD.match, first.values)):
        return Spf(identity, name, "none", "no policy record")
    try:
        query = _Query(session, local or "postmaster", name, lookup, hostname)
        word, _, text = query.check()
        reason = query.mechanism or ("" if word == "pass" else text)
    except Exception as error:  # noqa: BLE001 - pyspf raises whatever a hostile record makes it raise
        word, reason = "permerror", f"{type(error).__name__}: {error}"
    result: AuthWord = word if word in _RESULTS else "permerror"
    if trusted and result in ("fail", "softfail"):
        return Spf(identity, name, "policy", f"trusted forwarder, otherwise {result}")
    return Spf(identity, name, result, printable(reason))


class _Query(spf.query):  # type: ignore[misc]  # pyspf has no types
    """One evaluation by pyspf over our resolver."""

    def __init__(self, session: Session, local: str, domain: str, lookup: Lookup, hostname: str) -> None:
        # A name that is expanded keeps its end (§7.3), and so does what it is made of.
        local, helo = local[-_MAX_NAME:], session.helo[-_MAX_NAME:]
        super().__init__(session.client_ip, f"{local}@{domain}", helo, receiver=hostname or None)
        self.l, self.o, self.d = local, domain, domain  # pyspf splits at the first "@"
        self.lookup = lookup
        self.octets = self.terms = self.expanded = self.compared = 0

    def dns(self, name: str, qtype: str, _cnames: object = None, ignore_void: bool = False) -> list[Any]:
        """The records of `name`, aliases followed; counts void lookups (§4.6.4)."""
        if to_ascii(name) is None:
            return []
        if qtype == "PTR":
            answer: Answer[Any] = self.lookup.ptr(str(self.ipaddr))
        else:
            answer = self.lookup.query(name, _KINDS[qtype])
        if answer.status == "temperror":
            raise spf.TempError(f"DNS: {answer.reason}")
        if not answer and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {spf.MAX_VOID_LOOKUPS} exceeded")
        return list(answer.values)

    def dns_txt(self, domainname: str, rr: str = "TXT", ignore_void: bool = False) -> list[bytes]:
        """The TXT records, strings joined (§3.3)."""
        return self.dns(domainname, rr, ignore_void=ignore_void)

    def dns_spf(self, domain: str) -> str | None:
        """The one policy record of `domain`, None if there is none (§4.5)."""
        records = [record for record in self.dns_txt(domain) if _RECORD.match(record)]
        if not records:
            return None
        if len(records) > 1:
            raise spf.PermError("Two or more policy records found", domain)
        self.octets += len(records[0])
        self.terms += len(records[0].split())
        if self.octets > _MAX_RECORDS_OCTETS or self.terms > _MAX_TERMS:
            raise spf.PermError("Policy records too long", domain)
        if not records[0].isascii():
            raise spf.PermError("Policy record is not ASCII", domain)
        return records[0].decode("ascii")

    def get_explanation(self, _spec: str) -> None:
        """Ask nothing: explanations are the senders' words, and we do not repeat them."""

    def cidrmatch(self, ipaddrs: list[str], n: int) -> bool:
        """Tell whether the client shares the first `n` bits with one of the addresses."""
        self.compared += len(ipaddrs)
        if self.compared > _MAX_ADDRESSES:
            raise spf.PermError("Too many addresses")
        family = socket.AF_INET6 if self.v == "ip6" else socket.AF_INET
        size = self.cidrmax // 8
        rest = (1 << (self.cidrmax - n)) - 1
        first, last = (
            number.to_bytes(size, "big") for number in (int(self.ipaddr) & ~rest, int(self.ipaddr) | rest)
        )
        return any(first <= socket.inet_pton(family, ip) <= last for ip in ipaddrs)

    def validated_ptrs(self) -> list[str]:
        """The confirmed names of the client; DNS errors are no match here (§5.5)."""
        with suppress(spf.TempError):
            names = self.dns_ptr(self.i)[: spf.MAX_PTR]
            return [name for name in names if self._confirmed(name)]
        return []

    def _confirmed(self, name: str) -> bool:
        with suppress(spf.TempError):
            return bool(self.cidrmatch(self.dns_a(name, self.A), self.cidrmax))
        return False

    def expand(self, s: str, stripdot: bool = True) -> str:  # noqa: ARG002 - pyspf's signature
        """Check the macros of an unknown modifier (§6), and expand none: nobody asks for the value."""
        for _ in _macros(s):
            pass
        return ""

    def expand_domain(self, arg: str) -> str:
        """Check and expand a domain-spec (§7.1 to §7.3) in time linear in its length and the result's."""
        if len(arg) > _MAX_SPEC:
            raise spf.PermError("Domain too long", arg[:64])
        pieces: list[str] = []
        end = 0
        for macro in _macros(arg):
            pieces += (arg[end : macro.start()], self._expand_one(macro))
            end = macro.end()
        rest = arg[end:]
        _, dot, label = rest.removesuffix(".").rpartition(".")
        if rest and not (dot and _TOP_LABEL.match(label)):
            raise spf.PermError("Invalid domain found (use FQDN)", arg)
        name = "".join((*pieces, rest)).removesuffix(".")
        if len(name) > 253:  # §7.3: labels are dropped from the left
            name = name[name.find(".", len(name) - 254) + 1 :]
        return name

    def _expand_one(self, macro: re.Match[str]) -> str:
        if not macro[1]:
            return _FIXED[macro[0]]
        letter = macro[1].lower()
        value = str(self.getp() if letter == "p" else getattr(self, letter))
        self.expanded += len(value)
        if self.expanded > _MAX_EXPANDED:
            raise spf.PermError("Macros expand to too much", macro[0])
        if macro[2] or macro[3] or macro[4]:
            delimiters = macro[4] or "."
            for delimiter in set(delimiters[1:]):
                value = value.replace(delimiter, delimiters[0])
            parts = value.split(delimiters[0])
            if macro[3]:
                parts.reverse()
            if macro[2]:
                parts = parts[-int(macro[2]) :]
            value = ".".join(parts)
        return quote(value, "~") if macro[1].isupper() else value


def _macros(text: str) -> Iterator[re.Match[str]]:
    """The macros of a text, from the left; PermError at a malformed one (§7.1)."""
    end = 0
    while (start := text.find("%", end)) >= 0:
        macro = _MACRO.match(text, start)
        if macro is None or (macro[2] and not int(macro[2])):
            raise spf.PermError("invalid macro", text[start : start + 16])
        yield macro
        end = macro.end()
