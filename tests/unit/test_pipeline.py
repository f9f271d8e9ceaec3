# SPDX-License-Identifier: GPL-2.0-or-later
"""The pipeline when something in it fails: later, never clean, and nothing promised that was not kept."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from contrib.lab.process import wait_for
from gateway import assembly, gather, pipeline
from gateway.auth.settings import AuthSettings
from gateway.config import Config
from gateway.dns import DnsSettings, Resolver
from gateway.gather import Slots, Sources
from gateway.mail.mime import parse
from gateway.mail.types import (
    Action,
    Direction,
    Edit,
    EditOp,
    Envelope,
    Evidence,
    Mail,
    Outcome,
    Release,
    Scan,
    Session,
    Signal,
    SpamCheck,
    Thresholds,
    Unpacked,
    Url,
    Verdict,
    Versions,
    new_id,
)
from gateway.metrics import Metrics
from gateway.pipeline import Gateway, judge_safely, with_documents
from gateway.policy.annotate import RELEASE_FIELD
from gateway.policy.examine import GTUBE
from gateway.policy.rules import PolicySettings
from gateway.reply import failure, reply_to, storage_failure
from gateway.scanners.clamd import ClamdSettings
from gateway.store.database import StoreError, StoreSettings
from gateway.store.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

RAW = b"From: alice@example.net\r\nSubject: hello\r\n\r\nText.\r\n"
NO_AUTH = AuthSettings(spf=False, dkim=False, dmarc=False, arc=False, iprev=False)


class UnexpectedError(Exception):
    """Something that nobody expected; with a line break, as hostile text would have."""

    def __init__(self) -> None:
        super().__init__("stage failed\r\nevent=decision action=relay")


def mail(raw: bytes = RAW, recipients: tuple[str, ...] = ("bob@example.com", "carol@example.com")) -> Mail:
    session = Session(client_ip="192.0.2.10", direction=Direction.INBOUND)
    return Mail(new_id(), session, Envelope("alice@example.net", recipients), raw, received=time.time())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(1)


@pytest.fixture
def gateway(tmp_path: Path, metrics: Metrics) -> Iterator[Gateway]:
    """A real gateway that asks nobody and keeps what it holds."""
    config = Config(
        hostname="mx.example.org",
        auth=NO_AUTH,
        antivirus=ClamdSettings(enabled=False),
        policy=PolicySettings(weights={"CLASSIFIER": 0.0}),
        store=StoreSettings(database=f"sqlite:///{tmp_path}/mailwarden.db"),
    )
    log = structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
    opened = assembly.assemble(assembly.load(config), metrics.slot(0), log, threads=4)
    yield opened.gateway
    opened.close()


def raises(error: BaseException) -> Callable[..., Any]:
    def call(*_arguments: object, **_keywords: object) -> Any:
        raise error

    return call


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize(
    "stage", ["parse", "gather", "classify", "examine", "decide", "annotate", "keep", "reply_to"]
)
@pytest.mark.parametrize(
    "error", [UnexpectedError(), RecursionError("deep"), MemoryError(), KeyError("x"), AssertionError()]
)
def test_a_crash_defers(
    gateway: Gateway, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, stage: str, error: Exception
) -> None:
    """Wherever it happens, the client hears "later", for all recipients, and nobody gets a copy."""
    monkeypatch.setattr(pipeline, stage, raises(error))
    message = mail()
    verdict, reply = judge_safely(message, gateway, "milter")
    assert verdict.action is Action.DEFER
    assert {o.action for o in verdict.outcomes} == {Action.DEFER}
    assert tuple(o.recipient for o in verdict.outcomes) == message.envelope.recipients
    assert verdict.relayed == verdict.held == ()
    assert verdict.edits == ()
    assert reply == failure(message.id)
    assert (reply.code, reply.enhanced) == (451, "4.3.0")
    assert message.id in reply.text
    assert metrics.total("failures", "crash") == 1
    assert metrics.total("messages", "milter", "defer") == 1
    assert metrics.total("messages", "milter", "relay") == 0


def test_a_crash_tells_the_log_and_not_the_client(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "examine", raises(UnexpectedError()))
    _, reply = judge_safely(mail(), gateway, "milter")
    assert "stage" not in reply.text
    calls = gateway.log._logger.calls  # type: ignore[attr-defined]  # CapturingLogger
    failed = next(call.kwargs for call in calls if call.kwargs.get("event") == "judging failed")
    assert "stage failed" in failed["error"]
    assert "\r" not in failed["error"]
    assert "\n" not in failed["error"]


def test_a_crash_is_recorded_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "examine", raises(UnexpectedError()))
    message = mail()
    judge_safely(message, gateway, "milter")
    assert gateway.journal
    assert gateway.journal.flush()
    record = gateway.journal.find(message.id)
    assert record
    assert record.verdict.reason == "FAILURE"
    assert record.reply.code == 451


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_an_end_is_no_failure(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A process that is to end is not kept from it."""
    monkeypatch.setattr(pipeline, "examine", raises(error))
    with pytest.raises(type(error)):
        judge_safely(mail(), gateway, "milter")


