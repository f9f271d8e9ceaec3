# SPDX-License-Identifier: GPL-2.0-or-later
"""One process for what is nobody else's: metrics and health, retention, releases, digests, learning."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.assembly import assemble, demands, post, ways
from gateway.classifier.mapping import ModelError
from gateway.classifier.model import Model
from gateway.data import data_dir
from gateway.delivery.release import outfit, send
from gateway.delivery.routes import routes
from gateway.digest.send import LATEST, last_slot, send_all
from gateway.feedback import folders, owners
from gateway.health import HealthServer
from gateway.learning import Learner
from gateway.mail.headers import printable
from gateway.rescan import rescan_all
from gateway.scanners.clamd import Clamd, signatures_made
from gateway.store import deliveries, dmarc, hosts, retention, tlsrpt
from gateway.store.database import Database, StoreError, open_database, state_directory
from gateway.store.grants import Grants
from gateway.store.journal import Journal
from gateway.store.quarantine import Quarantine
from gateway.store.samples import Samples

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from gateway.assembly import Loaded
    from gateway.config import Config
    from gateway.delivery.release import Sender
    from gateway.digest.send import Post
    from gateway.log import Log
    from gateway.metrics import Counters, Metrics
    from gateway.pipeline import Gateway
    from gateway.scanners.clamd import ClamdSettings
    from gateway.tls.policies import Policies

_ROUND = 600.0  # seconds between two rounds of retention
_HOUR = 3_600.0
_DAY = 86_400.0
_FOLLOW = 0.4  # seconds between two looks at what is to be learned, here and on other nodes
_BREATH = 0.05  # seconds between two held messages that are judged again: mail goes first
_LOOK = 1.0  # seconds between two looks for releases that are due
_HEAD_START = 3.0  # seconds that the command that decided a release has to send it itself
_NEARLY = 0.9  # of the quota, from which on it is told
_DIGEST_LOOK = 30.0  # seconds between two looks whether digests are due
_VERSION_TIMEOUT = 10.0  # seconds for the versions of all antivirus servers


def serve(
    loaded: Loaded, listener: socket.socket | None, metrics: Metrics, counters: Counters, log: Log
) -> None:
    """Work until SIGTERM ends the process: nothing here needs to be finished.

    Metrics and health are served on `listener`, if there is one.
    """
    settings = loaded.config
    watch = SignatureWatch(settings.antivirus, counters, log) if settings.antivirus.enabled else None
    database = open_database(settings.store)
    if listener is not None:
        _begin(log, "http", HealthServer(listener, metrics, database).serve_forever)
    if (path := settings.classifier.site_path(state_directory(settings.store))) is not None:
        fixed = data_dir("models") / "regression"
        learner = Learner(Samples(database), settings.classifier, _base(settings, log), path, fixed)
        _begin(log, "site model", follow, learner, log)
        if settings.classifier.per != "site":
            _begin(log, "owners", owners.follow, learner, log)
        if settings.learning.imap:
            _begin(log, "folders", folders.follow, settings.learning.imap, learner, log)
    sender = outfit(
        settings.release,
        routes(settings.routes, settings.next_hop),
        ways(settings, loaded.hop_logins, database),
        settings.name,
        settings.antivirus,
        settings.queue_lifetime,
    )
    _begin(log, "releases", release, Quarantine(database, settings.store), sender, log)
    if settings.digest.enabled:
        with_ = post(settings, loaded.signing, loaded.hop_logins)
        _begin(log, "digests", tell, Quarantine(database, settings.store), with_, log)
    if settings.rescan.enabled:
        opened = assemble(loaded, counters, log, threads=4)
        _begin(log, "re-scan", judge_again, opened.gateway, settings)
    if (policies := demands(settings, database).policies) is not None:
        _begin(log, "policies", refresh, policies, log)
    while True:
        try:
            tidy(settings, database)
            bound(settings, database, counters, log)
        except StoreError as error:
            log.error("retention failed", error=printable(str(error), 200))
        if watch:
            watch.look()
        time.sleep(_ROUND)


def _begin(log: Log, name: str, work: Callable[..., None], *arguments: object) -> threading.Thread:
    """Do endless `work` in a thread. If it fails, so does the process, and the supervisor starts it anew."""

    def run() -> None:
        try:
            work(*arguments)
        except Exception as error:  # a defect of ours: said once, and nothing stops unnoticed
            log.error("housekeeper failed", at=name, error=printable(repr(error), 300), exc_info=error)
            os._exit(1)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def _base(settings: Config, log: Log) -> Model | None:
    """The base model, for the gate; without it, reports are measured on the site's own samples alone."""
    try:
        named = settings.classifier.model
        return Model.load(Path(named) if named else data_dir("models") / "base")
    except ModelError as error:
        log.error("the base model is unavailable", error=printable(str(error), 200))
        return None


