# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the reports about a domain go: its rua= addresses, and whether each wants them.

Reads hostile text: policy records and the records of destinations. A report goes only to a plain
mail address, to few of them, and to a foreign domain only if that says so in the DNS; otherwise
anybody could have reports sent to a victim (RFC 7489 §7.1, §12.5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote

from gateway.auth.dmarc import MalformedRecordError, Method, organizational_domain, read_record
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.dns import Lookup

_URI: Final = re.compile(r"mailto:([^!]{1,400})(?:!([0-9]{1,18})([kmgt]?))?\Z", re.IGNORECASE)
_ADDRESS: Final = re.compile(
    r"(?=[^@]{1,64}@)[A-Za-z0-9#$&'*+/=?^_{}~-]+(?:\.[A-Za-z0-9#$&'*+/=?^_{}~-]+)*"
    r"@(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+\Z"
)
# RFC 7489 §7.1: the version tag comes first; its name is not case-sensitive, its value is.
_AGREES: Final = re.compile(rb"[ \t]*[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_SHIFT: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}  # RFC 7489 §6.2
_LONGEST_NAME: Final = 253

Status = Literal["good", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class Destination:
    """One address of rua=. "refused" gets no report, "unknown" perhaps later: the DNS failed."""

    address: str  # "" where the URI holds none
    status: Status
    limit: int | None = None  # octets of a message that it takes
    reason: str = ""


def is_address(text: str) -> bool:
    """Whether `text` is a plain mail address: dot-atom, domain name, ASCII, no routing characters."""
    return _ADDRESS.match(text) is not None


def read_uri(uri: str) -> tuple[str, int | None] | None:
    """The address and the size limit of a DMARC URI (RFC 7489 §6.2); None for all but plain mailto."""
    found = _URI.match(uri)
    if found is None:
        return None
    address = unquote(found[1], errors="replace")
    if not is_address(address):
        return None
    return address, int(found[2]) << _SHIFT[found[3].lower()] if found[2] else None


def destinations(
    uris: Sequence[str], domain: str, lookup: Lookup, method: Method, most: int
) -> tuple[Destination, ...]:
    """Where to send the report about the policy domain `domain`; `most` of `uris`, in their order.

    Asks the DNS about foreign destinations. Never raises.
    """
    found: dict[str, Destination] = {}
    for number, uri in enumerate(dict.fromkeys(uris)):
        if number == most:
            found[""] = Destination("", "refused", reason=f"only {most} addresses are looked at")
            break
        read = read_uri(uri)
        if read is None:
            found[uri] = Destination("", "refused", reason=f"not usable: {printable(uri, 100)}")
        else:
            one = _checked(*read, domain, lookup, method)
            found.setdefault(one.address.lower(), one)
    return tuple(found.values())


def _checked(address: str, limit: int | None, domain: str, lookup: Lookup, method: Method) -> Destination:
    """The destination if it may get the report, or what it names in its place."""
    host = address.rpartition("@")[2].lower()
    if host == domain:
        return Destination(address, "good", limit)
    ours, theirs = (organizational_domain(name, lookup, method) for name in (domain, host))
    if ours is None or theirs is None:
        return Destination(address, "unknown", limit, "no answer from the DNS")
    if ours == theirs:
        return Destination(address, "good", limit)
    name = f"{domain}._report._dmarc.{host}"
    if len(name) > _LONGEST_NAME:
        return Destination(address, "refused", limit, "the name to ask for is too long")
    answer = lookup.txt(name)
    if answer.status == "temperror":
        return Destination(address, "unknown", limit, "no answer from the DNS")
    agreeing = [value for value in answer.values if _AGREES.match(value)]
    if not agreeing:
        return Destination(address, "refused", limit, f"{host} does not ask for reports about {domain}")
    override = _override(agreeing)
    if override is None:
        return Destination(address, "good", limit)
    read = [one for one in map(read_uri, override) if one is not None]
    # RFC 7489 §7.1: a destination may name another address of its own, and none elsewhere.
    if not read or any(other.rpartition("@")[2].lower() != host for other, _ in read):
        return Destination(address, "refused", limit, f"{host} names an address that is not its own")
    return Destination(read[0][0], "good", read[0][1])


def _override(records: Sequence[bytes]) -> tuple[str, ...] | None:
    """The rua= of a destination's own record; None if it has none."""
    for value in records:
        text = value[:4_096].decode("utf-8", "replace")
        if not re.search(r";[ \t]*rua[ \t]*=", text, re.IGNORECASE):
            continue
        try:
            record = read_record(text, any_order=True)
        except MalformedRecordError:
            return ()
        return record.rua if record else ()
    return None
