# SPDX-License-Identifier: GPL-2.0-or-later
"""From a configuration to a `Gateway`.

In two steps, because a process forks in between: `load` reads rules and model once, in the
supervisor, so that the workers share the pages; `assemble` opens what belongs to one process.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.auth import outgoing, suffixes
from gateway.classifier.model import Classifier, ModelError
from gateway.config import Config, ConfigError, placed
from gateway.config import load as read_config
from gateway.data import data_dir
from gateway.delivery.logins import read_logins
from gateway.delivery.release import deliverer
from gateway.delivery.routes import Routes, parse_route, routes
from gateway.delivery.runner import Courier
from gateway.delivery.watch import Watch
from gateway.delivery.ways import Ways
from gateway.digest.act import Desk
from gateway.digest.answers import AnswerAddress, Inbox
from gateway.digest.send import Post
from gateway.digest.words import load_all
from gateway.dns import Resolver
from gateway.feedback.reported import ReportAddresses
from gateway.gather import Slots, Sources
from gateway.learning import Learner
from gateway.lists import Lists
from gateway.logins import sources
from gateway.pipeline import Gateway, admit, hold_undelivered, judge_safely
from gateway.policy import rules
from gateway.policy.patterns import RuleError
from gateway.reports.observe import Observer
from gateway.scanners.clamd import Clamd
from gateway.scanners.spamd import Spamd
from gateway.scanners.unpack.pool import Unpacker
from gateway.shadow import Shadow
from gateway.smarthost.server import own_tls
from gateway.smarthost.settings import Door, Judgement, listen_address
from gateway.socketmap import Answerer
from gateway.store.database import Database, open_database, state_directory
from gateway.store.dmarc import Observations
from gateway.store.hosts import Hosts, StsPolicies
from gateway.store.journal import Journal
from gateway.store.quarantine import Quarantine
from gateway.store.queue import Queue
from gateway.store.samples import Samples
from gateway.store.senders import Senders
from gateway.store.submit import Submitter
from gateway.store.tlsrpt import TlsResults
from gateway.tls.demands import Demands
from gateway.tls.fetch import Web
from gateway.tls.policies import InMemory, Policies
from gateway.web.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.delivery.logins import Login
    from gateway.log import Log
    from gateway.logins.sources import Logins
    from gateway.metrics import Counters
    from gateway.tls.inbound import ServerTls


ASKS = 3  # threads that ask others, for each message that is judged at the same time


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with everything that it names, read and checked."""

    config: Config
    policy: rules.Policy
    classifier: Classifier | None
    routes: Routes
    tls: ServerTls | None  # of the smart host; one for all workers, which share its tickets
    signing: outgoing.Signing
    hop_logins: Mapping[str, Login]
    logins: Logins | None = None  # None: nobody can log in
    shadows: tuple[Shadow, ...] = ()


def load(config: Config, log: Log | None = None, path: Path | None = None) -> Loaded:
    """Read rules, model, routes and keys. Raises `ConfigError` for what must not be used.

    With the `path` of the configuration errors name its file and the line.
    """
    try:
        return _load(config, log)
    except ConfigError as error:
        raise ConfigError(placed(path, str(error)) if path else str(error)) from error


def _load(config: Config, log: Log | None) -> Loaded:
    _check_ca_files(config)
    try:
        policy = rules.load(data_dir("rules"), config.policy, config.auth.trusted_forwarders, config.domains)
    except RuleError as error:
        raise ConfigError(str(error)) from error
    try:
        classifier = Classifier.open(config.classifier, data_dir("models"), state_directory(config.store))
    except ModelError as error:
        if config.classifier.required:
            raise ConfigError(f"classifier: {error}") from error
        # A missing model is "unavailable" in every verdict and in the metrics, never a score of 0.
        classifier = None
        if log:
            log.error("classifier unavailable", error=str(error))
    if config.auth.dmarc and config.auth.dmarc_method == "psl":
        suffixes.load()  # once, so that the workers share its pages
    try:
        tls = own_tls(config.smarthost, config.tls.inbound)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"smarthost: certificate, key or client_ca_file: {error}") from error
    try:
        signing = outgoing.load(config.signing)
    except (OSError, ValueError) as error:
        raise ConfigError(f"signing: {error}") from error
    hop_logins = load_hop_logins(config)
    if config.digest.enabled:
        post(config, signing, hop_logins)  # read again when they are needed; an error stops the start
    try:
        logins = sources.load(config.login, config.limits.limits())
    except (OSError, ValueError) as error:
        raise ConfigError(f"login: {error}") from error
    hops = routes(config.routes, config.next_hop)
    return Loaded(config, policy, classifier, hops, tls, signing, hop_logins, logins, shadows(config))


def _check_ca_files(config: Config) -> None:
    """Open the CA files that are needed only when others are spoken to. Raises `ConfigError`."""
    files = [(f"tls.outbound.{n}", row.ca_file) for n, row in enumerate(config.tls.outbound)]
    files += [(f"learning.imap.{n}", row.ca_file) for n, row in enumerate(config.learning.imap)]
    for where, file in (*files, ("web", config.web.ca_file)):
        if not file:
            continue
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{where}: ca_file '{file}': {error.strerror or error}") from error


