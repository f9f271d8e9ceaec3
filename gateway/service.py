# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor: binds every socket, loads rules and model once, forks, and watches.

It reads no mail. HUP loads the configuration anew and, if it is good, starts new workers on it
and drains the old ones; a bad one changes nothing and says why. TERM drains. A worker that dies
is replaced: its messages cost a temporary failure, never a loss. Workers follow a supervisor
that is gone, through a pipe whose other end only it holds.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import pwd
import resource
import signal
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import uvloop

from gateway import assembly, config, listeners, socketmap
from gateway.config import Config, ConfigError
from gateway.delivery import runner
from gateway.ledger import Ledger, Presence
from gateway.mail.headers import printable
from gateway.metrics import Metrics
from gateway.smarthost import server
from gateway.smarthost.limits import Crowd
from gateway.store.database import StoreError, open_database

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.assembly import Loaded
    from gateway.delivery.runner import Courier
    from gateway.log import Log
    from gateway.metrics import Counters
    from gateway.smarthost.settings import Door, Listener
    from gateway.socketmap import Answerer
    from gateway.tls.inbound import ServerTls

Kind = Literal["milter", "smarthost", "delivery", "socketmap", "housekeeper", "web"]
SLOTS = 256
_GARBAGE = 10_000  # new objects after which cycles are looked for: a message makes thousands, and hardly any
_SIGNALS = {signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT}
_DRAINS = {signal.SIGUSR1, signal.SIGUSR2}  # those of the doors; workers inherit the block
_QUICK = 2.0  # a worker that lives shorter than this many seconds is not replaced at once
_PAUSE = 2.0  # then, and twice as long after each further one in a row
_LONGEST_PAUSE = 60.0
_DESCRIPTORS = 65_536


@dataclass(frozen=True, slots=True)
class Post:
    """One place to be filled by a worker: which door, on which address, and its number there."""

    kind: Kind
    address: str = ""
    number: int = 0


@dataclass(slots=True)
class Worker:
    """A running worker."""

    pid: int
    post: Post
    slot: int
    started: float = field(default_factory=time.monotonic)
    ends: float | None = None  # told to finish, and ended by force after this time


@dataclass(frozen=True, slots=True)
class Common:
    """Memory that all workers share: their counters, and what they know of clients."""

    metrics: Metrics = field(default_factory=lambda: Metrics(SLOTS))
    ledger: Ledger = field(default_factory=Ledger)
    presence: Presence = field(default_factory=lambda: Presence(SLOTS))

    def shared(self, door: Door, slot: int, counters: Counters) -> Door:
        """The smart host's door with it, for the worker in this slot."""
        crowd = Crowd(self.presence, slot)
        return replace(
            door, count=lambda what: counters.add(what, "smarthost"), ledger=self.ledger, crowd=crowd
        )


