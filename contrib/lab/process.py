# SPDX-License-Identifier: GPL-2.0-or-later
"""A server process: started with a log, waited for with a deadline, stopped for sure."""

from __future__ import annotations

import abc
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class StartError(Exception):
    """A server did not start; the text ends with the tail of its log."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens; no other caller on this machine gets it.

    It lies below those the kernel gives to clients, of which any connection may take one before the
    server is up that was promised it, or while that is down. It is reserved by a name in the abstract
    namespace, as long as this process lives.
    """
    clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(10_240, clients if clients > 11_240 else 65_536)
    for port in random.choices(ports, k=1000):
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0mailwarden-lab-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            name.close()
            continue
        name.detach()  # stays open
        return port
    raise OSError("no port is free")


def program(name: str) -> str | None:
    """Return the path of a program, looked for in the system directories too."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


def listens(address: str | tuple[str, int]) -> bool:
    """Tell whether something accepts connections at a unix path or (host, port)."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address)
        except OSError:
            return False
        return True


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until `condition()`; raises TimeoutError naming `what`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


_TICKS = os.sysconf("SC_CLK_TCK")


class Server(abc.ABC):
    """A server process with a log in `directory`. Subclasses say how to start it and when it is up."""

    name = "server"
    start_seconds = 60.0

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def command(self) -> Sequence[str]:
        """Return what to run."""

    def environment(self) -> Mapping[str, str]:
        """Return the environment of the process."""
        return os.environ

    @abc.abstractmethod
    def is_up(self) -> bool:
        """Tell whether the server accepts work."""

    def start(self) -> Self:
        """Start it and wait until it accepts work; raises StartError."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=dict(self.environment()),
                start_new_session=True,
            )
        end = time.monotonic() + self.start_seconds
        while not self.is_up():
            ended = self.process.poll()
            if ended is not None or time.monotonic() > end:
                self.stop()
                why = f"ended with {ended}" if ended is not None else f"not up in {self.start_seconds:g} s"
                raise StartError(f"{self.name} {why}; its log ends:\n{tail(self.log)}")
            time.sleep(0.02)
        return self

    def stop(self, seconds: float = 10.0) -> int | None:
        """End it, by force after `seconds`; return its exit status."""
        process, self.process = self.process, None
        if process is None:
            return None
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait(seconds)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ------------------------------------------------------------ processes

    def workers(self) -> list[int]:
        """Return the process ids of the server's children."""
        assert self.process
        return [pid for pid, parent in _parents().items() if parent == self.process.pid]

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one of our own processes; raises ValueError for any other."""
        if pid not in self.tree():
            raise ValueError(f"{pid} is no process of this {self.name}")
        os.kill(pid, number)

    def pss(self) -> float:
        """Return the memory of the whole process tree in MB: shared pages are shared out (PSS)."""
        total = 0
        for pid in self.tree():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue  # it has just ended
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total / 1024

    def cpu(self) -> float:
        """Return the processor seconds used by the whole process tree, ended children included."""
        return sum(map(_cpu, self.tree()))

    def tree(self) -> list[int]:
        """Return the process ids of the server and of all below it."""
        assert self.process
        parents = _parents()
        found = [self.process.pid]
        for pid in found:  # grows as it goes
            found += [child for child, parent in parents.items() if parent == pid]
        return found


def _parents() -> dict[int, int]:
    """Return the parent of each process there is."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (fields := _stat(int(folder.name))):
            found[int(folder.name)] = int(fields[1])
    return found


def _cpu(pid: int) -> float:
    fields = _stat(pid)
    # proc(5): utime, stime, and the same of children that were waited for
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name: state, parent, and so on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