def load_hop_logins(config: Config) -> Mapping[str, Login]:
    """Read our logins at next hops. Raises `ConfigError`."""
    if not config.next_hop_logins:
        return {}
    try:
        return read_logins(Path(config.next_hop_logins))
    except (OSError, ValueError) as error:
        raise ConfigError(f"next_hop_logins: {error}") from error


def ways(
    config: Config, logins: Mapping[str, Login], database: Database | None = None, watch: Watch | None = None
) -> Ways:
    """Return what finds the servers to send to, and what they must offer; for one process.

    Without a `database` it remembers nothing of what they offered before.
    """
    names = {config.name, config.smarthost.hostname or config.name}
    return Ways(
        rules=config.tls.outbound,
        resolver=Resolver(config.dns),
        logins=logins,
        names=frozenset(name.lower() for name in names),
        ports=frozenset(listen_address(text)[1] for text in config.smarthost.listen),
        demands=demands(config, database),
        watch=watch,
    )


def watch(config: Config, database: Database, counters: Counters, log: Log) -> Watch:
    """Return who is told what TLS with next hops came to."""
    remembers = config.tls.downgrade != "ignore"
    return Watch(
        log,
        Hosts(database, config.tls.memory_days) if remembers else None,
        TlsResults(database) if config.tls_report.enabled else None,
        lambda what: counters.add("tls", what),
    )


def shadows(config: Config) -> tuple[Shadow, ...]:
    """Read the policies and models that run beside the live ones. Raises `ConfigError`."""
    found = []
    for row in config.shadow:
        other = read_config(Path(row.file))
        try:
            folder = Path(row.rules) if row.rules else data_dir("rules")
            policy = rules.load(folder, other.policy, other.auth.trusted_forwarders, other.domains)
            own = None
            if other.classifier != config.classifier:
                own = Classifier.open(other.classifier, data_dir("models"), state_directory(config.store))
        except (RuleError, ModelError) as error:
            raise ConfigError(f"shadow {row.name}: {error}") from error
        looks = bool(row.rules) or sight(other) != sight(config)
        found.append(Shadow(row.name, policy, looks, own))
    return tuple(found)


def sight(config: Config) -> tuple[object, ...]:
    """The settings of the policy that change what is seen, and not only what it is worth."""
    policy = config.policy
    about_senders = (config.domains, config.auth.trusted_forwarders, policy.forwarders, policy.impersonation)
    return (*about_senders, policy.patterns_dir, policy.attachments, policy.links)


@dataclass(frozen=True, slots=True)
class Opened:
    """A `Gateway` and what must be closed after it."""

    gateway: Gateway
    database: Database | None
    pool: ThreadPoolExecutor

    def close(self) -> None:
        """Write what is still to be written, and let go."""
        if self.gateway.journal:
            self.gateway.journal.close()
        if self.gateway.observer:
            self.gateway.observer.close()
        if self.gateway.sources.unpacker:
            self.gateway.sources.unpacker.close()
        self.pool.shutdown(wait=False, cancel_futures=True)
        if self.database:
            self.database.close()


