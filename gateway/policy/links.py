# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen in the links of a message.

Reads URLs of strangers, at most so many and each at most so long; nothing is opened or resolved.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.mail.headers import printable
from gateway.mail.types import Signal, Url

if TYPE_CHECKING:
    from collections.abc import Iterator

_URL_LIMIT = 500


def examine(urls: tuple[Url, ...]) -> Iterator[Signal]:
    """Give each kind of doubtful link once, with the first link that shows it."""
    seen: dict[str, Signal] = {}
    for url in urls[:_URL_LIMIT]:
        for signal in _link(url):
            seen.setdefault(signal.name, signal)
    yield from seen.values()


def _link(url: Url) -> Iterator[Signal]:
    host, userinfo = _host(url.target)
    if not host:
        return
    target = printable(url.target, 150)
    if userinfo and "." in userinfo:
        yield Signal("URL_USERINFO", target)
    if _is_address(host):
        yield Signal("URL_IP", target)
    if "xn--" in host:
        yield Signal("URL_PUNYCODE", target)
    shown = url.shown.strip()
    if shown[:4].lower() in ("http", "www."):
        shown_host, _ = _host(shown if "://" in shown else f"http://{shown}")
        if shown_host and "." in shown_host and _site(shown_host) != _site(host):
            yield Signal("URL_MISMATCH", printable(f"shows {shown_host}, leads to {host}", 200))


def _host(url: str) -> tuple[str, str]:
    """Return host and user name of an http or https URL, lower case, or empty strings."""
    try:
        parts = urlsplit(url[:2000])
        if parts.scheme not in ("http", "https"):
            return "", ""
        return (parts.hostname or "").rstrip("."), parts.username or ""
    except ValueError:
        return "", ""


def _is_address(host: str) -> bool:
    if not (host[:1].isdigit() or ":" in host):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.isdigit() or host.startswith("0x")
    return True


def _site(host: str) -> str:
    """Return the last two labels (three under a short second label such as co.uk)."""
    labels = host.lower().split(".")
    return ".".join(
        labels[-3:] if len(labels) > 2 and len(labels[-2]) <= 3 and len(labels[-1]) == 2 else labels[-2:]
    )
