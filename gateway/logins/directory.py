# SPDX-License-Identifier: GPL-2.0-or-later
"""Names and passwords that an LDAP directory checks: by a bind as the user's own entry (RFC 4513 §5.1.3).

Reads names and passwords of strangers, bounded and without controls, which go into a distinguished name or a
filter escaped; and what a directory says that the administrator named. Nothing is said to one elsewhere
before TLS is up and its certificate verified (`line`). python-ldap speaks to it by libldap, whose own
configuration files might say otherwise, so all that matters is set here: no referral or alias is followed.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ldap
from ldap.dn import escape_dn_chars
from ldap.filter import escape_filter_chars

from gateway.logins.line import line
from gateway.logins.sources import HERE, NO, Answer, Credentials, host_and_port
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gateway.logins.settings import LdapSettings, LoginSettings

_PORTS = {"ldap": 389, "ldaps": 636}
_VALUES = 500  # addresses of one login that are looked at
_LONGEST = 320  # octets of one of them, and of a login's name
_SECRET = 1_024
_PART = re.compile(r"\{(?:login|local|domain)\}")
# The directory says that it is not so: no such entry, another password, or none at all.
_WRONG = (ldap.INVALID_CREDENTIALS, ldap.INAPPROPRIATE_AUTH, ldap.NO_SUCH_OBJECT, ldap.INVALID_DN_SYNTAX)
_AWAY = (ldap.SERVER_DOWN, ldap.CONNECT_ERROR, ldap.TIMEOUT, ldap.UNAVAILABLE, ldap.BUSY)


@dataclass(frozen=True, slots=True)
class Server:
    """A directory: a path, or host and port; whether TLS protects it, and whether StartTLS comes first."""

    where: str | tuple[str, int]
    tls: bool = False
    start_tls: bool = False


@dataclass(frozen=True, slots=True)
class Directory:
    """Directories that stand in for each other, one connection for each check."""

    servers: tuple[Server, ...]
    settings: LdapSettings
    password: str = field(repr=False)  # of `bind_dn`
    domain: str
    tls: ssl.SSLContext
    timeout: float

    def check(self, claim: Credentials) -> Answer:
        """Log in as the user; a directory that cannot be reached makes way for the next."""
        if not claim.password:  # it would be taken for an anonymous bind, and be right: RFC 4513 §5.1.2
            return NO
        end = time.monotonic() + self.timeout
        why = "no directory"
        for left, server in zip(range(len(self.servers), 0, -1), self.servers, strict=True):
            now = time.monotonic()
            share = now + (end - now) / left  # one that hangs leaves time for the others
            try:
                with self._connected(server, share) as connection:
                    return self._ask(connection, claim, share)
            except _AWAY as error:
                why = f"LDAP: {_said(error)}"
            except (OSError, ValueError) as error:
                why = f"LDAP: {printable(str(error), 200)}"
            except ldap.LDAPError as error:
                return Answer("later", why=f"LDAP: {_said(error)}")
        return Answer("later", why=why)

    @contextlib.contextmanager
    def _connected(self, server: Server, end: float) -> Iterator[Any]:
        with line(
            server.where, self.tls if server.tls else None, end, start_tls=server.start_tls
        ) as descriptor:
            connection = ldap.initialize("ldap://directory", fileno=descriptor)
            try:
                connection.timeout = max(0.1, end - time.monotonic())
                connection.set_option(ldap.OPT_PROTOCOL_VERSION, 3)
                connection.set_option(ldap.OPT_REFERRALS, 0)
                connection.set_option(ldap.OPT_DEREF, ldap.DEREF_NEVER)
                yield connection
            finally:
                with contextlib.suppress(ldap.LDAPError):
                    connection.unbind_s()

    def _ask(self, connection: Any, claim: Credentials, end: float) -> Answer:
        if self.settings.dn:
            dn, entry = filled(self.settings.dn, claim.name, self.domain, escape_dn_chars), None
        else:
            found = self._find(connection, claim, end)
            if found is None:
                return NO
            dn, entry = found
        if not dn:  # a bind without a name is anonymous, whatever the password: RFC 4513 §5.1.1
            return NO
        connection.timeout = max(0.1, end - time.monotonic())
        try:
            connection.simple_bind_s(dn, claim.password)
        except _WRONG:
            return NO
        if entry is None:
            entry = self._own(connection, dn)
        return Answer("yes", self._name(entry, claim.name), addresses=self._addresses(entry))

    def _find(
        self, connection: Any, claim: Credentials, end: float
    ) -> tuple[str, Mapping[str, list[bytes]]] | None:
        """The one entry that the filter finds, None if there is none. Raises LDAPError."""
        if self.settings.bind_dn:
            try:
                connection.simple_bind_s(self.settings.bind_dn, self.password)
            except _WRONG as error:
                raise ldap.OTHER({"desc": "it does not take bind_dn and its password"}) from error
        text = filled(self.settings.filter, claim.name, self.domain, escape_filter_chars)
        connection.timeout = max(0.1, end - time.monotonic())
        try:
            found = connection.search_ext_s(
                self.settings.base, ldap.SCOPE_SUBTREE, text, self._wanted(), sizelimit=2
            )
        except ldap.SIZELIMIT_EXCEEDED:
            found = [("", {}), ("", {})]
        entries = [(dn, attributes) for dn, attributes in found if dn is not None]  # others are referrals
        if len(entries) > 1:
            raise ldap.OTHER({"desc": "the filter finds several entries for this login"})
        return entries[0] if entries else None

    def _own(self, connection: Any, dn: str) -> Mapping[str, list[bytes]]:
        """The user's own entry, or what it may read of it."""
        try:
            found = connection.search_ext_s(dn, ldap.SCOPE_BASE, "(objectClass=*)", self._wanted())
        except (ldap.NO_SUCH_OBJECT, ldap.INSUFFICIENT_ACCESS):
            return {}
        return next((attributes for name, attributes in found if name is not None), {})

    def _wanted(self) -> list[str]:
        return [*self.settings.addresses, *([self.settings.name] if self.settings.name else [])] or ["1.1"]

    def _name(self, entry: Mapping[str, list[bytes]], typed: str) -> str:
        """What the login is called, so that it has one name however it is typed."""
        named = _values(entry, self.settings.name)
        return (named[0] if named else " ".join(typed.split())).lower()

    def _addresses(self, entry: Mapping[str, list[bytes]]) -> tuple[str, ...]:
        found = [value for name in self.settings.addresses for value in _values(entry, name)]
        bare = (one[5:] if one[:5].lower() == "smtp:" else one for one in found)
        # "@example.com" would be all of a domain, which is the configuration's to give.
        return tuple(one for one in bare if one.rpartition("@")[0])[:_VALUES]


