# SPDX-License-Identifier: GPL-2.0-or-later
"""What we know of servers that mail goes to: MTA-STS policies of domains, and what TLS hosts offered before.

Keeps text of strangers, which `tls` has parsed and bounded. Nothing here is needed to keep a promise,
so nothing is synced; but who asks and gets StoreError must not send, since an empty answer would
mean "no policy".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, delete, select

from gateway.store import schema
from gateway.store.database import StoreError, upsert
from gateway.store.encoding import from_json, to_json
from gateway.tls.mta_sts import Policy
from gateway.tls.policies import Kept

if TYPE_CHECKING:
    from gateway.store.database import Database
    from gateway.tls.demands import Security

_DAY: Final = 86_400.0
_FRESH: Final = 30.0  # seconds for which an answer is given again without looking
_REMEMBERED: Final = 10_000
_RANK: Final[dict[str, int]] = {"": 0, "clear": 1, "encrypted": 2, "verified": 3}


class StsPolicies:
    """The cache of MTA-STS policies, for all processes and nodes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, domain: str) -> Kept | None:
        """The policy that is kept, expired or not. Raises StoreError."""
        table = schema.mta_sts
        statement = select(table).where(table.c.domain == domain)
        row = self._database.read(lambda connection: connection.execute(statement).one_or_none())
        return _kept(row) if row is not None else None

    def keep(self, kept: Kept) -> None:
        """Keep a policy in place of what is there. Raises StoreError."""
        values = {
            "ident": kept.ident,
            "policy": to_json(kept.policy),
            "fetched": kept.fetched,
            "expires": kept.expires,
            "used": kept.used,
        }

        def work(connection: Connection) -> None:
            adding = upsert(connection, schema.mta_sts).values(domain=kept.domain, **values)
            connection.execute(adding.on_conflict_do_update(index_elements=["domain"], set_=values))

        self._database.write(work, durable=False)

    def due(self, fetched: float, used: float) -> list[Kept]:
        """All policies fetched before and used after these times. Raises StoreError."""
        table = schema.mta_sts
        statement = select(table).where(table.c.fetched < fetched, table.c.used > used).limit(10_000)
        return [_kept(row) for row in self._database.read(lambda c: c.execute(statement).all())]


def _kept(row: Any) -> Kept:
    try:
        policy: Policy = from_json(row.policy, Policy)
    except ValueError as error:
        raise StoreError(f"the MTA-STS policy of {row.domain} cannot be read: {error}") from error
    return Kept(row.domain, row.ident, policy, row.fetched, row.expires, row.used)


class Hosts:
    """What TLS hosts offered before: the best of the last `days`, forgotten later."""

    def __init__(self, database: Database, days: float) -> None:
        self._database = database
        self._seconds = days * _DAY
        self._recent: dict[str, tuple[float, Security]] = {}

    def security(self, host: str) -> Security:
        """The best that `host` offered, "" if it is not known; up to half a minute old. Raises StoreError."""
        recent = self._recent.get(host)
        if recent is not None and recent[0] > time.monotonic():
            return recent[1]
        found = self._row(host)
        best = found[0] if found else ""
        if len(self._recent) >= _REMEMBERED:
            self._recent.clear()
        self._recent[host] = (time.monotonic() + _FRESH, best)
        return best

    def saw(self, host: str, security: Security, *, now: float | None = None) -> Security:
        """Note what `host` offered now, and return the better that it had offered before, else "".

        What is better is forgotten in its time, unless it is seen again. Raises StoreError.
        """
        now = time.time() if now is None else now
        self._recent.pop(host, None)
        before = self._row(host, now)
        if before is not None and _RANK[before[0]] > _RANK[security]:
            return before[0]
        if before is None or before[0] != security or now - before[1] > _DAY:
            values = {"security": security, "seen": now}

            def work(connection: Connection) -> None:
                adding = upsert(connection, schema.tls_hosts).values(host=host.lower(), **values)
                connection.execute(adding.on_conflict_do_update(index_elements=["host"], set_=values))

            self._database.write(work, durable=False)
        return ""

    def _row(self, host: str, now: float | None = None) -> tuple[Security, float] | None:
        table = schema.tls_hosts
        since = (time.time() if now is None else now) - self._seconds
        statement = select(table).where(table.c.host == host.lower(), table.c.seen > since)
        row = self._database.read(lambda connection: connection.execute(statement).one_or_none())
        return (row.security, row.seen) if row is not None and row.security in _RANK else None

    def forget(self, host: str) -> bool:
        """Forget what `host` offered; whether there was anything. Raises StoreError."""
        self._recent.pop(host, None)
        table = schema.tls_hosts
        statement = delete(table).where(table.c.host == host.lower())
        return self._database.write(lambda connection: connection.execute(statement).rowcount > 0)


def prune(database: Database, days: float, *, now: float | None = None) -> int:
    """Delete what has expired. Returns how many rows. Raises StoreError."""
    now = time.time() if now is None else now
    statements = (
        delete(schema.mta_sts).where(schema.mta_sts.c.expires < now),
        delete(schema.tls_hosts).where(schema.tls_hosts.c.seen < now - days * _DAY),
    )
    return database.write(
        lambda connection: sum(connection.execute(one).rowcount for one in statements), durable=False
    )