def follow(learner: Learner, log: Log) -> None:
    """Learn what people reported, and bring this node's site model up to what other nodes learned."""
    problem = ""
    while True:
        try:
            if (outcome := learner.take_in()) is not None:
                log.info("reports taken in", **outcome.told())
                for report in (one for one in outcome.reports if not one.passed):
                    log.warning("reports refused, since the model became worse", why=report.why)
            if learner.behind():
                learner.catch_up()
            problem = ""
        except (StoreError, ModelError, OSError) as error:
            if str(error) != problem:  # once, not every second
                problem = str(error)
                log.error("the site's model is not up to date", error=printable(problem, 200))
        time.sleep(_FOLLOW)


def judge_again(gateway: Gateway, settings: Config) -> None:
    """Judge held mail again when rules, model or signatures are others than those that judged it last."""
    assert gateway.quarantine is not None
    while True:
        try:
            engine = _engine(settings)
            for done in rescan_all(gateway, gateway.quarantine, engine, settings.rescan):
                found = printable(done.infection, 200)
                gateway.log.info("judged again", id=done.item, passes=done.passes, found=found, did=done.did)
                time.sleep(_BREATH)
        except StoreError as error:
            gateway.log.error("held mail is not judged again", error=printable(str(error), 200))
        time.sleep(_ROUND)


def _engine(settings: Config) -> str:
    """The version of the virus scanner's signatures, as verdicts have it; "" if none is asked."""
    if not settings.antivirus.enabled:
        return ""
    found = Clamd(settings.antivirus).versions(time.monotonic() + _VERSION_TIMEOUT)
    return next((version for version in found.values() if version), "")


def refresh(policies: Policies, log: Log) -> None:
    """Fetch MTA-STS policies anew before they expire."""
    while True:
        try:
            if count := policies.refresh():
                log.info("MTA-STS policies refreshed", count=count)
        except StoreError as error:
            log.error("MTA-STS policies are not refreshed", error=printable(str(error), 200))
        time.sleep(_ROUND)


def release(quarantine: Quarantine, sender: Sender, log: Log) -> None:
    """Do releases and deletions that are due and that nobody else does: those left to us, and of the dead."""
    while True:
        try:
            send_due(quarantine, sender, log)
            delete_due(quarantine, log)
        except StoreError as error:
            log.error("releases and deletions are not done", error=printable(str(error), 200))
        time.sleep(_LOOK)


def send_due(quarantine: Quarantine, sender: Sender, log: Log, head_start: float = _HEAD_START) -> int:
    """Send what is due for longer than the `head_start` that commands have; how many were sent."""
    count = 0
    for order in quarantine.decisions.due(time.time() - head_start):
        done = send(quarantine, sender, order)
        if done is None:
            continue
        count += 1
        for recipient, error in done.failed.items():
            shown = printable(recipient, 320), printable(error, 300)
            log.warning("release failed", id=done.item, recipient=shown[0], error=shown[1])
        if done.delivered:
            log.info("released", id=done.item, recipients=len(done.delivered), by=printable(order.who, 100))
    return count


