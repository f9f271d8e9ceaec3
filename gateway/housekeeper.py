# SPDX-License-Identifier: GPL-2.0-or-later
"""One process for what is nobody else's: metrics, health, and retention.

Reads requests from whoever reaches its address, loopback unless told otherwise: two paths, no
query, no body, a few threads, short time-outs.
"""

from __future__ import annotations

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest

from gateway.assembly import assemble, demands, post, ways
from gateway.classifier.mapping import ModelError
from gateway.classifier.model import Model
from gateway.data import data_dir
from gateway.delivery.release import outfit, send
from gateway.delivery.routes import routes
from gateway.digest.send import LATEST, last_slot, send_all
from gateway.feedback import folders, owners
from gateway.learning import Learner
from gateway.listeners import split_host_port
from gateway.mail.headers import printable
from gateway.rescan import rescan_all
from gateway.scanners.clamd import Clamd, signatures_made
from gateway.store import dmarc, hosts, retention, tlsrpt
from gateway.store.database import Database, StoreError, open_database, state_directory
from gateway.store.grants import Grants
from gateway.store.journal import Journal
from gateway.store.quarantine import Quarantine
from gateway.store.samples import Samples

if TYPE_CHECKING:
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
LEAST_FREE = 16_777_216  # octets on the store's file system below which nothing more may be held soon
_NEARLY = 0.9  # of the quota, from which on it is told
_DIGEST_LOOK = 30.0  # seconds between two looks whether digests are due
_VERSION_TIMEOUT = 10.0  # seconds for the versions of all antivirus servers


def serve(loaded: Loaded, metrics: Metrics, counters: Counters, log: Log) -> None:
    """Work until SIGTERM ends the process: nothing here needs to be finished."""
    settings = loaded.config
    watch = SignatureWatch(settings.antivirus, counters, log) if settings.antivirus.enabled else None
    database = open_database(settings.store)
    if settings.http.listen:
        registry = CollectorRegistry()
        registry.register(metrics)
        server = _Server(split_host_port(settings.http.listen), registry, metrics, database)
        threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    if (path := settings.classifier.site_path(state_directory(settings.store))) is not None:
        fixed = data_dir("models") / "regression"
        learner = Learner(Samples(database), settings.classifier, _base(settings, log), path, fixed)
        threading.Thread(target=follow, args=(learner, log), name="site model", daemon=True).start()
        if settings.classifier.per != "site":
            threading.Thread(target=owners.follow, args=(learner, log), name="owners", daemon=True).start()
        if settings.learning.imap:
            about = (settings.learning.imap, learner, log)
            threading.Thread(target=folders.follow, args=about, name="folders", daemon=True).start()
    sender = outfit(
        settings.release,
        routes(settings.routes, settings.next_hop),
        ways(settings, loaded.hop_logins, database),
        settings.name,
        settings.antivirus,
        settings.queue_lifetime,
    )
    releases = (Quarantine(database, settings.store), sender, log)
    threading.Thread(target=release, args=releases, name="releases", daemon=True).start()
    if settings.digest.enabled:
        told = (Quarantine(database, settings.store), post(settings, loaded.signing, loaded.hop_logins), log)
        threading.Thread(target=tell, args=told, name="digests", daemon=True).start()
    if settings.rescan.enabled:
        opened = assemble(loaded, counters, log, threads=4)
        threading.Thread(
            target=judge_again, args=(opened.gateway, settings), name="re-scan", daemon=True
        ).start()
    if (policies := demands(settings, database).policies) is not None:
        threading.Thread(target=refresh, args=(policies, log), name="policies", daemon=True).start()
    while True:
        try:
            tidy(settings, database)
            bound(settings, database, counters, log)
        except StoreError as error:
            log.error("retention failed", error=printable(str(error), 200))
        if watch:
            watch.look()
        time.sleep(_ROUND)


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
    """Send releases that are due and that nobody else sends: those left to us, and those of the dead."""
    while True:
        try:
            send_due(quarantine, sender, log)
        except StoreError as error:
            log.error("releases are not sent", error=printable(str(error), 200))
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
    items = retention.expire(quarantine, retention.of_bodies(store), now)
    while quarantine.forget(now - store.tombstone_days * _DAY):
        pass
    retention.forget_samples(Samples(database), store.samples_days, now)
    dmarc.prune(database, int(now // _DAY) - settings.report.days)
    hosts.prune(database, settings.tls.memory_days)
    tlsrpt.prune(database, int(now // _DAY) - settings.tls_report.days)
    if items or records:
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


def _room(path: Path | None) -> str:
    """Return why the file system of the store cannot take what is held next, or ""."""
    if path is None:
        return ""
    found = os.statvfs(path.parent)
    if found.f_flag & os.ST_RDONLY:
        return "the file system is read-only"
    free = found.f_bavail * found.f_frsize
    return f"the disk is nearly full: {free} octets are free" if free < LEAST_FREE else ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(
        self, address: tuple[str, int], registry: CollectorRegistry, metrics: Metrics, database: Database
    ) -> None:
        super().__init__(address, _Handler)
        self.registry, self.metrics, self.database = registry, metrics, database

    def health(self) -> tuple[bool, dict[str, str]]:
        """Say what works: workers that are alive, and a store that answers."""
        state = {"workers": str(int(self.metrics.total("alive")))}
        try:
            Journal(self.database).find("0" * 16)
            state["store"] = _room(self.database.path) or "ok"
        except (StoreError, OSError) as error:
            state["store"] = printable(str(error), 200)
        return state["store"] == "ok" and state["workers"] not in ("0", "1"), state


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5
    server_version = "Mailwarden"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._send(200, generate_latest(self.server.registry), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/healthz":
            well, state = self.server.health()
            body = json.dumps({"status": "ok" if well else "failing", **state}).encode() + b"\n"
            self._send(200 if well else 503, body, "application/json")
        else:
            self._send(404, b"try /metrics or /healthz\n", "text/plain")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Requests for metrics are no events."""
