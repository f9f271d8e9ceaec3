# SPDX-License-Identifier: GPL-2.0-or-later
"""Where people say what is spam and what is not: addresses, IMAP folders."""

from __future__ import annotations

from gateway.mail.domains import check_pattern
from gateway.settings import Settings


class LearningSettings(Settings, frozen=True):
    """What the classifier is taught by our own users. Limits by the day are in [classifier]."""

    # Addresses that our own users (by login or network) forward spam to, as an attachment: it is learned,
    # and goes to no mailbox. From anybody else it is mail like any other.
    spam_addresses: tuple[str, ...] = ()
    # The same for mail that was taken for spam and is none.
    ham_addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in (*self.spam_addresses, *self.ham_addresses):
            local, at, domain = text.rpartition("@")
            if not (local and at) or domain.startswith("."):
                raise ValueError(f'"{text}" is no address such as "spam@example.com"')
            check_pattern(domain)
        both = {one.lower() for one in self.spam_addresses} & {one.lower() for one in self.ham_addresses}
        if both:
            raise ValueError(f'"{min(both)}" cannot be for spam and for ham')
