# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor: sockets, workers that die, reloads, stops; first its parts, then the process itself."""

from __future__ import annotations

import io
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from contrib.lab.gateway import Gateway, to_toml
from contrib.lab.process import StartError, free_port, wait_for
from gateway import listeners, service
from gateway.config import Config, ConfigError
from gateway.listeners import ListenError
from gateway.log import LogSettings, open_log
from gateway.service import SLOTS, Post, Supervisor, Worker, become, notify
from gateway.smarthost import worker

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = open_log(LogSettings(level="error"))


# ---------------------------------------------------------------- sockets


def test_unix_socket(tmp_path: Path) -> None:
    """Mode as configured; an orphan is replaced, a living one and a plain file are not."""
    path = tmp_path / "milter.sock"
    with listeners.bind(f"unix:{path}", mode=0o620) as bound:
        assert stat.S_IMODE(path.stat().st_mode) == 0o620
        assert not bound.getblocking()
    with listeners.bind(f"unix:{path}"):  # the orphan of the one before
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    path.unlink()
    path.write_text("precious")
    with pytest.raises(ListenError, match="there is a file of that name, and it is no socket"):
        listeners.bind(f"unix:{path}")
    assert path.read_text() == "precious"


def test_socket_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's address is refused, with a reason."""
    monkeypatch.setattr(listeners, "_RETRY_SECONDS", 0.1)
    with (
        listeners.bind(f"unix:{tmp_path}/s"),
        pytest.raises(ListenError, match="another process listens there"),
    ):
        listeners.bind(f"unix:{tmp_path}/s")
    with listeners.bind("inet:127.0.0.1:" + str(free_port())) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listeners.bind(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:smtp", "inet:x", "unix:/no/such/folder/s"],
)
def test_bad_address(address: str) -> None:
    with pytest.raises(ListenError, match="cannot listen on"):
        listeners.bind(address)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path / "mailwarden.toml", LOG)
    yield made
    for bound in made.sockets.values():
        bound.close()
    for end in (made.life, made.alive, *made.wake):
        os.close(end)


def config(**tables: Any) -> Config:
    return msgspec.convert(tables, Config)


def test_no_door(supervisor: Supervisor) -> None:
    with pytest.raises(ConfigError, match=r"no door is open: set listen in \[milter\] or in \[smarthost\]"):
        supervisor._bind(config(), {})


def test_bind_all_or_none(supervisor: Supervisor, tmp_path: Path) -> None:
    """A failure closes what was bound for this configuration, and keeps what was there before."""
    kept = f"unix:{tmp_path}/kept"
    supervisor.sockets = supervisor._bind(config(milter={"listen": [kept]}), {})
    fresh = free_port()
    wanted = config(milter={"listen": [kept, f"inet:127.0.0.1:{fresh}", "unix:/no/such/folder/s"]})
    with pytest.raises(ConfigError, match="cannot listen on unix:/no/such/folder/s: No such file"):
        supervisor._bind(wanted, supervisor.sockets)
    assert supervisor.sockets[kept].fileno() >= 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", fresh)) != 0
    # The same address again is the same socket, so no connection in its queue is lost.
    again = supervisor._bind(config(milter={"listen": [kept]}), supervisor.sockets)
    assert again[kept] is supervisor.sockets[kept]


def test_metrics_are_bound_with_the_doors(supervisor: Supervisor) -> None:
    """A port that another gateway has costs the metrics, and neither mail nor the housekeeper."""
    port = free_port()
    wanted = config(
        milter={"listen": [f"inet:127.0.0.1:{free_port()}"]}, http={"listen": f"127.0.0.1:{port}"}
    )
    with socket.create_server(("127.0.0.1", port)):
        bound = supervisor._bind(wanted, {})
        assert list(bound) == list(wanted.milter.listen)
    bound = supervisor.sockets = supervisor._bind(wanted, bound)
    assert bound[f"127.0.0.1:{port}"].getsockname() == ("127.0.0.1", port)