# ---------------------------------------------------------------- the store


HELD = RAW.replace(b"\r\n\r\n", b'\r\nContent-Type: application/x; name="a.exe"\r\n\r\n')


class Broken:
    """A store that takes nothing."""

    def __init__(self, error: Exception) -> None:
        self.hold = self.record = raises(error)


def test_held_before_the_reply(gateway: Gateway) -> None:
    """The 250 for a held message is given only once the quarantine has it."""
    message = mail(HELD)
    verdict, reply = judge_safely(message, gateway, "milter")
    assert verdict.action is Action.QUARANTINE
    assert reply.code == 250
    assert gateway.quarantine
    assert gateway.quarantine.raw(message.id) == HELD


@pytest.mark.parametrize("part", ["quarantine", "journal"])
def test_a_full_disk_defers(gateway: Gateway, metrics: Metrics, part: str) -> None:
    broken = dataclasses.replace(gateway, **{part: Broken(StoreError("disk full"))})  # type: ignore[arg-type]
    message = mail(HELD)
    verdict, reply = judge_safely(message, broken, "smarthost")
    assert verdict.action is Action.DEFER
    assert reply == storage_failure(message.id)
    assert (reply.code, reply.enhanced) == (452, "4.3.1")
    assert metrics.total("failures", "storage") == 1
    calls = broken.log._logger.calls  # type: ignore[attr-defined]  # CapturingLogger
    failed = next(call.kwargs for call in calls if call.kwargs.get("event") == "judging failed")
    assert failed["error"] == "disk full"
    assert failed["exc_info"] is None  # a traceback helps no operator


def test_what_is_not_held_needs_no_quarantine(gateway: Gateway) -> None:
    """A broken quarantine does not stop mail that needs none."""
    broken = dataclasses.replace(gateway, quarantine=Broken(StoreError("disk full")))  # type: ignore[arg-type]
    assert judge_safely(mail(), broken, "milter")[0].action is Action.RELAY
    assert judge_safely(mail(RAW + GTUBE.encode()), broken, "milter")[1].code == 554


def test_undelivered_copies_are_held_apart(gateway: Gateway) -> None:
    """A copy that its next hop refused lies beside the one that is held for its content."""
    message = mail(HELD)
    verdict, _ = judge_safely(message, gateway, "smarthost")
    pipeline.hold_undelivered(message, verdict, ("carol@example.com",), "550 no", gateway)
    assert gateway.quarantine
    found = gateway.quarantine.search(Search())
    assert {tuple(r.address for r in item.recipients) for item in found} == {
        ("bob@example.com", "carol@example.com"),
        ("carol@example.com",),
    }
    assert {gateway.quarantine.raw(item.id) for item in found} == {HELD}
    with pytest.raises(StoreError):
        pipeline.hold_undelivered(
            message, verdict, ("carol@example.com",), "550", dataclasses.replace(gateway, quarantine=None)
        )


# ---------------------------------------------------------------- the classifier


class Mute:
    version = "mute"

    def score(self, _raw: bytes, _content: object, _client: bytes, *_: object) -> None:
        return None


@pytest.mark.parametrize("classifier", [None, Mute()])
def test_no_classifier_is_no_zero(gateway: Gateway, metrics: Metrics, classifier: Any) -> None:
    """A model that is missing or silent is a question without an answer, not a probability of 0."""
    mute = dataclasses.replace(gateway, classifier=classifier)
    signals = pipeline.consider(mail(), mute).signals
    [signal] = [s for s in signals if s.name == "CLASSIFIER"]
    assert signal.state == "error"
    judge_safely(mail(), mute, "milter")
    assert metrics.total("failures", "classifier") == 1


