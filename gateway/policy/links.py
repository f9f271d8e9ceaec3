# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen in the links of a message.

Reads URLs of strangers, at most so many and each at most so long; nothing is opened or resolved.
A link that holds another one, as redirects do, is looked at together with that.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from gateway.auth import suffixes
from gateway.mail.confusables import deceptive
from gateway.mail.headers import printable
from gateway.mail.types import Signal, Url
from gateway.mail.urls import Place, inner, place, unicode_host
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.policy.lookalikes import Lookalikes

_LIMIT = 500
_SHOWN_HOST = re.compile(
    r"(?:https?://)?((?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_](?:[\w-]{0,61}[^\W_]))(?=[/:?#]|\Z)",
    re.IGNORECASE,
)
_RUNS = frozenset(("javascript", "vbscript", "jscript", "livescript"))
_DATA = re.compile(r"\s*(?:text/html|application/xhtml|image/svg|text/xml|application/xml)", re.IGNORECASE)
_PROOFPOINT = str.maketrans("-_", "%/")


class LinkSettings(Settings, frozen=True):
    """Domains besides those of `rules/domains.toml`."""

    # Further services that shorten links.
    shorteners: tuple[str, ...] = ()
    # Services that count clicks for those who write to you: what a link shows may differ from them.
    trackers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkRules:
    """The domains that mean something in a link."""

    shorteners: frozenset[str] = frozenset()
    redirectors: tuple[str, ...] = ()  # host and start of the path
    wrappers: frozenset[str] = frozenset()
    trackers: frozenset[str] = frozenset()


def examine(urls: tuple[Url, ...], rules: LinkRules, own: Lookalikes) -> Iterator[Signal]:
    """Give each kind of doubtful link once, with the first link that shows it."""
    seen: dict[str, Signal] = {}
    for url in urls[:_LIMIT]:
        for signal in _link(url, rules, own):
            seen.setdefault(signal.name, signal)
    yield from seen.values()


def _link(url: Url, rules: LinkRules, own: Lookalikes) -> Iterator[Signal]:
    goal = place(url.target)
    if goal is None:
        return
    shown = printable(url.target, 150)
    if goal.scheme in _RUNS and len(goal.rest.strip(" ;()0")) > 24:
        yield Signal("URL_SCRIPT", shown)
    if goal.scheme == "data" and _DATA.match(goal.rest):
        yield Signal("URL_DATA", shown[:80])
    if not goal.host:
        return
    if "." in goal.userinfo or goal.rest.startswith("\\@"):
        yield Signal("URL_USERINFO", shown)
    yield from _host(goal, shown, rules, own)
    further = _inner(goal)
    if further is not None:
        yield from _host(further, shown, rules, own)
        if _redirects(goal, rules) and _site(further.host) != _site(goal.host):
            yield Signal("URL_REDIRECT", printable(f"{goal.host} leads to {further.host}", 200))
    yield from _mismatch(url.shown, goal, further, rules)


def _host(goal: Place, shown: str, rules: LinkRules, own: Lookalikes) -> Iterator[Signal]:
    if goal.address:
        if goal.disguised:
            yield Signal("URL_IP_DISGUISED", printable(f"{goal.host} in {shown}", 200))
        elif ipaddress.ip_address(goal.host).is_global or goal.host.startswith(("192.0.2.", "198.51.100.")):
            yield Signal("URL_IP", shown)
        return
    if goal.host in rules.shorteners or goal.host.removeprefix("www.") in rules.shorteners:
        yield Signal("URL_SHORTENER", shown)
    if "xn--" in goal.host or not goal.host.isascii():
        name = unicode_host(goal.host)
        yield Signal("URL_PUNYCODE", printable(f"{name} in {shown}", 250))
        labels = name.split(".")
        if any(deceptive(label) for label in labels[:-1]) and labels[-1].isascii():
            yield Signal("URL_CONFUSABLE", printable(f"{name} in {shown}", 250))
    if alike := own.find(goal.host):
        yield Signal("URL_LOOKALIKE", printable(alike, 200))


def _inner(goal: Place) -> Place | None:
    """The link inside a link, or behind the service of a mail filter."""
    if "urldefense" in goal.host and "u=http" in goal.rest:
        # "-" for "%" and "_" for "/", as that service writes links
        written = goal.rest.partition("u=")[2].partition("&")[0]
        return place(unquote(written.translate(_PROOFPOINT), errors="replace"))
    found = inner(goal.rest)
    return place(found.removesuffix("__")) if found else None


def _redirects(goal: Place, rules: LinkRules) -> bool:
    return bool(goal.rest) and (goal.host + goal.rest).startswith(rules.redirectors)


def _mismatch(words: str, goal: Place, further: Place | None, rules: LinkRules) -> Iterator[Signal]:
    """Compare the host that a link's words show with the one that it leads to.

    Words that are a whole URL promise more than a bare name, which may be that of a company.
    """
    words = words.strip()
    found = _SHOWN_HOST.match(words) if "." in words and " " not in words else None
    if found is None:
        return
    shown = found[1].lower()
    bare = words[:4].lower() not in ("http", "www.")
    site = suffixes.known(shown) if bare else _site(shown)
    if _below(goal.host, rules.wrappers):
        if further is None:
            return
        goal = further
    if (
        not site
        or site == _site(goal.host)
        or _below(goal.host, rules.trackers)
        or _below(shown, rules.wrappers)
    ):
        return
    text = printable(f"shows {shown}, leads to {goal.host}", 200)
    yield Signal("URL_MISMATCH", text, value=0.6 if bare else 1.0)


def _site(host: str) -> str:
    return suffixes.organizational(host) or ""


def _below(host: str, domains: Iterable[str]) -> bool:
    """Whether `host` is one of `domains` or below one."""
    labels = host.split(".")[-8:]
    return any(".".join(labels[index:]) in domains for index in range(len(labels) - 1))