# ---------------------------------------------------------------- workers


def test_posts(supervisor: Supervisor) -> None:
    """Milter workers for each address, smart-host workers for all, delivery agents, one housekeeper."""
    settings = config(
        milter={"listen": ["inet:127.0.0.1:1", "unix:/s"], "workers": 2},
        smarthost={"listen": ["127.0.0.1:2", "127.0.0.1:3"], "workers": 3},
        queue={"workers": 2},
    )
    supervisor.loaded = type("Loaded", (), {"config": settings})()
    posts = supervisor._posts()
    assert len(set(posts)) == len(posts) == 2 * 2 + 3 + 2 + 1
    assert posts[-1] == Post("housekeeper")


def test_a_dead_worker_leaves_its_post(supervisor: Supervisor) -> None:
    """It is replaced at once if it had worked for a while, and after a pause if it had not."""
    for lived, pause in ((60.0, 0.0), (0.0, service._PAUSE)):
        pid = os.fork()
        if pid == 0:
            os._exit(3)
        post = Post("milter", "unix:/s", int(lived))
        begin = time.monotonic()
        supervisor.workers[pid] = Worker(pid, post, 1, started=begin - lived)
        wait_for(lambda: supervisor._reap() or not supervisor.workers, 30, "the child")  # type: ignore[func-returns-value]
        assert begin + pause <= supervisor.vacant[post] <= time.monotonic() + pause
    assert supervisor.common.metrics.total("restarts") == 2


def test_workers_that_die_at_their_start_wait_longer(supervisor: Supervisor) -> None:
    """Up to a bound; one that lived for a while sets it back."""
    post = Post("housekeeper")
    pauses = [supervisor._pause(Worker(1, post, 1), killed=False) for _ in range(8)]
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    assert supervisor._pause(Worker(1, post, 1), killed=True) == 2
    assert supervisor._pause(Worker(1, post, 1, started=time.monotonic() - 9), killed=False) == 0
    assert supervisor._pause(Worker(1, post, 1), killed=False) == 2