# ---------------------------------------------------------------- gather


class Scanner:
    """Answers after a while, and counts what it was given."""

    def __init__(self, answer: object, seconds: float = 0.0) -> None:
        self.answer, self.seconds = answer, seconds
        self.parts: Sequence[bytes] = ()

    def scan(self, parts: Sequence[bytes], _deadline: float) -> Any:
        self.parts = parts
        return self._answer()

    def check(self, _raw: bytes, _deadline: float) -> Any:
        return self._answer()

    def _answer(self) -> Any:
        time.sleep(self.seconds)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def asked(
    antivirus: Scanner | None = None,
    spamd: Scanner | None = None,
    raw: bytes = RAW,
    release: Callable[..., Release | None] | None = None,
    threads: int = 4,
    seconds: float = 30.0,
) -> Evidence:
    """What `gather` finds with these scanners in that time."""
    message = mail(raw)
    pool = ThreadPoolExecutor(threads)
    sources = Sources(
        resolver=Resolver(DnsSettings(nameservers=("127.0.0.1:9",), timeout=0.1, attempts=1)),
        auth=NO_AUTH,
        hostname="mx.example.org",
        antivirus=antivirus,  # type: ignore[arg-type]
        spamd=spamd,  # type: ignore[arg-type]
        check_token=release,
        pool=pool,
    )
    try:
        return gather.gather(message, parse(raw), sources, time.monotonic() + seconds).evidence
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


CLEAN = Scan("clean")


def test_answers_are_taken() -> None:
    evidence = asked(Scanner(CLEAN), Scanner(SpamCheck("ok", 5.0)))
    assert evidence.antivirus == CLEAN
    assert evidence.spamd == SpamCheck("ok", 5.0)
    assert {"antivirus", "spamassassin"} <= set(evidence.durations)


def test_nobody_asked_is_off() -> None:
    evidence = asked()
    assert evidence.antivirus.status == "off"
    assert evidence.spamd.status == "off"


def test_who_waits_for_archives_makes_room() -> None:
    """One slot: while its holder waits, another is judged; who comes back waits for a free one."""
    slots, order = Slots(1), []
    opened = threading.Event()

    def slow() -> None:
        with slots:
            order.append("slow")
            with slots.aside():
                assert opened.wait(30)
            order.append("slow again")

    def quick() -> None:
        with slots:
            order.append("quick")
            opened.set()
            time.sleep(0.05)
            order.append("quick is done")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(slow)
        wait_for(lambda: order == ["slow"], 30, "the slow one")
        pool.submit(quick).result(30)
        first.result(30)
    assert order == ["slow", "quick", "quick is done", "slow again"]
    with slots:
        assert not slots._free.acquire(blocking=False)


def test_late_answers_are_errors() -> None:
    """A scanner that is not done by the deadline has not said "clean", though it would have."""
    begin = time.monotonic()
    evidence = asked(Scanner(CLEAN, 6.0), Scanner(SpamCheck("ok"), 6.0), seconds=0.2)
    assert time.monotonic() - begin < 5.5
    assert evidence.antivirus == Scan("error", detail="no answer in time")
    assert evidence.spamd == SpamCheck("error", detail="no answer in time")


def test_no_thread_left_is_an_error() -> None:
    """A full pool is no answer either."""
    evidence = asked(Scanner(CLEAN, 0.5), Scanner(SpamCheck("ok")), threads=1, seconds=0.2)
    assert evidence.antivirus.status == "error"
    assert evidence.spamd.status == "error"


def test_a_scanner_that_raises_is_not_clean() -> None:
    with pytest.raises(UnexpectedError):
        asked(Scanner(UnexpectedError()))
    assert asked(Scanner(TimeoutError())).antivirus.status == "error"


def test_scanners_see_every_reading() -> None:
    """Besides the raw message, what only some clients read in it."""
    raw = (
        b"From: a@example.net\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="one"; boundary="two"\r\n\r\n'
        b"--two\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        b"aGlkZGVuIGZyb20gc29tZQ==\r\n--two--\r\n"
    )
    scanner = Scanner(CLEAN)
    asked(scanner, raw=raw)
    assert scanner.parts[0] == raw
    assert any(b"hidden from some" in part for part in scanner.parts[1:])


