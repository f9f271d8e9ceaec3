# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of what leaves: how the queue is emptied, how held mail is released and by whom."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.delivery.routes import parse_route
from gateway.settings import Count, Positive, Seconds, Settings

Pause = Annotated[float, msgspec.Meta(ge=0, le=3_600)]
Lifetime = Annotated[int, msgspec.Meta(ge=1, le=2_592_000)]


class QueueSettings(Settings, frozen=True, kw_only=True):
    """The queue of the smart host, and the agents that empty it."""

    # Processes that deliver. One is enough for hundreds of messages a second.
    workers: Positive = 1
    # Most connections at a time to one next hop, and in all, of each process.
    concurrency: Positive = 20
    connections: Positive = 200
    # Seconds until the first retry; each further one waits twice as long, up to the longest, give or
    # take a quarter.
    retry_first: Seconds = 60.0
    retry_longest: Seconds = 3_600.0
    # Longest pause, in seconds, in which a next hop that cannot be reached is not tried at all.
    pause_longest: Seconds = 60.0
    # Seconds after which what cannot be delivered goes back to its sender.
    lifetime: Lifetime = 432_000
    # Seconds after which the sender of waiting mail is told, once; 0: never.
    delay_notice: Count = 14_400
    # Seconds for which mail is kept that was refused for good and whose sender may not be told.
    undeliverable: Lifetime = 604_800
    # Seconds for which a connection without work stays open, and most messages sent over one.
    idle: Seconds = 5.0
    reuse: Positive = 100
    # Octets of messages under way at a time in each process.
    memory_limit: Positive = 268_435_456
    # Seconds without a sign of life after which other processes take over what one had begun.
    lease: Seconds = 60.0
    # Folder in which agents note what they have delivered until the database knows, so that mail is not
    # doubled when one is killed. Empty: "receipts" beside the database file, or in /var/lib/mailwarden.
    receipts: str = ""
    # Seconds between two looks for work that nobody announced.
    poll: Seconds = 2.0


class ReleaseSettings(Settings, frozen=True):
    """Where released messages go."""

    # "smtp:host:port" to bring them back into Postfix (they pass the milter with a token of ours), or
    # "": into the queue where the smart host has one, else straight to the next hop of the route.
    next_hop: str = ""
    # Seconds in which a release or a deletion of one message can be undone before it is done.
    undo_seconds: Pause = 0.0
    # Seconds in which a release or a deletion of many messages at once can be undone before it is done.
    undo_seconds_bulk: Pause = 10.0
    # Ask the virus scanner again before a message goes out.
    scan_again: bool = True
    # Logins of this machine that may release malware, where they say so aloud (--infected).
    administrators: tuple[str, ...] = ("root",)

    # Reasons that the recipient of a held message may answer, from a digest or on the web page, such as
    # "score": what is held for nothing else is then delivered without a reviewer. For all else they can ask.
    users: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.next_hop:
            parse_route(self.next_hop)
        if any(reason.upper().startswith("VIRUS") for reason in self.users):
            raise ValueError("users do not release malware: take VIRUS out of [release] users")
