# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections to the web page that do not stay for nothing: each says soon what it wants, and nobody has all.

Counts connections of whoever connects. uvicorn bounds how many there are, and waits for the head of a request
for ever; so some that never say anything would keep everybody else out. Reverse proxies stand for many
people, and so does this machine.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.mail.networks import address, inside, same_client

if TYPE_CHECKING:
    import asyncio

SECONDS: Final = 15.0  # for the head of a request
MOST: Final = 30  # connections of one client


def protocol(proxies: tuple[str, ...], seconds: float = SECONDS, most: int = MOST) -> type[H11Protocol]:
    """HTTP for uvicorn, in which a client has `most` connections, and `seconds` for each request's head."""
    here: Counter[str] = Counter()

    class Bounded(H11Protocol):
        """One connection."""

        _who = ""  # who is counted; "" for nobody
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as theirs
            """Count it, and wait for its first request."""
            super().connection_made(transport)
            self._who = _counted(self.client[0] if self.client else "", proxies)
            here[self._who] += 1
            if self._who and here[self._who] > most:
                transport.abort()
            else:
                self._wait()

        def data_received(self, data: bytes) -> None:
            """Go on waiting until there is a whole head."""
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop()
            elif self._timer is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            """It is over."""
            self._stop()
            here[self._who] -= 1
            if not here[self._who]:
                del here[self._who]
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._timer = self.loop.call_later(seconds, self.transport.abort)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Bounded


def _counted(client: str, proxies: tuple[str, ...]) -> str:
    """Under which name a client's connections are counted, "" if they are not."""
    found = address(client)
    local = isinstance(found, ipaddress.IPv4Address | ipaddress.IPv6Address) and found.is_loopback
    return "" if local or inside(client, proxies) else same_client(client)
