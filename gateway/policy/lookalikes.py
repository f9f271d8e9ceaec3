# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains that are made to pass for ours.

Reads hosts of strangers, at most 255 characters each. Ours are indexed once, so that a host costs
a few look-ups however many domains are ours.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from gateway.auth import suffixes
from gateway.mail.confusables import drawn, skeleton
from gateway.mail.domains import normal, readings
from gateway.mail.urls import unicode_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SHORTEST = 4  # letters of a label of ours from which something can pass for it
_SHORTEST_EDITED = 6  # likewise, with one letter changed: "bank" and "bark" are both words
_LONGEST = 60
_CACHE = 4096


class Lookalikes:
    """Ours: `domains` as the configuration names them.

    Never alike is what `known` names; `words` are what is put around a name to make it look official.
    """

    def __init__(
        self, domains: Iterable[str] = (), known: Iterable[str] = (), words: frozenset[str] = frozenset()
    ) -> None:
        self._words = words
        names = [normal(domain.lstrip(".")) for domain in domains]
        own = {suffixes.organizational(name) or name for name in names}
        self._own = frozenset(own)
        self._known = frozenset(normal(name.lstrip(".")) for name in known)
        self._whole = {unicode_host(name): name for name in own}
        labels = {unicode_host(name).partition(".")[0]: name for name in own}
        self._labels = {label: name for label, name in labels.items() if len(label) >= _SHORTEST}
        self._drawn = {drawn(unicode_host(n)): n for n in own if len(n.partition(".")[0]) >= _SHORTEST}
        self._drawn_labels = {drawn(label): name for label, name in self._labels.items()}
        self._shorter: dict[str, list[str]] = {}
        for name in own:
            if len(name.partition(".")[0]) >= _SHORTEST_EDITED:
                for piece in (unicode_host(name), *_without_one(unicode_host(name))):
                    self._shorter.setdefault(piece, []).append(name)
        self._answers: OrderedDict[str, str] = OrderedDict()

    def ours(self, domain: str) -> bool:
        """Whether `domain` is one of ours or below one."""
        return bool(self._own) and _below(normal(domain), self._own)

    def find(self, host: str) -> str:
        """What `host` passes for, in words; "" if for nothing of ours."""
        if not self._own or not host:
            return ""
        answer = self._answers.get(host)
        if answer is None:
            answer = self._find(host)
            self._answers[host] = answer
            if len(self._answers) > _CACHE:
                with contextlib.suppress(KeyError):  # another thread was faster
                    self._answers.popitem(last=False)
        return answer

    def _find(self, host: str) -> str:
        name = normal(host)
        if _below(name, self._own) or _below(name, self._known):
            return ""
        for other in readings(host):
            if _below(other, self._own):
                return f"{printable_host(host)} is {other} to some programs"
        # What is no name by IDNA2008 may look like one of ours all the same.
        site = suffixes.organizational(name) or ("" if name.isascii() else name)
        if not site:
            return ""
        shown = unicode_host(site)
        own = self._drawn.get(drawn(shown)) or self._drawn_labels.get(drawn(shown.partition(".")[0]), "")
        if own and skeleton(shown.partition(".")[0]) != unicode_host(own).partition(".")[0]:
            return f"{site} looks like {own}"
        if own and (not shown.isascii() or shown != site):  # "xn--example-" is shown as "example"
            return f"{site} looks like {own}"
        return self._edited(site, shown) or self._extended(site, shown) or self._below(name, site)

    def _edited(self, site: str, shown: str) -> str:
        """One letter more, less, another one, or two exchanged."""
        if len(shown) <= _LONGEST:
            for piece in (shown, *_without_one(shown)):
                for own in self._shorter.get(piece, ()):
                    if _one_edit(shown, unicode_host(own)):
                        return f"{site} is one letter away from {own}"
        return ""

    def _extended(self, site: str, shown: str) -> str:
        """Our name with something around it: example-secure, secureexample, my-example-login."""
        label = shown.partition(".")[0]
        pieces = label.split("-")
        if len(pieces) > 1:
            for piece in pieces:
                own = self._labels.get(piece)
                if own and (len(piece) >= _SHORTEST_EDITED or self._words.issuperset(set(pieces) - {piece})):
                    return f"{site} has the name of {own} in it"
        for start in range(2, min(len(label), _LONGEST) - _SHORTEST_EDITED + 1):
            own = self._labels.get(label[start:]) if label[:start].rstrip("-") in self._words else None
            end = len(label) - start
            own = own or (self._labels.get(label[:end]) if label[end:].lstrip("-") in self._words else None)
            if own:
                return f"{site} has the name of {own} in it"
        return ""

    def _below(self, name: str, site: str) -> str:
        """Our whole domain as labels in front of another: example.com.attacker.net, example-com.…."""
        above = name.removesuffix(site).rstrip(".")
        if not ("-" in above or above.count(".")):
            return ""
        labels = above.split(".")[-10:]
        for start in range(len(labels)):
            for end in range(start + 1, min(start + 4, len(labels)) + 1):
                words = ".".join(labels[start:end])
                own = self._whole.get(words) or self._whole.get(words.replace("-", "."))
                if own:
                    return f"{printable_host(name)} begins like {own}"
        return ""


def printable_host(host: str) -> str:
    """A host for a log: it may be long."""
    return host if len(host) <= 80 else f"{host[:77]}..."


def _below(name: str, domains: frozenset[str]) -> bool:
    """Whether `name` is one of `domains` or below one."""
    if name in domains:
        return True
    at = name.find(".")
    while at >= 0:
        if name[at + 1 :] in domains:
            return True
        at = name.find(".", at + 1)
    return False


def _without_one(text: str) -> Iterator[str]:
    if len(text) <= _LONGEST:
        for index in range(len(text)):
            yield text[:index] + text[index + 1 :]


def _one_edit(one: str, other: str) -> bool:
    """Whether `one` becomes `other` by one letter put in, left out or changed, or two exchanged."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    if len(a) == len(b):
        return a[1:] == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
    return a[1:] == b if len(a) > len(b) else a == b[1:]