class Supervisor:
    """Holds the sockets, and the workers by process id."""

    def __init__(self, path: Path, log: Log) -> None:
        self.path = path
        self.log = log
        self.sockets: dict[str, socket.socket] = {}
        self.workers: dict[int, Worker] = {}
        self.vacant: dict[Post, float] = {}  # when a post may be filled again
        self.quick: dict[Post, int] = {}  # how many workers in a row died there soon after their start
        self.common = Common()
        self.counters = self.common.metrics.slot(0)
        self.stopping = False
        self.life, self.alive = os.pipe()
        self.wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # from the smart host to the delivery agents
        self.loaded: Loaded

    def run(self) -> int:
        """Serve until SIGTERM; return the exit status. Raises `ConfigError` before it serves."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS | _DRAINS)
        _fewer_arenas()
        _more_descriptors()
        settings = config.load(self.path)
        self.sockets = self._bind(settings, {})
        self.loaded = assembly.load(settings, self.log, self.path)  # may read a key that only root can
        become(settings, self.log)
        open_database(settings.store).close()  # makes it, before several workers would
        self._fill()
        notify("READY=1")
        self.log.info("serving", listen=" ".join(self.sockets), workers=len(self.workers))
        while self.workers or not self.stopping:
            received = signal.sigtimedwait(_SIGNALS, 0.5)
            if received is not None:
                self._handle(received.si_signo)
            self._reap()
            self._end_late()
            if not self.stopping:
                self._fill()
        self.log.info("stopped")
        return 0

    # ---- signals

    def _handle(self, number: int) -> None:
        if number == signal.SIGHUP and not self.stopping:
            self._reload()
        elif number in (signal.SIGTERM, signal.SIGINT) and not self.stopping:
            self.stopping = True
            notify("STOPPING=1")
            self.log.info("stopping", workers=len(self.workers))
            self._drain(list(self.workers.values()))

    def _reload(self) -> None:
        """Validate first; whatever is wrong leaves everything as it is."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        before = self.sockets
        try:
            settings = config.load(self.path)
            loaded = assembly.load(settings, self.log, self.path)
            open_database(settings.store).close()
            sockets = self._bind(settings, before)
        except (ConfigError, StoreError, OSError) as error:
            self.log.error("configuration refused, the old one stays", error=str(error))
            notify("READY=1\nSTATUS=configuration refused, the old one stays")
            return
        # Those of the reload before keep their time: many reloads do not make them immortal.
        old = [worker for worker in self.workers.values() if worker.ends is None]
        self.loaded, self.sockets = loaded, sockets
        self.vacant.clear()
        self.quick.clear()
        for worker in old:
            worker.ends = time.monotonic() + loaded.config.grace  # their posts are vacant now
        for address, listener in before.items():
            if address not in sockets:
                listener.close()  # before the fork: what a worker inherits stays open with it
        self._fill()
        self._drain(old)
        notify("READY=1\nSTATUS=")
        self.log.info("reloaded", policy=loaded.policy.hash, workers=len(self.workers) - len(old))

    def _drain(self, workers: list[Worker]) -> None:
        """Ask workers to finish within the grace time."""
        for worker in workers:
            worker.ends = time.monotonic() + self.loaded.config.grace
            # After a reload others serve new mail, so connections may end by themselves.
            drain = signal.SIGUSR2 if self.stopping else signal.SIGUSR1
            told = worker.post.kind == "milter" or (worker.post.kind == "smarthost" and not self.stopping)
            _kill(worker.pid, drain if told else signal.SIGTERM)

    def _end_late(self) -> None:
        """End by force what did not finish in its grace time."""
        for worker in self.workers.values():
            if worker.ends is not None and worker.ends < time.monotonic():
                self.log.warning("worker ended by force", pid=worker.pid, kind=worker.post.kind)
                _kill(worker.pid, signal.SIGKILL)

    # ---- workers

    def _posts(self) -> list[Post]:
        settings = self.loaded.config
        posts = [
            Post("milter", address, n)
            for address in settings.milter.listen
            for n in range(settings.milter.workers)
        ]
        if settings.smarthost.listeners:
            posts += [Post("smarthost", "", n) for n in range(settings.smarthost.workers)]
            # Without a queue too: what was queued before it was switched off is delivered.
            posts += [Post("delivery", "", n) for n in range(settings.queue.workers)]
        posts += [Post("socketmap", address) for address in settings.tls.socketmap]
        pages = [Post("web", settings.web.listen)] if settings.web.enabled else []
        return [*posts, *pages, Post("housekeeper")]

    def _fill(self) -> None:
        """Start a worker on each post that has none."""
        taken = {w.post for w in self.workers.values() if w.ends is None}
        now = time.monotonic()
        for post in self._posts():
            if post not in taken and self.vacant.get(post, 0.0) <= now:
                self._start(post)
        self.counters.set("alive", value=sum(w.ends is None for w in self.workers.values()))

    def _start(self, post: Post) -> None:
        slot = min(set(range(1, SLOTS)) - {w.slot for w in self.workers.values()}, default=0)
        if not slot:
            self.log.error("too many workers, one is not started", kind=post.kind, workers=len(self.workers))
            self.vacant[post] = time.monotonic() + _PAUSE
            return
        gc.collect()
        gc.freeze()  # the shared pages stay shared: the collector does not touch what is there now
        pid = os.fork()
        if pid == 0:
            os._exit(self._work(post, slot))
        gc.unfreeze()
        self.workers[pid] = Worker(pid, post, slot)

    def _work(self, post: Post, slot: int) -> int:
        """Run in the child; never returns into the supervisor's code."""
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C is the supervisor's business
            gc.set_threshold(_GARBAGE, 20, 20)
            os.close(self.alive)
            drain = signal.SIGUSR2 if post.kind == "milter" else signal.SIGTERM
            _follow(self.life, drain, self.loaded.config.grace)
            if post.kind == "delivery":  # a door that stays open would keep the next supervisor out
                for listener in self.sockets.values():
                    listener.close()
            run_worker(post, self.loaded, self.sockets, self.common, slot, self.log, self.wake)
            status = 0
        except (StoreError, ConfigError, OSError) as error:  # what the operator mends, and says it all
            self.log.error("worker failed", kind=post.kind, error=printable(str(error), 300))
        except BaseException as error:  # a worker reports, whatever it died of
            self.log.error("worker failed", kind=post.kind, error=printable(repr(error), 300), exc_info=error)
        return status

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self.workers.pop(pid, None)
            if worker is None:
                continue
            self.common.presence.clear(worker.slot)
            if worker.ends is not None:
                self.log.debug("worker drained", pid=pid, kind=worker.post.kind)
                continue
            pause = self._pause(worker, killed=os.WIFSIGNALED(status))
            lived = time.monotonic() - worker.started
            self.vacant[worker.post] = time.monotonic() + pause
            self.counters.add("restarts")
            self.log.error(
                "worker died",
                pid=pid,
                kind=worker.post.kind,
                status=status,
                lived=round(lived, 1),
                replaced_in=pause,
            )

    def _pause(self, worker: Worker, *, killed: bool) -> float:
        """Seconds until a dead worker is replaced: none, or ever more while they give up at their start.

        One that a signal killed did not give up: whoever can crash workers shall not keep the door closed.
        """
        if time.monotonic() - worker.started >= _QUICK:
            self.quick.pop(worker.post, None)
            return 0.0
        if killed:
            return _PAUSE
        before = self.quick.get(worker.post, 0)
        self.quick[worker.post] = before + 1
        return float(min(_PAUSE * 2 ** min(before, 10), _LONGEST_PAUSE))

    def _bind(self, settings: Config, have: dict[str, socket.socket]) -> dict[str, socket.socket]:
        """Return the sockets of a configuration, those that are bound already among them."""
        door, tls = settings.milter, settings.tls
        modes = {address: (int(door.socket_mode, 8), door.socket_group) for address in door.listen}
        modes |= {address: (int(tls.socket_mode, 8), tls.socket_group) for address in tls.socketmap}
        wanted = [*modes, *settings.smarthost.listeners]
        if not wanted:
            where = "listen in [milter] or in [smarthost], or socketmap in [tls]"
            raise ConfigError(f"{self.path}: no door is open: set {where}")
        if settings.web.enabled:
            _check_web(self.path, settings)
            wanted.append(settings.web.listen)
        bound: dict[str, socket.socket] = {}
        try:
            for address in wanted:
                mode, group = modes.get(address, (0o660, ""))
                bound[address] = have.get(address) or listeners.bind(address, mode=mode, group=group)
        except listeners.ListenError as error:
            for address, listener in bound.items():
                if address not in have:
                    listener.close()
            raise ConfigError(f"{self.path}: {error}") from error
        if address := settings.http.listen:
            try:
                bound[address] = have.get(address) or listeners.bind(address)
            except listeners.ListenError as error:  # another gateway's, maybe: mail goes on without metrics
                self.log.error("no metrics until the next reload: set listen in [http]", error=str(error))
        return bound


