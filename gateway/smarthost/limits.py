# SPDX-License-Identifier: GPL-2.0-or-later
"""How many connections one client may have, and how fast it may go. No I/O; the clock is passed in.

Reads client addresses, an IPv6 client being its /64, and its network the /24 or /48 around it. What is
remembered lies in `ledger`, which all workers share, and whose size is fixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gateway.mail.networks import network_of
from gateway.settings import Count, Positive, Settings

if TYPE_CHECKING:
    from gateway.ledger import Ledger, Presence

What = Literal["connections", "messages", "recipients", "errors"]
_MINUTE = 60.0


class RateSettings(Settings, frozen=True, kw_only=True):
    """The [smarthost.rates] table: what one client may do in a minute, in all workers; 0 is no limit.

    Peers in relay_networks, xclient_networks and xforward_networks, and those on this machine, have none.
    Who has logged in is counted by login, and not by address.
    """

    # Connections.
    connections: Count = 1200
    # Messages.
    messages: Count = 3000
    # Recipients.
    recipients: Count = 12_000
    # Errors, after which it is not let in before its minute is over.
    errors: Count = 300
    # How many times as much a network may do (the /24 of an IPv4 client, the /48 of an IPv6 client).
    network_factor: Positive = 4


class Rates:
    """What each client did lately, as the time when it will be as if it had done nothing."""

    def __init__(self, settings: RateSettings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger

    def take(self, what: What, client: str, now: float, *, network: bool = True) -> bool:
        """Count one of `what` for `client`; whether it is within the limits.

        What is beyond a limit is not counted: who goes on trying is served at the rate of the limit.
        """
        limit: int = getattr(self._settings, what)
        if not limit:
            return True
        wide = network_of(client) if network else ""
        keys = [(f"{what} {client}", limit)]
        if wide:
            keys.append((f"{what} {wide}", limit * self._settings.network_factor))
        with self._ledger as ledger:
            new = [(key, max(ledger.get(key, now), now) + _MINUTE / many) for key, many in keys]
            if any(until - now > _MINUTE for _, until in new):
                return False
            for key, until in new:
                ledger.put(key, until, until)
        return True

    def spent(self, what: What, client: str, now: float) -> bool:
        """Whether `client` has nothing left of `what`."""
        limit: int = getattr(self._settings, what)
        if not limit:
            return False
        with self._ledger as ledger:
            return ledger.get(f"{what} {client}", now) - now > _MINUTE - _MINUTE / limit


class Crowd:
    """Who is here: connections by client and by network, of all workers; this one's are in `row`."""

    def __init__(self, presence: Presence, row: int = 0) -> None:
        self._presence, self._row = presence, row

    def enter(self, client: str) -> tuple[int, int]:
        """Count `client` in; how many it has now, and how many its network has."""
        keys = (client, network_of(client))
        for key in keys:
            self._presence.enter(self._row, key)
        return self._presence.count(keys[0]), self._presence.count(keys[1])

    def leave(self, client: str) -> None:
        """Count `client` out."""
        for key in (client, network_of(client)):
            self._presence.leave(self._row, key)
