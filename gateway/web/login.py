# SPDX-License-Identifier: GPL-2.0-or-later
"""Who somebody is: by a password known here, or by asking their own mail server (IMAP over TLS).

Reads names and passwords of strangers. Wrong ones are counted by address and by name; the answer does not
say which of the two was wrong. A server that cannot be asked is an error, never a login.
"""

from __future__ import annotations

import imaplib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.feedback.folders import connection
from gateway.mail.domains import domain_of, matches
from gateway.mail.networks import same_client
from gateway.store.people import NAME, Person
from gateway.store.states import Role
from gateway.web import passwords
from gateway.web.attempts import Attempts

if TYPE_CHECKING:
    from gateway.store.people import People
    from gateway.web.settings import WebImapSettings, WebSettings


class LoginError(Exception):
    """Nobody was logged in; the text says why, to whoever tries."""


@dataclass(frozen=True, slots=True)
class _Server:
    """The users' mail server, as `connection` wants it."""

    host: str
    port: int
    tls: str
    ca_file: str
    timeout: float
    deadline: float


class Doorkeeper:
    """Lets people in. Thread-safe."""

    def __init__(self, people: People, settings: WebSettings) -> None:
        self._people = people
        self._settings = settings
        self._attempts = Attempts(settings.login_attempts)

    def person(self, name: str) -> Person | None:
        """Who a login is: somebody in the table, or a user who has just this address."""
        found = self._people.find(name)
        if found is None and "@" in name:
            return Person(name, Role.USER, (name,))
        return found

    def let_in(self, name: str, password: str, client: str) -> Person:
        """Who this is, by name and password. Raises LoginError, StoreError."""
        name = name.strip().lower()
        keys = f"from {same_client(client)}", f"for {name[:254]}"
        if (seconds := self._attempts.wait(*keys)) > 0:
            minutes = int(seconds // 60) + 1
            raise LoginError(f"Too many wrong passwords. Try again in {minutes} minutes.")
        found = self._people.find(name) if NAME.fullmatch(name) else None
        # Noted before it is asked, so that many at once are counted as well.
        self._attempts.failed(*keys)
        if not self._right(found, name, password):
            raise LoginError("Name or password is wrong.")
        self._attempts.succeeded(*keys)
        return found or Person(name, Role.USER, (name,))

    def _right(self, found: Person | None, name: str, password: str) -> bool:
        if found is not None and found.password:
            return passwords.fits(password, found.password)
        imap = self._settings.imap
        if not imap.host or not matches(domain_of(name), imap.domains) or not NAME.fullmatch(name):
            return passwords.fits(password, "")
        return asked(imap, name, password)


def asked(imap: WebImapSettings, name: str, password: str) -> bool:
    """Whether the mail server lets this login in. Raises LoginError if it cannot be asked."""
    # An empty password is an anonymous login to some directories behind mail servers.
    if not password or not password.isprintable() or len(password) > passwords.LONGEST:
        return False
    server = _Server(imap.host, imap.port, imap.tls, imap.ca_file, imap.timeout, imap.timeout)
    unavailable = "The mail server cannot be asked at the moment. Try again later."
    try:
        with connection(server, name, password.encode()):
            return True
    except imaplib.IMAP4.abort as error:
        raise LoginError(unavailable) from error
    except (imaplib.IMAP4.error, UnicodeError):
        return False
    except (OSError, ValueError) as error:
        raise LoginError(unavailable) from error