def run_worker(
    post: Post,
    loaded: Loaded,
    sockets: dict[str, socket.socket],
    common: Common,
    slot: int,
    log: Log,
    wake: tuple[int, int],
) -> None:
    """Do the work of one post until SIGTERM. `wake` are the ends of the pipe to the delivery agents."""
    settings, counters = loaded.config, common.metrics.slot(slot)
    if post.kind == "housekeeper":
        from gateway import housekeeper  # noqa: PLC0415  # only this process pays for the import

        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        housekeeper.serve(loaded, sockets.get(settings.http.listen), common.metrics, counters, log)
        return
    if post.kind == "web":
        from gateway.web import server as pages  # noqa: PLC0415  # as above

        pages.serve(assembly.pages(settings), sockets[post.address], log)
        return
    if post.kind == "delivery":
        database = open_database(settings.store)
        try:
            uvloop.run(_deliver(assembly.courier(loaded, database, counters, log, wake[0])))
        finally:
            database.close()
        return
    if post.kind == "socketmap":
        database = open_database(settings.store)
        try:
            uvloop.run(_answer(sockets[post.address], assembly.answerer(loaded, database, counters, log)))
        finally:
            database.close()
        return
    threads = settings.milter.threads if post.kind == "milter" else settings.smarthost.threads
    opened = assembly.assemble(loaded, counters, log, threads=assembly.ASKS * threads)
    try:
        if post.kind == "milter":
            from gateway import milter  # noqa: PLC0415  # libmilter is not loaded where it does not serve

            milter.serve(sockets[post.address], settings.milter, settings.relay_networks, opened.gateway)
        else:
            submitter = assembly.submitter(loaded, opened.database, wake[1])
            try:
                door = assembly.door(loaded, opened.gateway, submitter, opened.database)
                bound = [(how, sockets[where]) for where, how in settings.smarthost.listeners.items()]
                uvloop.run(_serve_smarthost(bound, common.shared(door, slot, counters), loaded.tls))
                door.ways.close()
            finally:
                if submitter is not None:
                    submitter.close()
    finally:
        opened.close()


