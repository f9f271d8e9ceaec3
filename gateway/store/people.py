# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may review held mail besides the operators of this machine, and how they are known again.

Takes names and secrets of strangers. Of a secret (a session's, a token's) only the SHA-256 is kept; it is
256 random bits, so that nothing slower is needed. Passwords come here as argon2 made them. Each change of
a person is a row of the audit.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from gateway.mail.domains import check_pattern
from gateway.mail.headers import printable
from gateway.store import audit, held, schema
from gateway.store.database import StoreError
from gateway.store.encoding import to_json
from gateway.store.reach import Reach
from gateway.store.states import Actor, Role

if TYPE_CHECKING:
    from gateway.store.database import Database

Kind = Literal["session", "token"]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._+@-]{0,253}", re.ASCII)
ROLES: Final = {"user": Role.USER, "reviewer": Role.REVIEWER, "administrator": Role.ADMINISTRATOR}
_ADDRESS = re.compile(r"[^\s<>@\x00-\x20\x7f]{1,64}@[^\s<>@\x00-\x20\x7f]{1,255}")
_MOST = 50  # sessions of one person; the oldest end
_TOUCH = 60.0  # seconds after which it is written down that a login was used


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may review: a user their own mail, a reviewer that of domains, an administrator all."""

    name: str
    role: Role
    addresses: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    password: str = field(default="", repr=False)  # argon2id, "" if none is known here
    changed: float = 0.0

    @property
    def reach(self) -> Reach:
        """Whose mail they may see. A reviewer without domains reviews all."""
        everything = self.role >= Role.ADMINISTRATOR or (self.role is Role.REVIEWER and not self.domains)
        domains = self.domains if self.role >= Role.REVIEWER else ()
        return Reach(self.addresses, domains, everything)

    @property
    def actor(self) -> Actor:
        """Who they are in the audit."""
        return Actor(f"web:{self.name}", self.role)


@dataclass(frozen=True, slots=True)
class Login:
    """A session or a token, without its secret. Times are in seconds since 1970."""

    hash: str
    person: str
    kind: Kind
    note: str
    made: float
    used: float
    expires: float


class People:
    """The people and logins of one database. Thread-safe; raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -------------------------------------------------------------- people

    def all(self) -> list[Person]:
        """Everybody, by name."""
        table = schema.people
        rows = self._database.read(lambda c: c.execute(select(table).order_by(table.c.name)).all())
        return [_person(row) for row in rows]

    def find(self, name: str) -> Person | None:
        """Somebody by name, in any case."""
        table = schema.people
        chosen = select(table).where(table.c.name == name.lower()[:254])
        row = self._database.read(lambda c: c.execute(chosen).first())
        return _person(row) if row is not None else None

    def put(self, person: Person, who: str) -> Person:
        """Add somebody, or change who has that name; as they are kept. Changes end all their logins."""
        checked(person)
        table = schema.people
        values = {
            "role": person.role.name.lower(),
            "addresses": to_json(person.addresses),
            "domains": to_json(person.domains),
            "password": person.password,
            "changed": time.time(),
        }

        def work(connection: Connection) -> None:
            known = connection.execute(delete(table).where(table.c.name == person.name)).rowcount
            connection.execute(insert(table).values(name=person.name, **values))
            connection.execute(delete(schema.logins).where(schema.logins.c.person == person.name))
            about = f"{person.name} is {person.role.name.lower()}"
            audit.append(connection, "", who, "person changed" if known else "person added", about)

        self._database.write(work)
        return person

    def set_password(self, name: str, password: str, who: str) -> bool:
        """Keep another password (as argon2 made it), and end all sessions; whether there is such a person."""
        table, logins = schema.people, schema.logins
        values = {"password": password, "changed": time.time()}

        def work(connection: Connection) -> bool:
            known = connection.execute(
                update(table).where(table.c.name == name.lower()).values(**values)
            ).rowcount
            theirs = and_(logins.c.person == name.lower(), logins.c.kind == "session")
            connection.execute(delete(logins).where(theirs))
            if known:
                audit.append(connection, "", who, "password changed", name.lower())
            return bool(known)

        return self._database.write(work)

    def remove(self, name: str, who: str) -> bool:
        """Forget somebody with all their logins; whether there was such a person."""
        table = schema.people

        def work(connection: Connection) -> bool:
            gone = connection.execute(delete(table).where(table.c.name == name.lower())).rowcount
            connection.execute(delete(schema.logins).where(schema.logins.c.person == name.lower()))
            if gone:
                audit.append(connection, "", who, "person removed", name.lower())
            return bool(gone)

        return self._database.write(work)

    # -------------------------------------------------------------- logins

    def log_in(self, person: str, kind: Kind, *, seconds: float, note: str = "") -> str:
        """Start a session or make a token that lasts so long; its secret, which is kept nowhere."""
        secret = secrets.token_urlsafe(32)
        table, now = schema.logins, time.time()
        row = {
            "hash": _hash(secret),
            "person": person,
            "kind": kind,
            "note": printable(note, 200),
            "made": now,
            "used": now,
            "expires": now + seconds,
        }
        theirs = and_(table.c.person == person, table.c.kind == kind)
        newest = select(table.c.hash).where(theirs).order_by(table.c.made.desc()).limit(_MOST - 1)

        def work(connection: Connection) -> None:
            keep = list(connection.execute(newest).scalars())
            many = and_(theirs, table.c.hash.not_in(keep))
            connection.execute(delete(table).where(or_(table.c.expires < now, many)))
            connection.execute(insert(table).values(**row))

        self._database.write(work)
        return secret

    def known(self, secret: str, kind: Kind, *, idle: float | None = None) -> Login | None:
        """The login with this secret, unless it is over, or was not used for `idle` seconds."""
        table, now = schema.logins, time.time()
        chosen = select(table).where(table.c.hash == _hash(secret), table.c.kind == kind)
        row = self._database.read(lambda c: c.execute(chosen).first())
        if row is None or row.expires < now or (idle is not None and row.used < now - idle):
            return None
        if row.used < now - _TOUCH:
            mark = update(table).where(table.c.hash == row.hash).values(used=now)
            self._database.write(lambda c: c.execute(mark), durable=False)
        return Login(row.hash, row.person, kind, row.note, row.made, row.used, row.expires)

    def logins(self, person: str, kind: Kind) -> list[Login]:
        """Somebody's sessions or tokens that are not over, newest first."""
        table = schema.logins
        mine = and_(table.c.person == person, table.c.kind == kind, table.c.expires >= time.time())
        rows = self._database.read(
            lambda c: c.execute(select(table).where(mine).order_by(table.c.made.desc())).all()
        )
        return [Login(r.hash, r.person, kind, r.note, r.made, r.used, r.expires) for r in rows]

    def log_out(self, person: str, kind: Kind, start: str = "") -> int:
        """End logins: that whose hash begins with `start`, or all of the kind; how many."""
        table = schema.logins
        mine = and_(
            table.c.person == person, table.c.kind == kind, table.c.hash.startswith(start, autoescape=True)
        )
        return self._database.write(lambda c: c.execute(delete(table).where(mine)).rowcount)


