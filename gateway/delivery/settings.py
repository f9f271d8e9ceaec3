# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of the delivery agents: how the queue is emptied."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.settings import Count, Positive, Seconds, Settings

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
    # Seconds between two looks for work that nobody announced.
    poll: Seconds = 2.0