def _check_web(path: Path, settings: Config) -> None:
    """Raise ConfigError if something that the web page needs is missing."""
    from gateway.web.server import MissingError, check  # noqa: PLC0415  # where it is wanted

    try:
        check(settings.web)
    except MissingError as error:
        raise ConfigError(f"{path}: {error}") from error


async def _serve_smarthost(
    bound: list[tuple[Listener, socket.socket]], door: Door, tls: ServerTls | None
) -> None:
    """Serve the smart host until SIGTERM, then drain."""
    reloaded = asyncio.Event()
    stop = _until_told()

    def make_way() -> None:
        reloaded.set()
        stop.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, make_way)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    await server.serve(bound, door, stop, tls, patient=reloaded.is_set)


async def _answer(bound: socket.socket, answerer: Answerer) -> None:
    """Answer Postfix's questions until SIGTERM."""
    await socketmap.serve(bound, answerer, _until_told())


async def _deliver(courier: Courier) -> None:
    """Empty the queue until SIGTERM, then finish what is under way."""
    try:
        await runner.serve(courier, _until_told())
    finally:
        courier.ways.close()


def _until_told() -> asyncio.Event:
    """An event that SIGTERM sets."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return stop


def become(settings: Config, log: Log) -> None:
    """Give up privileges after the sockets are bound."""
    if os.getuid() != 0:
        return
    if not settings.user:
        log.warning("running as root; set user in the configuration, or start as another user")
        return
    try:
        account = pwd.getpwnam(settings.user)
    except KeyError as error:
        raise ConfigError(
            f"user: there is no account {settings.user!r} on this machine; create it first"
        ) from error
    directory = Path(settings.store.database.removeprefix("sqlite:///")).parent
    if settings.store.database.startswith("sqlite:///") and not directory.exists():
        directory.mkdir(mode=0o700, parents=True)
        os.chown(directory, account.pw_uid, account.pw_gid)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); does nothing elsewhere."""
    name = os.environ.get("NOTIFY_SOCKET")
    if not name:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
        try:
            messenger.sendto(state.encode(), "\0" + name[1:] if name.startswith("@") else name)
        except OSError:
            return  # systemd's own time-out speaks then


def _follow(life: int, number: signal.Signals, grace: float) -> None:
    """End this process, by the same signal as a drain, when the supervisor is gone.

    Nobody is left to end it by force, so it does that itself after `grace` seconds.
    """

    def wait() -> None:
        os.read(life, 1)  # returns only when no process holds the other end
        os.kill(os.getpid(), number)
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=wait, name="follow", daemon=True).start()


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _more_descriptors() -> None:
    """Open as many files as we may: shells often start programs with 1,024, and allow more."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, _DESCRIPTORS)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _fewer_arenas() -> None:
    """Keep many threads from keeping many heaps: malloc's arenas, two as for a small machine."""
    libc = ctypes.CDLL(None)
    mallopt: Callable[[int, int], int] | None = getattr(libc, "mallopt", None)
    if mallopt:
        mallopt(-8, 2)  # M_ARENA_MAX