def checked(person: Person) -> None:
    """Raise StoreError for somebody who cannot be kept."""
    if not NAME.fullmatch(person.name):
        raise StoreError("a name has lower-case letters, digits and . _ + @ -, 254 at most")
    for address in person.addresses:
        if not _ADDRESS.fullmatch(address):
            raise StoreError(f"{printable(address, 60)!r} is no address such as bob@example.com")
    for domain in person.domains:
        try:
            check_pattern(domain)
        except ValueError as error:
            raise StoreError(str(error)) from error
    if person.role is Role.USER and not person.addresses:
        raise StoreError("a user has addresses: their mail is what they may see")
    if person.role is Role.OURSELVES or (person.role is Role.USER and person.domains):
        raise StoreError("only a reviewer has domains")


def _person(row: object) -> Person:
    return Person(
        row.name,  # type: ignore[attr-defined]  # a Row
        ROLES[row.role],  # type: ignore[attr-defined]  # as above
        held.decode(row.addresses, tuple[str, ...]),  # type: ignore[attr-defined]  # as above
        held.decode(row.domains, tuple[str, ...]),  # type: ignore[attr-defined]  # as above
        row.password,  # type: ignore[attr-defined]  # as above
        row.changed,  # type: ignore[attr-defined]  # as above
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
