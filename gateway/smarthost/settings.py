# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door's settings, and the values it is built from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.delivery.client import RelayTimeouts
from gateway.delivery.ways import Ways
from gateway.ledger import Ledger, Presence
from gateway.mail.networks import network
from gateway.settings import Count, Positive, Seconds, Settings
from gateway.smarthost.limits import Crowd, RateSettings
from gateway.tls.inbound import OfferedVersion

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from gateway.delivery.routes import Routes
    from gateway.log import Log
    from gateway.logins.sources import Logins
    from gateway.mail.types import Mail, Reply, Session, Verdict
    from gateway.store.deliveries import Delivery
    from gateway.store.queued import Outgoing


@dataclass(frozen=True, slots=True)
class Listener:
    """How the clients of one address are served. `name` is what rules know it by."""

    name: str
    submission: bool = False  # clients must log in
    implicit_tls: bool = False  # TLS comes first


class SmarthostSettings(Settings, frozen=True, kw_only=True):
    """The [smarthost] table. Limits on one client and its network are those of all workers together."""

    # Addresses to listen on, such as "127.0.0.1:10024" or "[::]:25". Empty: the door stays shut.
    listen: tuple[str, ...] = ()
    # Its name, for rules that ask through which door a message came; those below are called
    # "submission" and "submissions".
    name: str = "smarthost"
    # The same for submission (RFC 6409), usually port 587: who is to send there must log in, over TLS.
    submission: tuple[str, ...] = ()
    # The same for submission with TLS from the first octet (RFC 8314), usually port 465.
    submissions: tuple[str, ...] = ()
    # Our name in the greeting, in EHLO to next hops and in Received. Empty: the host's own name.
    hostname: str = ""
    # PEM files of the certificate (with its chain) and the key for STARTTLS. Empty: no STARTTLS.
    certificate: str = ""
    key: str = ""
    # PEM file of the CAs whose client certificates are accepted. One is asked for only where a row of
    # [[tls.inbound]] may want it, and must verify then; a row without client_networks asks everybody.
    client_ca_file: str = ""
    # The oldest TLS version offered.
    minimum_version: OfferedVersion = "TLSv1.2"
    # Networks of proxies that open connections for others. Each connection must begin with a PROXY header,
    # version 1 or 2, and whom that names is the client from then on.
    proxy_networks: tuple[str, ...] = ()
    # Networks whose clients may replace the client's identity with XCLIENT, or pass it with XFORWARD.
    xclient_networks: tuple[str, ...] = ()
    xforward_networks: tuple[str, ...] = ()
    # Networks whose clients' mail goes on as it is, plain relaying: nothing looks at it, nothing is signed,
    # and the journal has no record of it. A client told by XCLIENT counts, one told by XFORWARD does not.
    unjudged_networks: tuple[str, ...] = ()
    # Largest message, in octets.
    size_limit: Positive = 52_428_800
    # Most recipients of a message.
    recipient_limit: Positive = 1000
    # Errors, and commands that lead to no message, after which a client is sent away.
    error_limit: Positive = 20
    junk_limit: Positive = 100
    # Most Received fields of a message; more are a loop.
    hop_limit: Positive = 50
    # Most connections of each worker, and of one client (an IPv6 client is its /64). Peers in
    # relay_networks or one of the networks above are not counted as one client.
    connection_limit: Positive = 1000
    client_connection_limit: Positive = 50
    # Most connections of one network: the /24 of an IPv4 client, the /48 of an IPv6 client.
    network_connection_limit: Positive = 200
    rates: RateSettings = RateSettings()
    # Seconds for one command to arrive; a tenth of it when four fifths of the connections are in use.
    command_timeout: Seconds = 300.0
    # Seconds in which some of a message must arrive, and its least octets per second after a minute.
    data_timeout: Seconds = 180.0
    data_rate: Count = 500
    # Seconds after which a judgement that has not come is a temporary failure.
    judge_timeout: Seconds = 240.0
    # Worker processes.
    workers: Positive = 2
    # Judgements at a time in each worker; twice as many more may wait for their archives.
    threads: Positive = 8
    # Octets of messages held in memory in each worker; above it, new ones are put off with 452.
    memory_limit: Positive = 536_870_912
    # true: a message is on disk before the client hears 250, and the agents of [queue] deliver it.
    # false: there is no queue, and the client hears 250 when the next hop has taken the message.
    queue: bool = True
    # With the queue: ask the next hop at RCPT whether it knows a recipient in one of our domains, so
    # that unknown users are refused and not bounced. A next hop that does not answer refuses nobody.
    verify_recipients: bool = True
    # Seconds for which its answer is remembered.
    verify_seconds: Seconds = 3_600.0
    # The time limits of the client that speaks to next hops.
    relay: RelayTimeouts = RelayTimeouts()

    def __post_init__(self) -> None:
        listed = (self.proxy_networks, self.xclient_networks, self.xforward_networks, self.unjudged_networks)
        for text in (one for networks in listed for one in networks):
            network(text)
        for text in self.addresses:
            listen_address(text)
        if (self.submission or self.submissions) and not self.certificate:
            raise ValueError("submission needs TLS: set certificate and key")
        if self.key and not self.certificate:
            raise ValueError("there is a key without a certificate, and so no STARTTLS")

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses to listen on, as they are written."""
        return (*self.listen, *self.submission, *self.submissions)

    @property
    def listeners(self) -> dict[str, Listener]:
        """All addresses to listen on, and how each is served."""
        return {
            **{text: Listener(self.name) for text in self.listen},
            **{text: Listener("submission", submission=True) for text in self.submission},
            **{
                text: Listener("submissions", submission=True, implicit_tls=True) for text in self.submissions
            },
        }


@dataclass(frozen=True, slots=True)
class Judgement:
    """The house behind the door.

    `judge` blocks, and is called in a thread: the verdict, and the reply that goes with it. What
    it holds is durable when it returns. `admit` is called on the event loop, at MAIL (recipient
    None) and at each RCPT: a refusal, or None. `hold_undelivered` blocks, and is called in a
    thread: keep the message in quarantine, durably, for recipients whose next hop refused it
    after it had taken it for others; it raises if it cannot. `note` is told, where there is no queue,
    what the next hop answered for a recipient; it neither blocks for long nor raises. `takes` says
    at RCPT, on the event loop, whether `judge` will take the copy of this recipient itself, so that no next
    hop is asked for it.
    """

    judge: Callable[[Mail], tuple[Verdict, Reply]]
    admit: Callable[[Session, str | None, str | None], Reply | None]
    hold_undelivered: Callable[[Mail, Verdict, tuple[str, ...], str], None]
    note: Callable[[Delivery], None] = lambda _end: None
    takes: Callable[[Session, str], bool] = lambda _session, _recipient: False


@dataclass(frozen=True, slots=True)
class Door:
    """All that a worker of this door is given."""

    settings: SmarthostSettings
    hostname: str
    judgement: Judgement
    routes: Routes
    domains: tuple[str, ...]  # those for which everybody may send mail to us
    relay_networks: tuple[str, ...]  # those whose clients may send mail for any domain
    log: Log = field(repr=False)
    ways: Ways = field(default_factory=Ways)
    submit: Callable[[Outgoing], Future[None]] | None = None  # into the queue; None: there is none
    room: Callable[[int], bool] = lambda _octets: True  # whether the queue's disk takes so many octets
    logins: Logins | None = None  # None: nobody can log in
    lifetime: float = 432_000.0  # seconds that queued mail is tried
    count: Callable[[str], None] = field(default=lambda _what: None, repr=False)  # "connections", "refused"
    grace: float = 30.0  # seconds that messages on their way get when a worker is told to stop
    # What all workers know of clients together.
    ledger: Ledger = field(default_factory=Ledger, repr=False)
    crowd: Crowd = field(default_factory=lambda: Crowd(Presence()), repr=False)


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of a listen address; raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) < 65_536:
        raise ValueError(f'"{text}" is not an address such as "127.0.0.1:10024" or "[::]:25"')
    return host.removeprefix("[").removesuffix("]"), int(port)