@pytest.mark.parametrize(("error", "traceback"), [(OSError(28, "No space left"), False), (KeyError(1), True)])
def test_what_a_worker_says_at_its_end(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, error: Exception, *, traceback: bool
) -> None:
    """What an operator mends is one line of words; a traceback is for defects of ours."""

    def fail(*_arguments: object) -> None:
        raise error

    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(service, "run_worker", fail)
    supervisor.log = open_log(LogSettings())
    supervisor.loaded = type("Loaded", (), {"config": config()})()
    pid = os.fork()
    if pid == 0:
        status = supervisor._work(Post("housekeeper"), 1)
        os._exit(status if ("Traceback" in said.getvalue()) == traceback else 99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_a_drained_worker_is_no_loss(supervisor: Supervisor) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    supervisor.workers[pid] = Worker(pid, Post("housekeeper"), 1, ends=time.monotonic() + 5)
    wait_for(lambda: supervisor._reap() or not supervisor.workers, 30, "the child")  # type: ignore[func-returns-value]
    assert supervisor.vacant == {}
    assert supervisor.common.metrics.total("restarts") == 0


def test_late_workers_end_by_force(supervisor: Supervisor) -> None:
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(60)
        os._exit(0)
    supervisor.workers[pid] = Worker(pid, Post("housekeeper"), 1, ends=time.monotonic() - 1)
    supervisor._end_late()
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    supervisor._end_late()  # one that has gone in the meantime is no error


def test_no_slot_left(supervisor: Supervisor) -> None:
    """More workers than there are rows of counters: the supervisor lives on."""
    for slot in range(1, SLOTS):
        supervisor.workers[-slot] = Worker(-slot, Post("milter", "unix:/s", slot), slot)
    post = Post("housekeeper")
    supervisor._start(post)
    assert len(supervisor.workers) == SLOTS - 1
    assert supervisor.vacant[post] > time.monotonic()


# ---------------------------------------------------------------- the system


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool) -> None:
    """sd_notify, on a path or on an abstract socket."""
    name = f"@mailwarden-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_notify_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")
    notify("READY=1")


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as allowed; and clients of the smart host never need all of them."""
    limits = (1024, 4096)
    monkeypatch.setattr(resource, "getrlimit", lambda _what: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _what, pair: wanted.append(pair))
    wanted: list[tuple[int, int]] = []
    service._more_descriptors()
    assert wanted == [(4096, 4096)]
    assert worker._places(1000) == 512
    assert worker._places(100) == 100
    limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    service._more_descriptors()
    assert len(wanted) == 1
    assert worker._places(1000) == 1000


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_unknown_user() -> None:
    with pytest.raises(ConfigError, match="user: there is no account 'no-such-user'"):
        become(config(user="no-such-user"), LOG)


# ---------------------------------------------------------------- the process


def settings(directory: Path, **changes: Any) -> dict[str, Any]:
    """A configuration that needs nobody else."""
    return {
        "hostname": "mx.example.org",
        "domains": ["example.com"],
        "next_hop": "smtp:127.0.0.1:9",
        "grace": 5,
        "milter": {"listen": [f"unix:{directory}/milter.sock"], "workers": 2},
        "antivirus": {"enabled": False},
        "auth": {"spf": False, "dkim": False, "dmarc": False, "arc": False, "iprev": False},
        "http": {"listen": ""},
        "store": {"database": f"sqlite:///{directory}/mailwarden.db"},
        "log": {"format": "json"},
        **changes,
    }


@pytest.fixture(scope="module")
def gateway(lab: Path) -> Iterator[Gateway]:
    with Gateway(lab / "service", settings(lab / "service")) as served:
        yield served


@pytest.mark.server
def test_starts_all_workers(gateway: Gateway) -> None:
    wait_for(lambda: bool(gateway.events("serving")), 30, "the log")
    [event] = gateway.events("serving")
    assert event["workers"] == 3
    assert len(gateway.workers()) == 3


@pytest.mark.server
def test_dead_workers_are_replaced(gateway: Gateway) -> None:
    before = set(gateway.workers())
    for pid in before:
        gateway.kill(pid)
    wait_for(lambda: len(set(gateway.workers()) - before) == 3, 30, "new workers")
    wait_for(gateway.is_up, 30, "the door")


@pytest.mark.server
def test_packets_out_of_their_turn(gateway: Gateway) -> None:
    """What pymilter makes nothing of is a line of the log, and the workers live on."""
    wait_for(gateway.is_up, 30, "the door")
    before = set(gateway.workers())
    [path] = gateway.milters
    negotiation = struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)
    for packet in (b"Hclient\0", b"M<a@example.net>\0", b"Cclient\0U", b"Hcaf\xe9\0", b"E", b"Bx"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(negotiation + struct.pack("!I", len(packet)) + packet)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1024):
                pass
    wait_for(lambda: bool(gateway.events("not understood of the MTA")), 30, "the log")
    assert all(line.startswith("{") for line in gateway.log.read_text().splitlines())
    assert gateway.is_up()
    assert set(gateway.workers()) == before


@pytest.mark.server
def test_reload_replaces_all_workers(gateway: Gateway) -> None:
    before = set(gateway.workers())
    gateway.reload()
    wait_for(lambda: not before & set(gateway.workers()), 30, "the old workers to go")
    assert len(gateway.workers()) == 3
    assert gateway.is_up()


@pytest.mark.server
def test_reload_opens_and_closes_doors(gateway: Gateway) -> None:
    port = free_port()
    wanted = settings(gateway.directory)
    wanted["milter"]["listen"].append(f"inet:127.0.0.1:{port}")
    gateway.configure(to_toml(wanted))
    gateway.reload()
    wait_for(gateway.is_up, 30, "the second door")
    gateway.configure(to_toml(settings(gateway.directory)))
    gateway.reload()

    def shut() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    wait_for(shut, 30, "the second door to close")
    assert gateway.is_up()


@pytest.mark.server
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"milter": {"listen": []}}, "no door is open"),
        ({"milter": {"listen": ["unix:/no/such/folder/s"]}}, "cannot listen on unix:/no/such/folder/s"),
        ({"policy": {"weights": {"SPF_FALI": 1}}}, "did you mean SPF_FAIL?"),
        ({"smarthost": {"listen": ["127.0.0.1:2"], "certificate": "/no/such/file"}}, "certificate, key"),
        ({"store": {"database": "sqlite:////dev/null/mailwarden.db"}}, "/dev/null"),
        ({"classifier": {"model": "/no/such/model", "required": True}}, "classifier"),
    ],
)
def test_bad_reload_changes_nothing(gateway: Gateway, changes: dict[str, Any], expected: str) -> None:
    """Whatever is wrong with the new configuration, the old one goes on serving."""
    wait_for(lambda: len(gateway.workers()) == 3, 30, "the workers of reloads before to go")
    before = set(gateway.workers())
    refusals = "configuration refused, the old one stays"
    count = len(gateway.events(refusals))
    gateway.file.write_text(to_toml(settings(gateway.directory, **changes)))
    gateway.reload()
    wait_for(lambda: len(gateway.events(refusals)) > count, 30, "the refusal")
    gateway.file.write_text(to_toml(settings(gateway.directory)))
    assert expected in gateway.events(refusals)[-1]["error"]
    time.sleep(0.3)
    assert set(gateway.workers()) == before
    assert gateway.is_up()


@pytest.mark.server
def test_stops(lab: Path) -> None:
    """TERM ends all that is idle, with status 0, and before the grace time is over."""
    served = Gateway(lab / "stops", settings(lab / "stops")).start()
    workers = served.workers()
    assert served.stop() == 0
    assert served.events("stopped")
    assert not served.events("worker ended by force")
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.server
def test_workers_follow_their_supervisor(lab: Path) -> None:
    """A supervisor that is killed takes its workers along, so that a new one finds its doors free."""
    served = Gateway(lab / "orphans", settings(lab / "orphans")).start()
    workers = served.workers()
    assert served.process
    served.process.kill()
    served.process.wait(10)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 30, "the workers to follow")
    with Gateway(lab / "orphans", settings(lab / "orphans")) as again:
        assert again.is_up()


@pytest.mark.parametrize(("kind", "open_"), [("delivery", False), ("smarthost", True)])
def test_agents_keep_no_door_open(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, kind: Any, open_: bool
) -> None:
    """One that outlives its supervisor would keep the next one from its doors."""
    supervisor.loaded = type("Loaded", (), {"config": config()})()
    supervisor.sockets = {"door": socket.create_server(("127.0.0.1", 0))}
    monkeypatch.setattr(service, "run_worker", lambda *given: os._exit(int(given[2]["door"].fileno() >= 0)))
    pid = os.fork()
    if pid == 0:
        os._exit(supervisor._work(Post(kind), 1) + 7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == int(open_)


def test_a_worker_that_does_not_drain_ends_without_its_supervisor() -> None:
    life, alive = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(alive)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        service._follow(life, signal.SIGTERM, 0.2)
        time.sleep(20)
        os._exit(0)
    os.close(life)
    os.close(alive)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


@pytest.mark.server
def test_bad_configuration_does_not_start(lab: Path) -> None:
    """Status 78 (EX_CONFIG), and a text that says where."""
    with pytest.raises(StartError, match=r"ended with 78(?s:.*)mailwarden\.toml:\d+: unknown key hostnam;"):
        Gateway(lab / "bad", settings(lab / "bad", hostnam="x")).start()


@pytest.mark.server
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_output_to_a_full_disk() -> None:
    """One line and the status of an input/output error, and no traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 74
    assert done.stderr == "Error: No space left on device\n"
