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
from gateway.auth.dkim import check_dkim, key_questions, read_signatures
from gateway.auth.dmarc import Found, author_domain, evaluate, fetch, organizational_domain, record_questions
from gateway.auth.iprev import check_iprev
from gateway.auth.signature import Material
from gateway.auth.spf import check_spf
from gateway.dns import Lookup, Resolver, reverse_name
from gateway.mail.networks import address

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from gateway.auth.dkim import Signature
    from gateway.auth.settings import AuthSettings
    from gateway.dns import Question
    from gateway.mail.types import Arc, Content, Dkim, Dmarc, Iprev, Mail, Spf

T = TypeVar("T")
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
    lookup = Lookup(resolver, min(deadline, time.monotonic() + settings.timeout))
    clock = _Clock()
    material = Material(content.fields, mail.raw, content.body_start)
    signatures = read_signatures(material, settings) if settings.dkim else ()
    domain, problem = author_domain(content) if settings.dmarc else ("", "")
    slow = clock.run("dns", lambda: _ask_first(mail, material, signatures, domain, lookup, settings))

    def spf() -> tuple[Spf, ...]:
        return check_spf(
            mail.session,
            mail.envelope,
            lookup,
            hostname=hostname,
            trusted_forwarders=settings.trusted_forwarders,
        )

    waiting = submit(lambda: clock.run("spf", spf)) if settings.spf and slow and submit else None
    dkim = (
        clock.run("dkim", lambda: check_dkim(material, signatures, lookup, settings)) if settings.dkim else ()
    )
    arc = clock.run("arc", lambda: check_arc(material, lookup, settings)) if settings.arc else None
    iprev = clock.run("iprev", lambda: check_iprev(mail.session, lookup)) if settings.iprev else None
    found = Found("permerror", reason=problem)
    if settings.dmarc and domain:
        found = clock.run("dmarc", lambda: fetch(domain, lookup, settings.dmarc_method))
    spf_results: tuple[Spf, ...] = ()
    if waiting is not None and not waiting.cancel():  # a full pool has not begun: then do it here
        spf_results = waiting.result()
    elif settings.spf:
        spf_results = clock.run("spf", spf)
    dmarc = None
    if settings.dmarc:
        dmarc = evaluate(
            found,
            spf_results,
            dkim,
            lambda name: organizational_domain(name, lookup, settings.dmarc_method),
        )
    return Authentication(spf_results, dkim, dmarc, arc, iprev, clock.durations)


def _ask_first(
    mail: Mail,
    material: Material,
    signatures: tuple[Signature | Dkim, ...],
    domain: str,
    lookup: Lookup,
    settings: AuthSettings,
) -> bool:
    """Ask what the checks will ask first; True if the DNS took long to answer."""
    questions: list[Question] = []
    client = address(mail.session.client_ip)
    if settings.spf and client:
        names = (mail.envelope.mail_from.rpartition("@")[2], mail.session.helo)
        questions += [(name, "TXT") for name in names if "." in name and not name.startswith("[")]
    questions += key_questions(signatures)
    if settings.arc:
        questions += arc_questions(material, settings)
    if domain:
        questions += record_questions(domain, settings.dmarc_method)
    if settings.iprev and client and not mail.session.client_name:
        questions.append((reverse_name(str(client)), "PTR"))
    start = time.monotonic()
    return lookup.prefetch(questions) and time.monotonic() - start > _SLOW
