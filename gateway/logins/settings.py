# SPDX-License-Identifier: GPL-2.0-or-later
"""The [login] table."""

from __future__ import annotations

from gateway.mail.domains import check_pattern
from gateway.settings import Positive, Seconds, Settings


class SenderRow(Settings, frozen=True, kw_only=True):
    """One row of [[login.senders]]: addresses that some logins may send from, besides their own."""

    # Logins, as they are written when somebody logs in; case does not matter.
    logins: tuple[str, ...]
    # Addresses, "@example.com" for all of a domain, "@.example.com" for all of the domains below it.
    addresses: tuple[str, ...]

    def __post_init__(self) -> None:
        for text in self.addresses:
            local, at, domain = text.rpartition("@")
            if not at or "@" in local:
                raise ValueError(f'"{text}" is no address, and no domain such as "@example.com"')
            check_pattern(domain)


class LoginSettings(Settings, frozen=True, kw_only=True):
    """The [login] table: who may log in at the submission listeners of the smart host."""

    # Where passwords are checked; "" lets nobody log in. "file:/path" is a file with lines "name:hash" (as
    # `mailwarden login hash`, `openssl passwd -6` and `doveadm pw -s SHA512-CRYPT` make them);
    # "dovecot:/path" or "dovecot:host:port" the socket of Dovecot's auth service for clients;
    # "imaps:host:port", or "imap:host:port" with STARTTLS, a server to which the same login must be good.
    users: str = ""
    # PEM file of the CAs that may vouch for the IMAP server. Empty: those of the system.
    ca_file: str = ""
    # The domain of a login without one: "alice" is then the owner of alice@ this domain.
    domain: str = ""
    # Whether a login may send from its own addresses alone, in MAIL FROM and in From. Its own are the login
    # itself, and what rows of [[login.senders]] name.
    check_senders: bool = True
    senders: tuple[SenderRow, ...] = ()
    # Wrong passwords after which a session ends.
    session_failures: Positive = 3
    # Wrong passwords from one client (an IPv6 client is its /64) after which none of its logins are tried,
    # and the seconds without a further one after which they are.
    client_failures: Positive = 20
    forget_seconds: Seconds = 600.0
    # Seconds before the answer to a wrong password, doubled with each one of late, up to eight times as many.
    delay: Seconds = 1.0
    # Seconds that a check may take, and how many are made at a time in each worker.
    timeout: Seconds = 15.0
    threads: Positive = 4

    def __post_init__(self) -> None:
        if self.domain:
            check_pattern(self.domain)
        kind, colon, place = self.users.partition(":")
        if self.users and not (colon and place and kind in ("file", "dovecot", "imap", "imaps")):
            raise ValueError(f'"{self.users}" is not file:/path, dovecot:/path, imaps:host:port or the like')
