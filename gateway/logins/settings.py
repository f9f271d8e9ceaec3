# SPDX-License-Identifier: GPL-2.0-or-later
"""The [login] table."""

from __future__ import annotations

import re

from gateway.mail.domains import check_pattern
from gateway.settings import Positive, Seconds, Settings

_LDAP = ("ldap", "ldaps", "ldapi")
_KINDS = ("file", "dovecot", "imap", "imaps", *_LDAP)
_MARK = re.compile(r"\{(?:login|local)\}")


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


class LdapSettings(Settings, frozen=True, kw_only=True):
    """The [login.ldap] table: how a directory knows users.

    In `dn` and `filter`, {login} is what somebody typed, and {local} and {domain} are its parts, all escaped.
    """

    # The name of a user's entry, such as "uid={local},ou=people,dc=example,dc=com", to log in as at once.
    # Empty: the entry is looked for.
    dn: str = ""
    # Below which entry users are looked for, and the filter that finds one of them.
    base: str = ""
    filter: str = "(|(uid={login})(mail={login}))"
    # As whom they are looked for, and the file whose first line is the password. Empty: anonymously.
    bind_dn: str = ""
    bind_password_file: str = ""
    # Attributes with addresses that the user may send from. A value may begin with "smtp:".
    addresses: tuple[str, ...] = ("mail", "mailAlternateAddress")
    # The attribute with the name by which a login is counted, logged, and named in [[login.senders]],
    # however it was typed.
    name: str = "uid"

    def __post_init__(self) -> None:
        if self.dn and not (_MARK.search(self.dn) and "=" in self.dn):
            raise ValueError(f'dn: "{self.dn}" is not such as "uid={{local}},ou=people,dc=example,dc=com"')
        if not _MARK.search(self.filter) or not (self.filter.startswith("(") and self.filter.endswith(")")):
            raise ValueError(f'filter: "{self.filter}" is not such as "(uid={{login}})"')
        if bool(self.bind_dn) != bool(self.bind_password_file):
            raise ValueError("bind_dn and bind_password_file go together")


class LoginSettings(Settings, frozen=True, kw_only=True):
    """The [login] table: who may log in at the submission listeners of the smart host."""

    # Where passwords are checked; "" lets nobody log in. "file:/path" is a file with lines "name:hash" (as
    # `mailwarden login hash`, `openssl passwd -6` and `doveadm pw -s SHA512-CRYPT` make them);
    # "dovecot:/path" or "dovecot:host:port" the socket of Dovecot's auth service for clients;
    # "imaps:host:port", or "imap:host:port" with STARTTLS, a server to which the same login must be good;
    # "ldaps:host:port", "ldap:host:port" with StartTLS, or "ldapi:/path" a directory (see [login.ldap]), or
    # several with spaces between them, which stand in for each other.
    users: str = ""
    # PEM file of the CAs that may vouch for the IMAP server or the directory. Empty: those of the system.
    ca_file: str = ""
    # The domain of a login without one: "alice" is then the owner of alice@ this domain.
    domain: str = ""
    # Whether a login may send from its own addresses alone, in MAIL FROM and in From. Its own are the login
    # itself, those that a directory has, and what rows of [[login.senders]] name.
    check_senders: bool = True
    senders: tuple[SenderRow, ...] = ()
    ldap: LdapSettings = LdapSettings()
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
        if self.users and not (colon and place and kind in _KINDS):
            raise ValueError(f'"{self.users}" is not file:/path, dovecot:/path, imaps:host:port or the like')
        if kind in _LDAP and bool(self.ldap.dn) == bool(self.ldap.base):
            raise ValueError("a directory needs either dn or base in [login.ldap]")