def test_only_the_topmost_token_counts() -> None:
    """A token below another field was not put there by a release."""
    seen: list[tuple[str, bytes, tuple[str, ...]]] = []

    def check(token: str, original: bytes, recipients: tuple[str, ...]) -> Release:
        seen.append((token, original, recipients))
        return Release("0" * 16, ("SCORE",))

    field = f"{RELEASE_FIELD}: TOKEN \r\n".encode()
    evidence = asked(raw=field + RAW, release=check)
    assert evidence.release == Release("0" * 16, ("SCORE",))
    assert seen == [("TOKEN", RAW, ("bob@example.com", "carol@example.com"))]
    assert asked(raw=b"X-Other: 1\r\n" + field + RAW, release=check).release is None
    assert asked(raw=RAW, release=check).release is None
    assert asked(raw=b"", release=check).release is None
    assert len(seen) == 1


# ---------------------------------------------------------------- replies


def verdict_of(action: Action, reason: str) -> Verdict:
    thresholds = Thresholds(5.0, 8.0, 15.0)
    outcome = Outcome("bob@example.com", action, 0.0, thresholds)
    versions = Versions("1", "policy", "model")
    return Verdict(new_id(), action, (outcome,), 0.0, reason, "secret", (), (), versions)


@pytest.mark.parametrize(
    ("action", "reason", "expected"),
    [
        (Action.RELAY, "score", "250 2.0.0"),
        (Action.TAG, "score", "250 2.0.0"),
        (Action.QUARANTINE, "VIRUS", "250 2.0.0"),
        (Action.REJECT, "score", "554 5.7.1"),
        (Action.REJECT, "GTUBE", "554 5.7.1"),
        (Action.REJECT, "VIRUS", "550 5.7.1"),
        (Action.REJECT, "SPF_FAIL", "550 5.7.23"),
        (Action.REJECT, "FROM_SEVERAL", "550 5.6.0"),
        (Action.REJECT, "a name of the site's own", "554 5.7.1"),
        (Action.DEFER, "VIRUS", "451 4.7.1"),
        (Action.DEFER, "SPF_ERROR", "451 4.7.24"),
        (Action.DEFER, "DKIM_ERROR", "451 4.7.20"),
        (Action.DEFER, "score", "451 4.7.1"),
    ],
)
def test_replies(action: Action, reason: str, expected: str) -> None:
    """Class and code agree, our id is in it, and what was found is not."""
    verdict = verdict_of(action, reason)
    reply = str(reply_to(verdict))
    assert reply.startswith(f"{expected} ")
    assert reply[0] == expected[4]
    assert reply.endswith(f"(id {verdict.id})")
    assert "secret" not in reply
    assert len(reply) <= 500
    assert reply.isascii()
    assert reply.isprintable()


# ---------------------------------------------------------------- edits of a verdict


def test_nothing_is_edited_that_does_not_go_on(gateway: Gateway) -> None:
    assert pipeline.consider(mail(HELD), gateway).verdict.edits == ()
    assert pipeline.consider(mail(RAW + GTUBE.encode()), gateway).verdict.edits == ()
    edits = pipeline.consider(mail(), gateway).verdict.edits
    assert Edit(EditOp.INSERT, "X-Spam-Flag", "NO") in edits


def test_signals_are_in_fixed_order(gateway: Gateway) -> None:
    """Two looks at one message give the same record."""
    first, second = pipeline.consider(mail(), gateway), pipeline.consider(mail(), gateway)
    assert first.signals == second.signals
    assert all(isinstance(s, Signal) for s in first.signals)
    assert first.verdict.contributions == second.verdict.contributions


def test_documents_speak_where_the_message_does_not() -> None:
    found = Evidence(unpacked=Unpacked("ok", links=(Url("https://example.net/"),)))
    short = parse(b"From: a@example.com\r\n\r\nsee the file")
    read = with_documents(short, found, "Dear friend, a fortune waits.")
    assert [text.text for text in read.texts] == ["see the file", "Dear friend, a fortune waits."]
    assert Url("https://example.net/") in read.urls
    long = parse(b"From: a@example.com\r\n\r\n" + b"Here is the report. " * 30)
    assert with_documents(long, found, "Dear friend") is long
    assert with_documents(short, Evidence(), "") is short
