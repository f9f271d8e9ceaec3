# SPDX-License-Identifier: GPL-2.0-or-later
"""Who somebody is: by a password known here, or by asking where the users' passwords are, as by IMAP.

Reads names and passwords of strangers. Wrong ones are counted by address and by name; the answer does not
say which of the two was wrong. A server that cannot be asked is an error, never a login.
"""

from __future__ import annotations

import imaplib
from typing import TYPE_CHECKING, Final

from gateway.logins.settings import LoginSettings
from gateway.logins.sources import Credentials, load
from gateway.mail.domains import domain_of, matches
from gateway.mail.mime import MimeLimits
from gateway.mail.networks import same_client
from gateway.store.people import NAME, Person
from gateway.store.states import Role
from gateway.web import passwords
from gateway.web.attempts import Attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.logins.sources import Source
    from gateway.store.people import People
    from gateway.web.settings import WebSettings


MAILBOX: Final = "mailbox:"  # in front of an address: a login by a link; no name begins so


class LoginError(Exception):
    """Nobody was logged in; `word` names the text of the pages that says why, to whoever tries."""

    def __init__(self, word: str, minutes: int = 0) -> None:
        super().__init__(word)
        self.word = word
        self.minutes = minutes


class Doorkeeper:
    """Lets people in. Thread-safe."""

    def __init__(self, people: People, settings: WebSettings) -> None:
        """Raise OSError or ValueError for what `settings.users` names and cannot be used."""
        self._people = people
        self._domains = settings.user_domains
        self._attempts = Attempts(settings.login_attempts)
        self._source = source(settings)

    def person(self, name: str) -> Person | None:
        """Who a login is: somebody in the table, or a user who has just this address.

        Whom a link in a digest let in is the user of that mailbox, whatever somebody of that name may do.
        """
        if name.startswith(MAILBOX):
            address = name.removeprefix(MAILBOX)
            return Person(address, Role.USER, (address,))
        found = self._people.find(name)
        if found is None and "@" in name:
            return Person(name, Role.USER, (name,))
        return found

    def let_in(self, name: str, password: str, client: str) -> Person:
        """Who this is, by name and password. Raises LoginError, StoreError."""
        name = name.strip().lower()
        keys = f"from {same_client(client)}", f"for {name[:254]}"
        if (seconds := self._attempts.wait(*keys)) > 0:
            raise LoginError("too-many-logins", int(seconds // 60) + 1)
        found = self._people.find(name) if NAME.fullmatch(name) else None
        # Noted before it is asked, so that many at once are counted as well.
        self._attempts.failed(*keys)
        if not self._right(found, name, password, client):
            raise LoginError("wrong-login")
        self._attempts.succeeded(*keys)
        return found or Person(name, Role.USER, (name,))

    def sign_on(self, client: str, address: Callable[[], str]) -> str:
        """The login of whose address a server for logins vouches. Raises LoginError, StoreError.

        It is somebody of that name, else the one person who has it among their addresses, else the user of
        that mailbox, if its domain is one of `user_domains`.
        """
        key = f"sign-on from {same_client(client)}"
        if (seconds := self._attempts.wait(key)) > 0:
            raise LoginError("too-many-logins", int(seconds // 60) + 1)
        self._attempts.failed(key)
        email = address()
        found = self._people.find(email) if NAME.fullmatch(email) else None
        having = [found] if found else [one for one in self._people.all() if email in _lower(one.addresses)]
        if len(having) > 1 or not (having or matches(domain_of(email), self._domains)):
            raise LoginError("unknown-address")
        self._attempts.succeeded(key)
        return having[0].name if having else MAILBOX + email

    def _right(self, found: Person | None, name: str, password: str, client: str) -> bool:
        if found is not None and found.password:
            return passwords.fits(password, found.password)
        ours = bool(NAME.fullmatch(name)) and matches(domain_of(name), self._domains)
        if self._source is None or not ours:
            return passwords.fits(password, "")
        # An empty password is an anonymous login to some directories behind mail servers.
        if not password or not password.isprintable() or len(password.encode()) > passwords.LONGEST:
            return False
        try:
            answer = self._source.check(Credentials(name, password, client))
        except (imaplib.IMAP4.error, OSError, ValueError) as error:
            raise LoginError("logins-later") from error
        if answer.status == "later":
            raise LoginError("logins-later")
        return answer.status == "yes"


def _lower(addresses: Sequence[str]) -> list[str]:
    return [one.lower() for one in addresses]


def source(settings: WebSettings) -> Source | None:
    """Where the users' passwords are checked. Raises OSError, ValueError for what cannot be used."""
    asked = LoginSettings(users=settings.users, ca_file=settings.ca_file, timeout=settings.users_timeout)
    logins = load(asked, MimeLimits())
    return logins.source if logins else None