def directory(settings: LoginSettings) -> Directory:
    """The directories that `settings` name. Raises OSError, ValueError."""
    secret = settings.ldap.bind_password_file
    return Directory(
        tuple(_server(word) for word in settings.users.split()),
        settings.ldap,
        _secret(Path(secret)) if secret else "",
        settings.domain,
        ssl.create_default_context(cafile=settings.ca_file or None),
        settings.timeout,
    )


def _server(text: str) -> Server:
    """The server that "ldaps:host:port" and the like name. Raises ValueError."""
    kind, _, place = text.partition(":")
    place = place.removeprefix("//")
    if kind == "ldapi" and place.startswith("/"):
        return Server(place)
    if kind not in _PORTS:
        raise ValueError(f'"{text}" is not ldaps:host:port, ldap:host:port or ldapi:/path')
    where = host_and_port(place.rstrip("/"), _PORTS[kind])
    if not where[0]:
        raise ValueError(f'"{text}" names no host')
    return Server(where, tls=kind == "ldaps" or where[0] not in HERE, start_tls=kind == "ldap")


def _secret(path: Path) -> str:
    """The first line of a password file. Raises OSError, ValueError; both without the password."""
    with path.open("rb") as file:
        if path.stat().st_mode & 0o007:
            raise ValueError(f"{path}: everybody may read it; chmod o= it")
        line = file.read(_SECRET).split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise ValueError(f"{path}: its first line is empty, and should be the password")
    return line.decode("utf-8", "replace")


def filled(template: str, login: str, domain: str, escape: Callable[[str], str]) -> str:
    """The template of a name or filter with the login in it, of which nothing is syntax."""
    local, at, own = login.rpartition("@")
    parts = {"{login}": login, "{local}": local if at else login, "{domain}": own if at else domain}
    return _PART.sub(lambda found: escape(parts[found[0]]), template)


def _values(entry: Mapping[str, list[bytes]], name: str) -> list[str]:
    """The values of an attribute that are printable text of bounded length."""
    found = []
    for value in next((all_ for one, all_ in entry.items() if one.lower() == name.lower()), [])[:_VALUES]:
        with contextlib.suppress(UnicodeDecodeError):
            text = value[: _LONGEST + 1].decode()
            if text and len(value) <= _LONGEST and text.isprintable():
                found.append(text)
    return found


def _said(error: ldap.LDAPError) -> str:
    """Libldap's own words for a result; those of the directory itself are left out."""
    facts = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return printable(str(facts.get("desc") or type(error).__name__), 200)
