# SPDX-License-Identifier: GPL-2.0-or-later
"""Where people say what is spam and what is not: addresses, IMAP folders."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.classifier.settings import PerDay
from gateway.mail.domains import check_pattern
from gateway.settings import Port, Seconds, Settings

_TEXT = r"^[^\x00-\x1f\x7f]*\Z"  # it goes into a command line of IMAP
Word = Annotated[str, msgspec.Meta(pattern=_TEXT, min_length=1, max_length=200)]


class ImapSettings(Settings, frozen=True, kw_only=True):
    """An account whose folders are read, by the IMAP protocol. What is in them stays unread."""

    # Name of the server.
    host: Word
    port: Port = 993
    # "tls" from the start, "starttls" (port 143), or "none": the password goes in clear.
    tls: Literal["tls", "starttls", "none"] = "tls"
    # PEM file of the CAs that the server's certificate is checked with; "" takes the system's.
    ca_file: str = ""
    # Login, and the file whose first line is its password; others must not be able to read that file.
    user: Word
    password_file: Word
    # Folders with spam, and with mail that is none. What is new in them is learned.
    spam_folders: tuple[Word, ...]
    ham_folders: tuple[Word, ...] = ()
    # Folder to which messages are moved once they are read; "" leaves them where they are.
    move_to: Annotated[str, msgspec.Meta(pattern=_TEXT, max_length=200)] = ""
    # Seconds between two looks.
    interval: Seconds = 300.0
    # Most messages that one look reads, and that are learned of this account in a day. The rest waits.
    batch: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    per_day: PerDay = 200
    # Seconds for one answer of the server, and for a whole look.
    timeout: Seconds = 20.0
    deadline: Seconds = 120.0

    def __post_init__(self) -> None:
        folders = (*self.spam_folders, *self.ham_folders)
        if not folders:
            raise ValueError("name folders in spam_folders or ham_folders")
        if len(set(folders)) < len(folders) or self.move_to in folders:
            raise ValueError("each folder of an account has one use")


class LearningSettings(Settings, frozen=True):
    """What the classifier is taught by our own users. Limits by the day are in [classifier]."""

    # Addresses that our own users (by login or network) forward spam to, as an attachment: it is learned,
    # and goes to no mailbox. From anybody else it is mail like any other.
    spam_addresses: tuple[str, ...] = ()
    # The same for mail that was taken for spam and is none.
    ham_addresses: tuple[str, ...] = ()
    # IMAP folders with spam, and with what is none.
    imap: tuple[ImapSettings, ...] = ()

    def __post_init__(self) -> None:
        for text in (*self.spam_addresses, *self.ham_addresses):
            local, at, domain = text.rpartition("@")
            if not (local and at) or domain.startswith("."):
                raise ValueError(f'"{text}" is no address such as "spam@example.com"')
            check_pattern(domain)
        both = {one.lower() for one in self.spam_addresses} & {one.lower() for one in self.ham_addresses}
        if both:
            raise ValueError(f'"{min(both)}" cannot be for spam and for ham')
