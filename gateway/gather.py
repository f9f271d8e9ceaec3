# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask everything that needs the network or a scanner, side by side, under one deadline.

What does not answer in time is an error with that name, never a good answer. The order of the
results is fixed by their fields, whoever answered first.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from gateway.auth.gather import Authentication, authenticate
from gateway.mail import magic
from gateway.mail.findings import NOT_WHOLE
from gateway.mail.networks import inside
from gateway.mail.types import (
    Content,
    Direction,
    Evidence,
    Listing,
    Mail,
    Release,
    Scan,
    SpamCheck,
    Unpacked,
)
from gateway.policy.annotate import RELEASE_FIELD
from gateway.scanners.unpack.pool import Answer, without_unopened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from gateway.auth.settings import AuthSettings
    from gateway.dns import Resolver
    from gateway.lists import Lists
    from gateway.mail.senderrule import SenderRule
    from gateway.scanners.clamd import Clamd
    from gateway.scanners.spamd import Spamd
    from gateway.scanners.unpack.pool import Unpacker

T = TypeVar("T")
_NOT_OPENED = Answer(Unpacked("error", detail="no answer in time"))
_NOTHING_TO_OPEN = Answer(Unpacked("ok"))
_SILENT = (Listing("all lists", "client", "", status="error", reason="no answer in time"),)


WAITING = 3  # threads for each slot: two more messages may wait for archives


class Slots:
    """How many messages are judged at once; who waits for archives to be opened makes room for another."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def __enter__(self) -> Self:
        self._free.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._free.release()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Wait for something without keeping others waiting."""
        self._free.release()
        try:
            yield
        finally:
            self._free.acquire()


class Sources:
    """Whom to ask. A scanner that is None is not configured."""

    __slots__ = (
        "antivirus",
        "auth",
        "check_token",
        "hostname",
        "lists",
        "pool",
        "resolver",
        "senders",
        "slots",
        "spamd",
        "unpacker",
    )

    def __init__(
        self,
        *,
        resolver: Resolver,
        auth: AuthSettings,
        antivirus: Clamd | None,
        spamd: Spamd | None,
        check_token: Callable[[str, bytes, tuple[str, ...]], Release | None] | None,
        pool: Executor,
        hostname: str,
        unpacker: Unpacker | None = None,
        lists: Lists | None = None,
        slots: Slots | None = None,
        senders: Callable[[str, Sequence[str]], tuple[SenderRule, ...]] | None = None,
    ) -> None:
        self.senders = senders
        self.lists = lists
        self.slots = slots or Slots(1)
        self.resolver = resolver
        self.auth = auth
        self.antivirus = antivirus
        self.spamd = spamd
        self.check_token = check_token
        self.pool = pool
        self.hostname = hostname
        self.unpacker = unpacker


class Gathered(NamedTuple):
    """The evidence, and the words of attached documents, which no record keeps."""

    evidence: Evidence
    words: str = ""


def gather(mail: Mail, content: Content, sources: Sources, deadline: float) -> Gathered:
    """Return the evidence about one message; `deadline` is on `time.monotonic()`."""
    pool, antivirus, spamd = sources.pool, sources.antivirus, sources.spamd
    release = _release(mail, content, sources)
    now = time.monotonic()
    opening = sources.unpacker.submit(content, (now + deadline) / 2) if sources.unpacker else None
    scan = None
    if antivirus:
        scanned = partial(_scanned, antivirus, mail, content)
        scan = (
            _behind(opening, pool, scanned, deadline)
            if opening
            else pool.submit(scanned, _NOTHING_TO_OPEN, deadline)
        )
    check = pool.submit(_timed, spamd.check, mail.raw, deadline) if spamd else None
    listed = _ask_lists(mail, content, sources, opening, deadline) if release is None else None
    # What comes back from the quarantine comes from us: our address would fail the sender's SPF and DMARC.
    asked = mail.session.direction is Direction.INBOUND and release is None
    auth = (
        authenticate(
            mail, content, sources.resolver, sources.auth, deadline, pool.submit, hostname=sources.hostname
        )
        if asked
        else Authentication()
    )
    durations = dict(auth.durations)
    answer, spam = Scan("off"), SpamCheck("off")
    opened = None
    with sources.slots.aside() if opening else contextlib.nullcontext():
        if scan:
            answer, durations["antivirus"] = _wait(scan, deadline, Scan("error", detail="no answer in time"))
        if opening:
            opened, durations["unpack"] = _wait(opening, deadline, _NOT_OPENED)
    listings: tuple[Listing, ...] = ()
    if listed:
        listings, durations["lists"] = _wait(listed, deadline, _SILENT)
    if check:
        spam, durations["spamassassin"] = _wait(
            check, deadline, SpamCheck("error", detail="no answer in time")
        )
    evidence = Evidence(
        spf=auth.spf,
        dkim=auth.dkim,
        dmarc=auth.dmarc,
        arc=auth.arc,
        iprev=auth.iprev,
        queries=auth.queries,
        antivirus=answer,
        spamd=spam,
        lists=_proved(listings, auth),
        release=release,
        unpacked=opened.unpacked if opened else None,
        senders=_ruled(mail, content, sources) if asked else (),
        durations=durations,
    )
    return Gathered(evidence, opened.text if opened else "")


