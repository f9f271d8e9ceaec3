# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a link leads, read as a browser reads it.

Reads hostile text; linear, bounded, nothing is resolved. `urllib.parse` is not used: it follows
RFC 3986, while browsers follow the URL Standard (WHATWG), and what lies between the two hides
hosts: backslashes for slashes, any number of them, line breaks within, percent signs and
full-width letters in the host, and IPv4 addresses in octal, hexadecimal or as one number.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from typing import NamedTuple
from urllib.parse import unquote

MAX_URL = 2_000
_MAX_LABELS = 20
_MAX_LABEL = 63

_PLAIN = re.compile(r"(https?)://([a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z][a-z0-9-]*)(?![^/?#])")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{0,30}):")
_NOISE = re.compile(r"[\t\r\n]")
_EDGES = "".join(map(chr, range(33)))
_END = re.compile(r"[/\\?#]")
_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")
_INNER = re.compile(r"https?(?::|%(?:25){0,2}3a)(?:/|%(?:25){0,2}2f){2}[^&#\s\"'<>]{1,1000}", re.IGNORECASE)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{0,16}|[0-9]{1,20}")
_SPECIAL = frozenset(("http", "https", "ftp", "ws", "wss"))


class Place(NamedTuple):
    """A link taken apart. `host` is "" where the scheme knows no host.

    A host is lower case, in Unicode as written (see `unicode_host`), without final dot; an address
    has its usual form. `disguised` says that it was an address and written in another form.
    """

    scheme: str
    host: str
    userinfo: str = ""
    rest: str = ""  # path, query and fragment
    address: bool = False
    disguised: bool = False


def place(url: str) -> Place | None:
    """Take a link apart; None if it has neither scheme nor host. Never raises."""
    plain = _PLAIN.match(url, 0, MAX_URL)
    if plain:
        return Place(plain[1], plain[2], "", url[plain.end() : MAX_URL])
    url = _NOISE.sub("", url[:MAX_URL].strip(_EDGES))
    scheme = _SCHEME.match(url)
    if scheme and scheme[1].lower() not in _SPECIAL:
        # "www.example.com:80/x" is a host with a port, not a scheme
        if "." not in scheme[1] or not url[scheme.end() : scheme.end() + 1].isdigit():
            return Place(scheme[1].lower(), "", "", url[scheme.end() :])
        scheme = None
    if scheme is None and url[:4].lower() != "www." and url[:2] not in ("//", "\\\\", "/\\", "\\/"):
        return None
    after = (url[scheme.end() :] if scheme else url).lstrip("/\\")
    end = _END.search(after)
    authority, rest = (after[: end.start()], after[end.start() :]) if end else (after, "")
    userinfo, _, host = authority.rpartition("@")
    name = scheme[1].lower() if scheme else "http"
    return _with_host(name, host, userinfo, rest)


def _with_host(scheme: str, host: str, userinfo: str, rest: str) -> Place:
    if host.startswith("["):
        literal = host[1:].partition("]")[0].partition("%")[0]
        try:
            six = ipaddress.IPv6Address(literal)
        except ValueError:
            return Place(scheme, "", userinfo, rest)
        shown = str(six.ipv4_mapped or six)
        return Place(scheme, shown, userinfo, rest, address=True, disguised=six.ipv4_mapped is not None)
    host = host.partition(":")[0]
    plain = host
    if "%" in host:
        host = unquote(host, errors="replace")
    if not host.isascii():
        host = unicodedata.normalize("NFKC", host.translate(_DOTS))
    host = host.strip(_EDGES).rstrip(".").lower()[:255]
    four = ipv4(host)
    if four is not None:
        return Place(scheme, four, userinfo, rest, address=True, disguised=four != plain)
    return Place(scheme, host, userinfo, rest)


def ipv4(host: str) -> str | None:
    """The address that a browser makes of a host that ends in a number; None for any other host."""
    parts = host.split(".")
    if not 1 <= len(parts) <= 4 or not _NUMBER.fullmatch(parts[-1]):
        return None
    numbers = []
    for part in parts:
        if not _NUMBER.fullmatch(part):
            return None
        try:
            if part[:2].lower() == "0x":
                numbers.append(int(part[2:] or "0", 16))
            else:
                numbers.append(int(part, 8) if len(part) > 1 and part[0] == "0" else int(part))
        except ValueError:  # an 8 or a 9 in what should be octal
            return None
    *first, last = numbers
    if any(number > 255 for number in first) or last >= 256 ** (5 - len(numbers)):
        return None
    total = sum(number << (8 * (3 - index)) for index, number in enumerate(first)) + last
    return str(ipaddress.IPv4Address(total))


def inner(rest: str) -> str:
    """The first link that stands inside path or query of another one, decoded; "" if there is none."""
    if "http" not in rest.lower():
        return ""
    found = _INNER.search(rest)
    if found is None:
        return ""
    url = found[0]
    for _ in range(3):
        if "%" not in url[:12]:
            break
        url = unquote(url, errors="replace")
    return url


def unicode_host(host: str) -> str:
    """A host with its A-labels decoded (RFC 3492); a label that is none stays as it is."""
    if "xn--" not in host:
        return host
    return ".".join(_unicode_label(label) for label in host.split(".", _MAX_LABELS))


def _unicode_label(label: str) -> str:
    # The codec is quadratic in the length of a label, which the DNS bounds.
    if not label.startswith("xn--") or len(label) > _MAX_LABEL or not label.isascii():
        return label
    try:
        return label[4:].encode("ascii").decode("punycode").lower() or label
    except (UnicodeError, OverflowError, ValueError):
        return label
