# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose mail somebody may see: addresses of their own, domains that they review, or all.

Pure. Compares hostile addresses (of recipients) with those of an administrator's table; in doubt an
address is nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.mail.domains import domain_of, matches, normal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST: Final = 330  # characters of a key
_DEPTH: Final = 8  # labels of the deepest domain that has a key for what is below it


@dataclass(frozen=True, slots=True)
class Reach:
    """Recipients whose copies somebody may see. `domains` may have ".example.com", for all below it."""

    addresses: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    everything: bool = False

    def covers(self, recipient: str) -> bool:
        """Whether this recipient's copy is within it."""
        if self.everything:
            return True
        folded = recipient.casefold()
        return any(folded == one.casefold() for one in self.addresses) or (
            bool(self.domains) and bool(domain_of(recipient)) and matches(domain_of(recipient), self.domains)
        )

    def keys(self) -> tuple[str, ...]:
        """The keys of which one is among `keys_of` all that is covered, and little else."""
        found = ["=" + one.casefold() for one in self.addresses if "\0" not in one]
        for domain in self.domains:
            below = domain.startswith(".")
            name = normal(domain.removeprefix("."))
            found.append("." + ".".join(name.split(".")[-_DEPTH:]) if below else f"@{name}")
        return tuple(dict.fromkeys(key[:LONGEST] for key in found))


def keys_of(recipients: Iterable[str]) -> tuple[str, ...]:
    """By which keys mail to `recipients` is found: each of them, its domain, and the domains above that."""
    return tuple(dict.fromkeys(key[:LONGEST] for one in recipients for key in _keys(one)))


def _keys(recipient: str) -> Iterator[str]:
    yield "=" + recipient.casefold()
    if domain := domain_of(recipient):
        yield f"@{domain}"
        labels = domain.split(".")[-_DEPTH - 1 :]
        yield from ("." + ".".join(labels[n:]) for n in range(1, len(labels)))


EVERYTHING: Final = Reach(everything=True)
