# SPDX-License-Identifier: GPL-2.0-or-later
"""What TLS with next hops came to: counted, remembered by host, and told where it became worse.

Works in a thread of its own, since it asks the store: nothing here holds mail up, and a store that does not
answer costs a note, not a delivery.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.mail.headers import printable
from gateway.store.counts import DAY
from gateway.store.database import StoreError
from gateway.store.tlsrpt import result_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.delivery.client import HopLost, Transaction
    from gateway.delivery.routes import NextHop
    from gateway.log import Log
    from gateway.store.hosts import Hosts
    from gateway.store.tlsrpt import TlsResults
    from gateway.tls.demands import Security
    from gateway.tls.outbound import TlsPolicy


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "tls")


@dataclass(frozen=True, slots=True)
class Watch:
    """Takes notes, for one process. `hosts` is None if nothing is remembered, `results` without reports."""

    log: Log = field(repr=False)
    hosts: Hosts | None = None
    results: TlsResults | None = None
    count: Callable[[str], None] = lambda _what: None
    pool: ThreadPoolExecutor = field(default_factory=_pool, repr=False)

    def opened(self, server: NextHop, policy: TlsPolicy, transaction: Transaction) -> None:
        """A connection was opened."""
        seen: Security = "clear"
        if transaction.tls_version:
            seen = "verified" if transaction.tls_verified else "encrypted"
        self.count(seen)
        self._note(server, policy, transaction.tls_failure, "", seen)

    def failed(self, server: NextHop, policy: TlsPolicy, lost: HopLost) -> None:
        """A connection was not opened, for want of TLS if `lost` says so."""
        if lost.failure:
            self.count("failed")
            self._note(server, policy, lost.failure, str(lost), "")

    def close(self) -> None:
        """Write what is still to be written."""
        self.pool.shutdown()
        if self.results is not None:
            self.results.close()

    def _note(self, server: NextHop, policy: TlsPolicy, failure: str, reason: str, seen: Security) -> None:
        if not policy.domain:  # a server of the administrator's
            return
        if self.results is not None:
            shown = printable(reason, 300, ascii_only=True)
            result = result_of(policy, failure, server.host, server.address, shown)
            self.results.add(int(time.time()) // DAY, policy.domain, result)
        # Under DANE nothing is said about the certificate that counts elsewhere.
        if self.hosts is not None and seen and policy.level != "dane":
            self.pool.submit(self._remember, server.host, policy, seen)

    def _remember(self, host: str, policy: TlsPolicy, seen: Security) -> None:
        assert self.hosts is not None
        try:
            if seen == "encrypted" and not policy.probe and self.hosts.security(host) == "verified":
                return  # nobody looked at its certificate
            before = self.hosts.saw(host, seen)
        except StoreError as error:
            self.log.error("what a host offered is not remembered", error=printable(str(error), 200))
            return
        if before:
            self.count("downgraded")
            self.log.warning(
                "a host has less TLS than before", host=host, before=before, now=seen, domain=policy.domain
            )
