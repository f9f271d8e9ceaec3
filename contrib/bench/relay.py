# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the smart host with Postfix as a plain relay: the same mail, machine and next hop.

    make bench-relay
    python -m contrib.bench.relay --messages 1000 --rounds 3

Postfix's own smtp-source hands messages in, its smtp-sink takes them. The time is that from the first
connection to the arrival of the last message, so both the way in and the way out count, and the queue
between them. Postfix, the smart host with judging (all checks but clamd, which Postfix has not got)
and the smart host without take turns, and the median of their rounds counts. Then: the
processor time of large messages, how long they keep the event loop from another client, and how
long a good client waits among a thousand that send an octet now and then. The figures go to
build/relay.json.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import smtplib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrib.bench.corpus import messages
from contrib.figures import write_figures
from contrib.lab.certificates import Authority
from contrib.lab.dns import DnsStub
from contrib.lab.gateway import Gateway, to_toml
from contrib.lab.postfix import Postfix
from contrib.lab.process import free_port, listens, program, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrib.lab.process import Server

DOMAIN = "example.org"
LARGE = 10_000_000  # octets
_PATIENCE = 300.0  # seconds for one round
_SLOW = 1_000  # clients that hardly say anything
_RECIPIENT = f"RCPT TO:<user@{DOMAIN}>\r\n".encode()


@dataclass(frozen=True, slots=True)
class Relay:
    """One of those that are compared."""

    name: str
    server: Server
    port: int


class Counter:
    """Postfix's smtp-sink, which counts and forgets."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._out = directory / "sink.out"
        with self._out.open("wb") as out:
            command = [
                program("smtp-sink") or "smtp-sink",
                "-c",
                "-u",
                "nobody",
                f"127.0.0.1:{self.port}",
                "1024",
            ]
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        wait_for(lambda: listens(("127.0.0.1", self.port)), 10, "smtp-sink")

    def count(self) -> int:
        """How many messages have come."""
        with self._out.open("rb") as out:
            out.seek(max(0, self._out.stat().st_size - 100))
            found = out.read().rpartition(b"mesg=")[2].split()
        return int(found[0]) if found else 0

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def main() -> int:
    """Measure, print, and write the figures; return 1 if a bar is missed."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--messages", type=int, default=1000, help="of one round (default 1000)")
    asked.add_argument("--rounds", type=int, default=3, help="of each (default 3)")
    asked.add_argument("--sessions", type=int, default=20, help="SMTP sessions at once (default 20)")
    asked.add_argument("--keep", action="store_true", help="many messages over one connection")
    asked.add_argument("--only", choices=("rate", "large", "slow"), help="leave out the other measurements")
    wanted = asked.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="mailwarden-relay-", dir="/tmp"))
    directory.chmod(0o755)
    figures: dict[str, Any] = {}
    try:
        for name, measure in (("rate", rates), ("large", large), ("slow", slow)):
            if wanted.only in (None, name):
                figures |= measure(directory / name, wanted)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for key, value in figures.items():
        print(f"{key}: {value}")
    print(f"Written to {write_figures('relay', figures)}.")
    return 0 if all(value for key, value in figures.items() if key.endswith("_good")) else 1


# ---------------------------------------------------------------- the servers


def config(directory: Path, dns: DnsStub, sink: Counter, **smarthost: Any) -> dict[str, Any]:
    """Return the configuration of a smart host with its queue."""
    return {
        "hostname": "mx.example.org",
        "domains": [DOMAIN],
        "next_hop": f"smtp:127.0.0.1:{sink.port}",
        "smarthost": {"listen": [f"127.0.0.1:{free_port()}"], "client_connection_limit": 1000, **smarthost},
        "dns": {"nameservers": [dns.nameserver]},
        "antivirus": {"enabled": False},
        "policy": {"thresholds": {"tag": 998, "quarantine": 999, "reject": 1000}},
        "store": {"database": f"sqlite:///{directory}/store/mailwarden.db"},
        "http": {"listen": ""},
    }


