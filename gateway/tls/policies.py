# SPDX-License-Identifier: GPL-2.0-or-later
"""The MTA-STS policies of recipient domains: found, fetched, kept, and refreshed before they expire.

Asks the DNS and web servers of strangers, through `fetch`, and never for long. Threads share it. A
domain whose policy was once seen is bound to it until it expires, whatever the DNS and the web server
say meanwhile (RFC 8461 §5.1): else an attacker would only have to keep us from both.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from gateway.mail.domains import to_ascii
from gateway.tls.fetch import FetchError
from gateway.tls.mta_sts import LONGEST, Policy, PolicyError, read_policy, record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.dns import Resolver
    from gateway.tls.fetch import Web
    from gateway.tls.outbound import Failure

_PATH: Final = "/.well-known/mta-sts.txt"
_FETCH_SECONDS: Final = 20.0
_DNS_SECONDS: Final = 10.0
_AGAIN: Final = 300.0  # seconds until a fetch that failed is tried again (RFC 8461 §3.3)
_FRESH: Final = 60.0  # seconds for which an answer is given again without looking
_DAY: Final = 86_400.0
_UNUSED: Final = 30 * _DAY  # after which a policy is not refreshed any more
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy as it is kept. Times are seconds since 1970."""

    domain: str
    ident: str
    policy: Policy
    fetched: float
    expires: float
    used: float


class Cache(Protocol):
    """Where policies are kept; what fails there is raised as it is, so that nothing is sent for now."""

    def find(self, domain: str) -> Kept | None:
        """The policy that is kept, expired or not."""

    def keep(self, kept: Kept) -> None:
        """Keep it in place of what is there."""

    def due(self, fetched: float, used: float) -> Iterable[Kept]:
        """All policies fetched before and used after."""


class InMemory:
    """A cache in memory, for programs without a store."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}

    def find(self, domain: str) -> Kept | None:
        """The policy that is kept, expired or not."""
        return self._kept.get(domain)

    def keep(self, kept: Kept) -> None:
        """Keep it in place of what is there."""
        self._kept[kept.domain] = kept

    def due(self, fetched: float, used: float) -> list[Kept]:
        """All policies fetched before and used after."""
        return [one for one in self._kept.values() if one.fetched < fetched and one.used > used]


@dataclass(frozen=True, slots=True)
class Found:
    """The policy that binds us, if any. `failure` is what went wrong on the way, `reason` how."""

    policy: Policy | None = None
    failure: Failure = ""
    reason: str = ""
    ident: str = ""
    expires: float = 0.0


NOTHING: Final = Found()


class Policies:
    """The policies of all domains, for one process."""

    def __init__(
        self, resolver: Resolver, web: Web, cache: Cache, clock: Callable[[], float] = time.time
    ) -> None:
        self._resolver = resolver
        self._web = web
        self._cache = cache
        self._clock = clock
        self._recent: dict[str, tuple[float, Found]] = {}
        self._failed: dict[tuple[str, str], tuple[float, Found]] = {}
        self._busy: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def find(self, domain: str) -> Found:
        """The policy of a recipient domain. May take half a minute; raises what the cache raises."""
        name = to_ascii(domain)
        if name is None or "." not in name or name.startswith("["):
            return NOTHING
        recent = self._recent.get(name)
        if recent is not None and recent[0] > time.monotonic():
            return recent[1]
        with self._lock:
            mine = self._busy.setdefault(name, threading.Lock())
        with mine:  # one asks for all
            recent = self._recent.get(name)
            if recent is not None and recent[0] > time.monotonic():
                return recent[1]
            found = self._look(name)
            self._remember(name, found)
        return found

    def _remember(self, name: str, found: Found) -> None:
        with self._lock:
            if len(self._recent) >= _REMEMBERED:
                self._recent.clear()
                self._failed.clear()
            self._busy.pop(name, None)
            fresh = min(_FRESH, found.expires - self._clock()) if found.policy else _FRESH
            self._recent[name] = (time.monotonic() + fresh, found)

    def _look(self, name: str) -> Found:
        now = self._clock()
        kept = self._cache.find(name)
        if kept is not None and kept.expires <= now:
            kept = None
        answer = self._resolver.query(f"_mta-sts.{name}", "TXT", time.monotonic() + _DNS_SECONDS)
        ident = record_of(answer.values)
        if kept is not None and (ident is None or ident == kept.ident):
            if now - kept.used > _DAY:
                self._cache.keep(replace(kept, used=now))
            return _bound(kept)
        if ident is None:
            return NOTHING
        fetched = self._fetch(name, ident)
        if isinstance(fetched, Kept):
            return _bound(fetched)
        return replace(_bound(kept), failure=fetched.failure, reason=fetched.reason) if kept else fetched

    def _fetch(self, name: str, ident: str) -> Kept | Found:
        """Fetch and keep the policy file; a `Found` without policy says why there is none."""
        before = self._failed.get((name, ident))
        if before is not None and before[0] > time.monotonic():
            return before[1]
        try:
            policy = read_policy(self._file(f"mta-sts.{name}"))
        except FetchError as error:
            why: Failure = "sts-webpki-invalid" if error.certificate else "sts-policy-fetch-error"
            failed = Found(failure=why, reason=str(error), ident=ident)
        except PolicyError as error:
            failed = Found(failure="sts-policy-invalid", reason=str(error), ident=ident)
        else:
            now = self._clock()
            kept = Kept(name, ident, policy, now, now + policy.max_age, now)
            self._cache.keep(kept)
            return kept
        with self._lock:
            self._failed[name, ident] = (time.monotonic() + _AGAIN, failed)
        return failed

    def _file(self, host: str) -> bytes:
        """The policy file (RFC 8461 §3.3). Raises FetchError."""
        answer = self._web.get(host, _PATH, limit=LONGEST, seconds=_FETCH_SECONDS)
        if answer.status != 200:  # a redirect too
            raise FetchError(f"{host} answers with status {answer.status}")
        if answer.media_type != "text/plain":
            raise FetchError(f"{host} sends {answer.media_type[:60]!r}, not text/plain")
        return answer.body

    def refresh(self) -> int:
        """Fetch anew what is a day old or has used up half its life; how many were fetched."""
        now, count = self._clock(), 0
        for kept in self._cache.due(now - 1.0, now - _UNUSED):
            age, life = now - kept.fetched, kept.expires - kept.fetched
            if kept.expires <= now or age < min(_DAY, life / 2):
                continue
            answer = self._resolver.query(f"_mta-sts.{kept.domain}", "TXT", time.monotonic() + _DNS_SECONDS)
            fetched = self._fetch(kept.domain, record_of(answer.values) or kept.ident)
            if isinstance(fetched, Kept):
                self._cache.keep(replace(fetched, used=kept.used))
                count += 1
        return count


def _bound(kept: Kept) -> Found:
    policy = None if kept.policy.mode == "none" else kept.policy
    return Found(policy, ident=kept.ident, expires=kept.expires)