def delete_due(quarantine: Quarantine, log: Log, head_start: float = _HEAD_START) -> int:
    """Delete what was to be deleted longer ago than the `head_start` that commands have; how many."""
    count = 0
    for order in quarantine.decisions.doomed(time.time() - head_start):
        if quarantine.delete_due(order):
            count += 1
            log.info("deleted", id=order.item, by=printable(order.who, 100))
    return count


def tell(quarantine: Quarantine, with_: Post, log: Log) -> None:
    """Send digests when they are due."""
    done = 0.0
    while True:
        slot = last_slot(with_.settings, time.time())
        if slot > done and time.time() - slot < LATEST:
            try:
                results = list(send_all(quarantine, with_, slot))
                for one in results:
                    if one.status != "nothing":
                        what = {"to": printable(one.address, 320), "messages": one.count, "about": one.about}
                        log.info("digest", became=one.status, **what, note=printable(one.note, 200))
                if not any(one.status == "deferred" for one in results):
                    done = slot
                Grants(quarantine.database).prune()
            except StoreError as error:
                log.error("digests are not sent", error=printable(str(error), 200))
        time.sleep(_DIGEST_LOOK)


class SignatureWatch:
    """Looks how old the antivirus signatures are: a gauge, and a log line an hour while they are stale."""

    def __init__(self, settings: ClamdSettings, counters: Counters, log: Log) -> None:
        self._clamd = Clamd(settings)
        self._counters = counters
        self._log = log
        self._said: dict[str, float] = {}

    def look(self) -> None:
        """Ask all servers once. Never raises for what they answer."""
        oldest = 0.0
        for address, engine in self._clamd.versions(time.monotonic() + _VERSION_TIMEOUT).items():
            made = signatures_made(engine)
            oldest = min(filter(None, (oldest, made)), default=0.0)
            if self._clamd.is_stale(engine, time.time()) and time.monotonic() >= self._said.get(address, 0.0):
                self._said[address] = time.monotonic() + _HOUR
                days = int((time.time() - made) / _DAY)
                self._log.warning("antivirus signatures are stale", server=address, days=days, engine=engine)
        self._counters.set("antivirus_database", value=oldest)


def tidy(settings: Config, database: Database) -> tuple[int, int]:
    """Remove what is older than the settings keep it; return (journal records, held messages)."""
    now, store = time.time(), settings.store
    quarantine = Quarantine(database, store)
    records = retention.prune(database, Journal(database), retention.of_evidence(store), now)
    gone = deliveries.prune(database, retention.of_evidence(store), now)
    items = retention.expire(quarantine, retention.of_bodies(store), now)
    while quarantine.forget(now - store.tombstone_days * _DAY):
        pass
    retention.forget_samples(Samples(database), retention.of_samples(store), now)
    dmarc.prune(database, int(now // _DAY) - settings.report.days)
    hosts.prune(database, settings.tls.memory_days)
    tlsrpt.prune(database, int(now // _DAY) - settings.tls_report.days)
    if items or records or gone:
        database.purge()  # what has expired is gone from the disk as well
    return records, items


def bound(settings: Config, database: Database, counters: Counters, log: Log) -> int:
    """Keep held mail within its quota, and say loudly where that costs some; how many messages."""
    quota = settings.store.quota
    octets, gone = retention.make_room(Quarantine(database, settings.store), quota)
    counters.set("held_octets", value=octets)
    if gone:
        counters.add("quota_expired", value=gone)
        database.purge()
        log.error("quarantine over its quota: the oldest messages are gone", messages=gone, quota=quota)
    elif quota and octets > quota * _NEARLY:
        log.warning("quarantine nearly at its quota", octets=octets, quota=quota)
    return gone