@contextmanager
def relays(directory: Path, sink: Counter, **smarthost: Any) -> Iterator[list[Relay]]:
    """Start all that are compared."""
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        dns = stack.enter_context(DnsStub({"example.net": {"TXT": ["v=spf1 ip4:127.0.0.0/8 -all"]}}))
        limit = {"message_size_limit": "60000000", "smtpd_client_connection_rate_limit": "0"}
        postfix = Postfix(directory / "postfix", relay_to=f"127.0.0.1:{sink.port}", parameters=limit)
        found = [Relay("postfix", stack.enter_context(postfix), postfix.port)]
        for name, changes in (("judging", {}), ("plain", {"unjudged_networks": ["127.0.0.0/8"]})):
            place = directory / name
            settings = config(place, dns, sink, **smarthost, **changes)
            gateway = stack.enter_context(Gateway(place, to_toml(settings)))
            found.append(Relay(name, gateway, gateway.smarthosts[0][1]))  # type: ignore[arg-type]  # TCP
        yield found


# ---------------------------------------------------------------- messages per second


def rates(directory: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """Measure messages per second of each, in turns."""
    directory.mkdir()
    letter = directory / "letter.eml"
    letter.write_bytes(_letter())
    sink = Counter(directory)
    found: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    try:
        with relays(directory, sink, verify_recipients=False) as those:
            for number in range(wanted.rounds + 1):  # the first warms up
                for relay in those:
                    count = wanted.messages if number else min(100, wanted.messages)
                    before = relay.server.cpu()
                    rate = _round(relay, sink, letter, count, wanted)
                    if number:
                        found.setdefault(relay.name, []).append(rate)
                        used.setdefault(relay.name, []).append((relay.server.cpu() - before) / count * 1000)
                        print(f"  {relay.name}: {rate:.0f} messages a second", flush=True)
    finally:
        sink.stop()
    middle = {name: statistics.median(values) for name, values in found.items()}
    ratios = {name: middle[name] / middle["postfix"] for name in ("judging", "plain")}
    return {
        **{f"{name}_per_second": round(value, 1) for name, value in middle.items()},
        **{f"{name}_cpu_ms": round(statistics.median(values), 2) for name, values in used.items()},
        **{f"{name}_to_postfix": round(value, 2) for name, value in ratios.items()},
        "judging_good": ratios["judging"] >= 0.5,
        "plain_good": ratios["plain"] >= 1.0,
    }


def _round(relay: Relay, sink: Counter, letter: Path, count: int, wanted: argparse.Namespace) -> float:
    """Send `count` messages; how many a second arrived."""
    there = sink.count()
    began = time.monotonic()
    command = [
        program("smtp-source") or "smtp-source",
        *(["-d"] if wanted.keep else []),
        *("-s", str(wanted.sessions), "-m", str(count), "-F", str(letter)),
        *("-f", "sender@example.net", "-t", f"recipient@{DOMAIN}", "-M", "client.example.net"),
        f"127.0.0.1:{relay.port}",
    ]
    subprocess.run(command, check=True, timeout=_PATIENCE)
    wait_for(lambda: sink.count() >= there + count, _PATIENCE, f"{count} messages through {relay.name}")
    return count / (time.monotonic() - began)


def _letter() -> bytes:
    """A message of some 4,000 octets; smtp-source wants bare LF."""
    found = [one for one in messages(200)[0] if 3_000 < len(one) < 5_000]
    text = found[0] if found else messages(1)[0][0]
    return text.replace(b"\r\n", b"\n")


# ---------------------------------------------------------------- large messages


def large(directory: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """Measure the processor time of large messages, and how long another client waits meanwhile."""
    directory.mkdir()
    sink = Counter(directory)
    figures: dict[str, Any] = {}
    message = _attachment()
    try:
        with relays(directory, sink, workers=1) as those:
            for relay in those:
                _deliver(relay, sink, message)  # the first warms up
                seconds: list[float] = []
                stalls: list[float] = []
                for _ in range(max(3, wanted.rounds)):
                    before = relay.server.cpu()
                    with _neighbour(relay.port, stalls):
                        _deliver(relay, sink, message)
                    seconds.append(relay.server.cpu() - before)
                figures[f"{relay.name}_large_cpu_s"] = round(statistics.median(seconds), 3)
                figures[f"{relay.name}_large_stall_ms"] = round(max(stalls) * 1000)
    finally:
        sink.stop()
    for name in ("judging", "plain"):
        ratio = figures[f"{name}_large_cpu_s"] / figures["postfix_large_cpu_s"]
        figures[f"{name}_large_cpu_to_postfix"] = round(ratio, 2)
        figures[f"{name}_large_cpu_good"] = ratio <= 3.0
        figures[f"{name}_large_stall_good"] = figures[f"{name}_large_stall_ms"] <= 200
    return figures


def _attachment() -> bytes:
    """A message with a picture of noise, so that nothing about it is cheap."""
    import base64  # here only
    import random

    noise = base64.encodebytes(random.Random(1).randbytes(LARGE * 3 // 4)).replace(b"\n", b"\r\n")
    return (
        b"From: sender@example.net\r\nTo: recipient@example.org\r\nSubject: the picture\r\n"
        b"MIME-Version: 1.0\r\nDate: Mon, 5 Jan 2026 10:00:00 +0000\r\nMessage-ID: <large@example.net>\r\n"
        b'Content-Type: image/png; name="a.png"\r\nContent-Disposition: attachment; filename="a.png"\r\n'
        b"Content-Transfer-Encoding: base64\r\n\r\n" + noise
    )


def _deliver(relay: Relay, sink: Counter, message: bytes) -> None:
    """Bring one message to the sink."""
    there = sink.count()
    with smtplib.SMTP("127.0.0.1", relay.port, "client.example.net", timeout=120) as client:
        client.sendmail("sender@example.net", [f"recipient@{DOMAIN}"], message)
    wait_for(lambda: sink.count() > there, _PATIENCE, f"a large message through {relay.name}")


@contextmanager
def _neighbour(port: int, waits: list[float]) -> Iterator[None]:
    """Another client of the same worker, which says NOOP again and again; adds how long each took."""
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            with smtplib.SMTP("127.0.0.1", port, "client.example.net", timeout=60) as client:
                client.ehlo()
                for _ in range(50):
                    began = time.monotonic()
                    client.noop()
                    waits.append(time.monotonic() - began)
                    if stopping.wait(0.005):
                        break

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


# ---------------------------------------------------------------- slow clients


def slow(directory: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """Measure how long a good client waits among many slow ones, and what these cost in memory."""
    del wanted
    directory.mkdir()
    sink = Counter(directory)
    letter = _letter().replace(b"\n", b"\r\n")
    try:
        pair = Authority(directory / "ca").issue("localhost")
        files = {"certificate": str(pair.certificate), "key": str(pair.key)}
        with relays(directory, sink, **files) as those:
            relay = those[1]
            _deliver(relay, sink, letter)
            before = relay.server.pss()
            waits = []
            with _drip(relay.port):
                for _ in range(10):
                    began = time.monotonic()
                    _deliver(relay, sink, letter)
                    waits.append(time.monotonic() - began)
                after = relay.server.pss()
    finally:
        sink.stop()
    return {
        "slow_clients": _SLOW,
        "slow_worst_s": round(max(waits), 2),
        "slow_memory_mb": round(after - before),
        "slow_good": max(waits) < 2.0,
    }


# What slow clients have said, and were answered, before they hardly say anything any more.
_PHASES = (
    (),  # before the greeting is read
    (b"E",),
    (b"EHLO slow.example.net\r\n", b"MAIL FR"),
    (b"EHLO slow.example.net\r\n", b"STARTTLS\r\n", b"\x16\x03\x01"),
    (b"EHLO slow.example.net\r\n", b"MAIL FROM:<a@example.net>\r\n", _RECIPIENT, b"DATA\r\n", b"Subj"),
    (b"EHLO slow.example.net\r\n", b"MAIL FROM:<a@example.net>\r\n", _RECIPIENT, b"BDAT 90000 LAST\r\n"),
)


@contextmanager
def _drip(port: int) -> Iterator[None]:
    """Clients from many addresses, in all phases of the dialogue, that send an octet every ten seconds."""
    stopping = threading.Event()
    clients: list[socket.socket] = []
    for number in range(_SLOW):
        client = socket.create_connection(
            ("127.0.0.1", port),
            timeout=30,
            source_address=(f"127.0.{1 + number // 200}.{1 + number % 200}", 0),
        )
        clients.append(client)
        for said in _PHASES[number % len(_PHASES)]:
            client.recv(4096)
            client.sendall(said)
        client.setblocking(False)  # the socket's own signature

    def work() -> None:
        while not stopping.wait(10.0):
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(b"x")

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        for client in clients:
            client.close()


if __name__ == "__main__":
    sys.exit(main())