def _ruled(mail: Mail, content: Content, sources: Sources) -> tuple[SenderRule, ...]:
    """What reviewers ruled about the envelope sender and the authors."""
    if sources.senders is None:
        return ()
    return sources.senders(mail.envelope.mail_from, [address for _, address in content.from_addresses[:20]])


def _ask_lists(
    mail: Mail,
    content: Content,
    sources: Sources,
    opening: Future[tuple[Answer, float]] | None,
    deadline: float,
) -> Future[tuple[tuple[Listing, ...], float]] | None:
    """Send off the questions to the lists, if there are any."""
    if sources.lists is None:
        return None
    relayed = inside(mail.session.client_ip, sources.auth.trusted_relays)
    ask = partial(sources.lists.ask, relayed=relayed)
    return sources.pool.submit(_listed, ask, mail, content, opening, deadline)


def _listed(
    ask: Callable[[Mail, Content, float], tuple[Listing, ...]],
    mail: Mail,
    content: Content,
    opening: Future[tuple[Answer, float]] | None,
    deadline: float,
) -> tuple[tuple[Listing, ...], float]:
    """Ask the lists, about the links in attached documents as well."""
    if opening:
        opened, _ = _wait(opening, deadline, _NOT_OPENED)
        content = replace(content, urls=content.urls + opened.unpacked.links)
    return _timed(ask, mail, content, deadline)


def _proved(listings: tuple[Listing, ...], auth: Authentication) -> tuple[Listing, ...]:
    """Leave out what is said about domains whose signatures do not verify."""
    signed = [f".{d.domain.lower()}" for d in auth.dkim if d.result == "pass"]
    return tuple(x for x in listings if x.asked != "dkim" or any(d.endswith(f".{x.item}") for d in signed))


def _timed(ask: Callable[..., T], *arguments: object) -> tuple[T, float]:
    started = time.monotonic()
    answer = ask(*arguments)
    return answer, round((time.monotonic() - started) * 1000, 2)


def _behind(
    opening: Future[tuple[Answer, float]],
    pool: Executor,
    scanned: Callable[[Answer, float], tuple[Scan, float]],
    deadline: float,
) -> Future[tuple[Scan, float]]:
    """Scan once archives are opened; no thread waits for that."""
    scan: Future[tuple[Scan, float]] = Future()

    def hand_on(done: Future[tuple[Scan, float]]) -> None:
        if done.cancelled():
            return
        if error := done.exception():
            scan.set_exception(error)
        else:
            scan.set_result(done.result())

    def begin(opened: Future[tuple[Answer, float]]) -> None:
        with contextlib.suppress(RuntimeError, CancelledError):  # the worker ends, and nobody waits any more
            pool.submit(scanned, opened.result()[0], deadline).add_done_callback(hand_on)

    opening.add_done_callback(begin)
    return scan


def _scanned(
    antivirus: Clamd, mail: Mail, content: Content, opened: Answer, deadline: float
) -> tuple[Scan, float]:
    """Scan a message, and with it what the scanner cannot unpack by itself.

    What goes beyond a limit is not shown to it: that is held in any case, and would keep the scanner
    from ordinary mail, with a thread for seconds at each bomb. All else is, since an infection says more.
    ClamAV's time is quadratic in parts, uuencoded files too: of too many it sees those that were read.
    """
    limits = [f.attachment for f in opened.unpacked.findings if f.kind == "limit"]
    if opened.late:  # nothing was opened in time, and a bomb would take the scanner's time next
        limits = [-1]
    if limits:
        parts = without_unopened(mail.raw, content, min(limits))
        beyond = "a limit of unpacking"
    elif NOT_WHOLE.intersection(content.limits):
        parts, beyond = content.readings, "a limit of parts"
    else:
        parts, beyond = (as_message(mail.raw), *content.readings), ""
    scan, taken = _timed(antivirus.scan, (*parts, *opened.parts), deadline)
    if not beyond or scan.status == "infected":
        return scan, taken
    return replace(scan, status="limit", name="", detail=f"not scanned in full: beyond {beyond}"), taken


def as_message(raw: bytes) -> bytes:
    """Give a scanner no reason to take a message for another kind of file.

    ClamAV goes by the first octets: a message whose first field is "GIF89a: x", and many whose first
    field is merely unusual, is no message to it, and its parts are not looked at.
    """
    return raw if magic.starts_message(raw) else b"Received: by localhost\r\n" + raw


def _wait(future: Future[tuple[T, float]], deadline: float, otherwise: T) -> tuple[T, float]:
    started = time.monotonic()
    try:
        return future.result(max(0.0, deadline - started) + 0.05)
    except NoAnswer:
        return otherwise, round((time.monotonic() - started) * 1000, 2)


def _release(mail: Mail, content: Content, sources: Sources) -> Release | None:
    """Check the token of a message that comes back from the quarantine.

    Only the topmost field counts, and the rest must be the held message to the octet.
    """
    if (
        sources.check_token is None
        or not content.fields
        or content.fields[0].name.lower() != RELEASE_FIELD.lower()
    ):
        return None
    token = content.fields[0]
    original = mail.raw[len(token.raw) + 2 :]
    return sources.check_token(
        token.value.decode("ascii", "replace").strip(), original, mail.envelope.recipients
    )
