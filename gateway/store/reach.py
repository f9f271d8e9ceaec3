# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose mail somebody may see: addresses of their own, domains that they review, or all.

Pure. Compares hostile addresses (of recipients) with those of an administrator's table; in doubt an
address is nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.mail.domains import domain_of, matches


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


EVERYTHING: Final = Reach(everything=True)
