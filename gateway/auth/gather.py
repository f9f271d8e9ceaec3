# SPDX-License-Identifier: GPL-2.0-or-later
"""All checks of the sender of one message, side by side where that pays.

Reads nothing itself. The first questions of all checks go to the DNS at once, from one socket of the
calling thread. The checks then run in turn, in that thread: what they still need is mostly in
the cache, and handing work to another thread costs more processor time than a check. Only where
the DNS is slow does SPF, whose questions depend on each other, wait in a thread of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from gateway.auth.arc import arc_questions, check_arc
from gateway.auth.author import author_domain, author_domains
from gateway.auth.dkim import check_dkim, key_questions, read_signatures
from gateway.auth.dmarc import (
    evaluate,
    evaluate_authors,
    fetch,
    organizational_domain,
    record_questions,
)
from gateway.auth.iprev import check_iprev
from gateway.auth.signature import Material
from gateway.auth.spf import check_spf
from gateway.auth.upstream import relayed_dkim, relayed_iprev, relayed_results, relayed_spf
from gateway.dns import Lookup, Resolver
from gateway.mail.networks import address, inside, reverse_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from gateway.auth.dmarc import Found
    from gateway.auth.settings import AuthSettings
    from gateway.dns import Question
    from gateway.mail.types import Arc, Content, Dkim, Dmarc, Iprev, Mail, Spf

T = TypeVar("T")
_KEPT: Final = 60  # questions that no other check may take from DMARC: five authors and their tree walks
_SLOW: Final = 0.005  # seconds for the first answers, from which a thread for SPF pays


class Submit(Protocol):
    """An executor's `submit`."""

    def __call__(self, call: Callable[[], T], /) -> Future[T]: ...


@dataclass(frozen=True, slots=True)
class Authentication:
    """What the checks found; None or () is a check that was not made. Durations in milliseconds."""

    spf: tuple[Spf, ...] = ()
    dkim: tuple[Dkim, ...] = ()
    dmarc: Dmarc | None = None
    arc: Arc | None = None
    iprev: Iprev | None = None
    queries: int = 0  # questions to the DNS that the cache could not answer
    durations: dict[str, float] = field(default_factory=dict)


class _Clock:
    """Runs checks and notes how long each took."""

    def __init__(self) -> None:
        self.durations: dict[str, float] = {}

    def run(self, name: str, call: Callable[[], T]) -> T:
        start = time.monotonic()
        try:
            return call()
        finally:
            self.durations[name] = round((time.monotonic() - start) * 1000, 3)


def authenticate(
    mail: Mail,
    content: Content,
    resolver: Resolver,
    settings: AuthSettings,
    deadline: float,
    submit: Submit | None = None,
    *,
    hostname: str = "",
) -> Authentication:
    """Make all checks that are switched on, until `deadline` (monotonic seconds) at the latest.

    `submit` hands a call to a thread pool; without it all runs in this thread. `hostname` is
    ours. Never raises for what the message or the DNS says.
    """
    checks = _Checks(
        mail, content, Lookup(resolver, min(deadline, time.monotonic() + settings.timeout)), settings
    )
    clock = _Clock()
    slow = clock.run("dns", checks.ask_first)
    # With the DNS far away, SPF waits in a thread of its own.
    waiting = submit(lambda: clock.run("spf", lambda: checks.spf(hostname))) if slow and submit else None
    # Policies first: what a sender's own names cost in time and questions must not keep us from them.
    found = clock.run("dmarc", checks.records) if settings.dmarc else ()
    dkim = clock.run("dkim", checks.dkim) if settings.dkim else ()
    arc = clock.run("arc", checks.arc) if settings.arc else None
    iprev = clock.run("iprev", checks.iprev) if settings.iprev else None
    if waiting is not None and not waiting.cancel():  # a full pool has not begun: then do it here
        spf = waiting.result()
    else:
        spf = clock.run("spf", lambda: checks.spf(hostname)) if settings.spf else ()
    dmarc = checks.judge(found, spf, dkim) if settings.dmarc else None
    return Authentication(spf, dkim, dmarc, arc, iprev, checks.lookup.asked, clock.durations)


class _Checks:
    """The checks of one message, and what they share."""

    def __init__(self, mail: Mail, content: Content, lookup: Lookup, settings: AuthSettings) -> None:
        self.mail = mail
        self.content = content
        self.lookup = lookup
        self.others = lookup.sparing(_KEPT)
        self.settings = settings
        self.material = Material(content.fields, mail.raw, content.body_start)
        self.signatures = read_signatures(self.material, settings) if settings.dkim else ()
        self.domain, self.problem = author_domain(content) if settings.dmarc else ("", "")
        self.authors = (self.domain,) if self.domain else author_domains(content) if settings.dmarc else ()
        # Of too many nobody is asked, since the strictest policy counts in any case.
        self.too_many = "" in self.authors
        self.asked = () if self.too_many else self.authors
        self.relayed = inside(mail.session.client_ip, settings.trusted_relays)
        self.stated = relayed_results(content, settings.trusted_authserv_ids) if self.relayed else ()

    def ask_first(self) -> bool:
        """Ask what the checks will ask first; True if SPF is among them and the DNS took long."""
        settings, session = self.settings, self.mail.session
        questions: list[Question] = []
        for domain in self.asked:
            questions += record_questions(domain, settings.dmarc_method)
        client = None if self.relayed else address(session.client_ip)
        if settings.spf and client:
            names = (self.mail.envelope.mail_from.rpartition("@")[2], session.helo)
            questions += [(name, "TXT") for name in names if "." in name and not name.startswith("[")]
        if settings.iprev and client and not session.client_name:
            questions.append((reverse_name(str(client)), "PTR"))
        questions += key_questions(self.signatures)
        if settings.arc:
            questions += arc_questions(self.material, settings)
        start = time.monotonic()
        asked = self.lookup.prefetch(questions)
        return asked and settings.spf and time.monotonic() - start > _SLOW

    def spf(self, hostname: str) -> tuple[Spf, ...]:
        if self.relayed:
            return relayed_spf(self.stated, self.mail.envelope)
        forwarders = self.settings.trusted_forwarders
        return check_spf(
            self.mail.session,
            self.mail.envelope,
            self.others,
            hostname=hostname,
            trusted_forwarders=forwarders,
        )

    def dkim(self) -> tuple[Dkim, ...]:
        if self.settings.relayed_dkim and (said := relayed_dkim(self.stated, self.settings.max_signatures)):
            return said
        return check_dkim(self.material, self.signatures, self.others, self.settings)

    def arc(self) -> Arc:
        return check_arc(self.material, self.others, self.settings)

    def iprev(self) -> Iprev | None:
        return relayed_iprev(self.stated) if self.relayed else check_iprev(self.mail.session, self.others)

    def records(self) -> tuple[Found, ...]:
        """The policy records of the author domain, or of all that may be one."""
        method = self.settings.dmarc_method
        return tuple(fetch(domain, self.lookup, method) for domain in self.asked)

    def judge(self, records: tuple[Found, ...], spf: tuple[Spf, ...], dkim: tuple[Dkim, ...]) -> Dmarc:
        """Judge by the record of the author domain; without one, by those of all that may be one."""
        results = [evaluate(found, spf, dkim, self.organizational) for found in records]
        if self.domain:
            return results[0]
        return evaluate_authors(self.problem, results, too_many=self.too_many)

    def organizational(self, domain: str) -> str | None:
        return organizational_domain(domain, self.lookup, self.settings.dmarc_method)