def assemble(loaded: Loaded, counters: Counters, log: Log, *, threads: int, keep: bool = True) -> Opened:
    """Open what one process needs; call it after the fork. `keep=False` judges without a store.

    `threads` ask others; a message that is judged has `ASKS` of them at hand.
    """
    config = loaded.config
    database = open_database(config.store) if keep else None
    quarantine = Quarantine(database, config.store) if database else None
    journal = (
        Journal(database, lost=lambda n: counters.add("failures", "journal", value=n)) if database else None
    )
    reporting = database if config.report.enabled else None
    observer = Observer(Observations(reporting), config.report) if reporting else None
    pool = ThreadPoolExecutor(threads, "ask")
    resolver = Resolver(config.dns)
    gateway = Gateway(
        authserv_id=config.authserv,
        deadline=config.deadline,
        limits=config.limits.limits(),
        sources=Sources(
            resolver=resolver,
            auth=config.auth,
            antivirus=Clamd(config.antivirus) if config.antivirus.enabled else None,
            spamd=Spamd(config.spamassassin) if config.spamassassin.enabled else None,
            check_token=quarantine.check_token if quarantine else None,
            pool=pool,
            hostname=config.name,
            unpacker=Unpacker(config.unpack) if config.unpack.enabled else None,
            slots=Slots(max(1, threads // ASKS)),
            senders=Senders(database).lookup if database else None,
            lists=Lists(config.dnsbl, resolver, config.domains) if config.dnsbl.zones else None,
        ),
        classifier=loaded.classifier,
        policy=loaded.policy,
        tls_rules=config.tls.inbound,
        signing=loaded.signing,
        quarantine=quarantine,
        journal=journal,
        counters=counters,
        log=log,
        observer=observer,
        shadows=loaded.shadows,
        reports=_inbox(loaded, database) if database else None,
    )
    return Opened(gateway, database, pool)


def _inbox(loaded: Loaded, database: Database) -> Inbox | None:
    """Return what takes reports about mail and answers to digests, None without addresses for them."""
    config = loaded.config
    path = config.classifier.site_path(state_directory(config.store))
    learner = None
    if path is not None:
        base = loaded.classifier.base if loaded.classifier else None
        learner = Learner(Samples(database), config.classifier, base, path)
    reports = answers = None
    if learner and (config.learning.spam_addresses or config.learning.ham_addresses):
        reports = ReportAddresses(config.learning, learner)
    if config.digest.enabled and config.digest.reply_address:
        answers = AnswerAddress(config.digest.reply_address, desk(config, database, learner))
    return Inbox(reports, answers) if reports or answers else None


def desk(config: Config, database: Database, learner: Learner | None = None) -> Desk:
    """Return what the deeds of recipients are done with: by mail, and on the web page."""
    quarantine = Quarantine(database, config.store)
    return Desk(quarantine, frozenset(config.release.users), config.release.undo_seconds, learner)


def post(
    config: Config, signing: outgoing.Signing | None = None, logins: Mapping[str, Login] | None = None
) -> Post:
    """Return what digests are sent with; keys and logins are read unless given. Raises `ConfigError`."""
    table = routes(config.routes, config.next_hop)
    hop = parse_route(config.digest.next_hop) if config.digest.next_hop else None
    if hop is not None:
        table = Routes({}, (), hop)
    known = load_hop_logins(config) if logins is None else logins
    try:
        return Post(
            config.digest,
            load_all(data_dir("rules"), config.digest),
            frozenset(config.release.users),
            outgoing.load(config.signing) if signing is None else signing,
            table,
            deliverer(table, ways(config, known), config.name),
            config.queue_lifetime,
        )
    except RuleError as error:
        raise ConfigError(f"digest: {error}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"signing: {error}") from error


def door(
    loaded: Loaded, gateway: Gateway, submitter: Submitter | None = None, database: Database | None = None
) -> Door:
    """Return what the smart host serves with; without a `submitter` it has no queue."""
    config = loaded.config
    notes = watch(config, database, gateway.counters, gateway.log) if database else None
    return Door(
        settings=config.smarthost,
        hostname=config.smarthost.hostname or config.name,
        judgement=Judgement(
            judge=lambda mail: judge_safely(mail, gateway, "smarthost"),
            admit=lambda session, sender, _recipient: admit(session, sender, gateway),
            hold_undelivered=lambda mail, verdict, who, why: hold_undelivered(
                mail, verdict, who, why, gateway
            ),
            note=gateway.journal.add if gateway.journal else lambda _end: None,
            takes=gateway.reports.takes if gateway.reports else lambda _session, _recipient: False,
        ),
        routes=loaded.routes,
        domains=config.domains,
        relay_networks=config.relay_networks,
        log=gateway.log,
        ways=ways(config, loaded.hop_logins, database, notes),
        submit=submitter.submit if submitter else None,
        room=lambda octets: not (submitter and database and database.lack_of_room(octets)),
        logins=loaded.logins,
        lifetime=config.queue.lifetime,
        grace=config.grace,
    )


def pages(config: Config) -> Parts:
    """Return what the web page is made of."""
    return Parts(config.web, config.store, config.classifier, config.release, config.grace)


def submitter(loaded: Loaded, database: Database | None, wake: int) -> Submitter | None:
    """Return the way into the queue, None if it is switched off. `wake` is written to for the agents."""
    if database is None or not loaded.config.smarthost.queue:
        return None

    def committed() -> None:
        with contextlib.suppress(OSError):  # a full pipe wakes as well
            os.write(wake, b"+")

    return Submitter(Queue(database), committed)


def demands(settings: Config, database: Database | None) -> Demands:
    """Return who decides what next hops must offer; without a `database` nothing is remembered."""
    tls, resolver = settings.tls, Resolver(settings.dns)
    policies = memory = None
    if tls.mta_sts:
        cache = StsPolicies(database) if database else InMemory()
        policies = Policies(resolver, Web(resolver), cache)
    if database:
        memory = Hosts(database, tls.memory_days)
    return Demands(tls, resolver, policies, memory)


def answerer(loaded: Loaded, database: Database, counters: Counters, log: Log) -> Answerer:
    """Return what answers Postfix's questions about TLS policies."""
    return Answerer(demands(loaded.config, database), log, lambda what: counters.add("policies", what))


def courier(loaded: Loaded, database: Database, counters: Counters, log: Log, wake: int) -> Courier:
    """Return what a delivery agent works with."""
    config = loaded.config
    return Courier(
        settings=config.queue,
        queue=Queue(database),
        routes=loaded.routes,
        hostname=config.smarthost.hostname or config.name,
        log=log,
        timeouts=config.smarthost.relay,
        ways=ways(config, loaded.hop_logins, database, watch(config, database, counters, log)),
        receipts=Path(config.queue.receipts or state_directory(config.store) / "receipts"),
        wake=wake,
        grace=config.grace,
        count=lambda what: counters.add("deliveries", what),
    )
