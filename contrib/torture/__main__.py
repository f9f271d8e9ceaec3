# SPDX-License-Identifier: GPL-2.0-or-later
"""Kill processes of the smart host under load, and count what is lost and what comes twice.

    make torture
    python -m contrib.torture --kills 1000 --database postgresql

Clients hand in messages with ids of their own and try again until they are answered; a next hop
keeps what arrives, and now and then puts a message off. Meanwhile any process of the gateway, the
supervisor among them, gets SIGKILL at random moments. Each message that was answered with 250 must
arrive, whole, for each recipient; how often one arrives twice is counted. Then the disk is full,
then every sync fails, for a while each: nothing may be promised then that is not kept. The figures
go to build/torture.json.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contrib.figures import write_figures
from contrib.lab.dns import DnsStub
from contrib.lab.gateway import ROOT, Gateway, to_toml
from contrib.lab.postgresql import Postgresql
from contrib.lab.process import free_port
from contrib.lab.sink import Rule, Sink
from contrib.torture.sender import DOMAIN, Senders

_ID = re.compile(rb"\r\nSubject: (m\d{7})\r\n")
_WELL, _ILL = 2.0, 4.0  # seconds for which the disk works, and does not
_PATIENCE = 180.0  # seconds until the queue must be empty


@dataclass(frozen=True, slots=True)
class Count:
    """What came of one run. `doubled` counts arrivals of a message beyond the first for a recipient."""

    kind: str  # the database, or "faults"
    kills: int
    sent: int
    taken: int
    arrived: int
    lost: int
    doubled: int
    broken: int  # arrived, but not as it was sent
    left: int  # still in the queue at the end
    attempts: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing happened that must not."""
        return not (self.lost or self.broken or self.left) and self.doubled <= self.kills


def main() -> int:
    """Run, print and write the figures; return 1 if something must not have happened."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--kills", type=int, default=60, help="processes to kill (default 60)")
    asked.add_argument("--sessions", type=int, default=8, help="SMTP sessions at once (default 8)")
    asked.add_argument("--rate", type=float, default=60.0, help="messages a second, 0: no limit (default 60)")
    asked.add_argument("--pause", type=float, default=1.0, help="mean seconds between kills (default 1)")
    asked.add_argument("--seed", type=int, default=int(time.time()), help="of the random choices")
    asked.add_argument(
        "--database",
        choices=("sqlite", "postgresql", "all"),
        default="all",
        help="where the queue lies; all: PostgreSQL too, if it is installed (default)",
    )
    wanted = asked.parse_args()
    databases = ["sqlite"] if wanted.database == "sqlite" else ["postgresql"]
    if wanted.database == "all":
        databases = ["sqlite", *(["postgresql"] if Postgresql.available() else [])]
    print(f"Seed {wanted.seed}.", flush=True)
    counts = [tortured(kind, wanted) for kind in (*databases, "faults")]
    figures: dict[str, Any] = {
        "kills": sum(one.kills for one in counts),
        "lost": sum(one.lost for one in counts),
        "doubled": sum(one.doubled for one in counts),
    }
    for one in counts:
        figures |= {f"{one.kind}_{key}": value for key, value in asdict(one).items() if key != "kind"}
    print(f"Written to {write_figures('torture', figures)}.")
    return 0 if all(one.good for one in counts) else 1


def config(dns: DnsStub, next_hop: str, database: str) -> dict[str, Any]:
    """Return the configuration of the gateway: all of it but the virus scanner."""
    return {
        "hostname": "mx.example.org",
        "domains": [DOMAIN],
        "next_hop": next_hop,
        "grace": 10,
        "smarthost": {"listen": [f"127.0.0.1:{free_port()}"], "workers": 2},
        "queue": {"retry_first": 1.0, "retry_longest": 3.0, "pause_longest": 1.0, "lease": 6.0, "poll": 0.5},
        "dns": {"nameservers": [dns.nameserver]},
        "antivirus": {"enabled": False},
        "policy": {"thresholds": {"tag": 998, "quarantine": 999, "reject": 1000}},
        "store": {"database": database},
        "http": {"listen": ""},
    }


def tortured(kind: str, wanted: argparse.Namespace) -> Count:
    """Do one run in a directory of its own, and say what came of it."""
    directory = Path(tempfile.mkdtemp(prefix="mailwarden-torture-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        done = run(directory, kind, wanted)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    told = ", ".join(f"{value} {key}" for key, value in asdict(done).items() if key != "kind")
    print(f"{kind}: {told}", flush=True)
    return done


def run(directory: Path, kind: str, wanted: argparse.Namespace) -> Count:
    """One run with a fresh database: with kills, or with faults of the disk."""
    with ExitStack() as stack:
        dns = stack.enter_context(DnsStub({}))
        sink = stack.enter_context(Sink())
        url = f"sqlite:///{directory}/store/mailwarden.db"
        if kind == "postgresql":
            url = stack.enter_context(Postgresql(directory / "postgresql")).url
        settings = config(dns, f"smtp:{sink.address}", url)
        faults = directory / "faults"
        environment = shim(directory, faults) if kind == "faults" else {}
        gateway = Gateway(directory / "gateway", to_toml(settings), environment=environment)
        stack.callback(lambda: gateway.process and gateway.stop())
        gateway.start()
        began = time.monotonic()
        senders = Senders(gateway.smarthosts[0][1], wanted.sessions, wanted.rate, people=2)  # type: ignore[arg-type]  # TCP
        with senders:
            if kind == "faults":
                kills = 0
                fail(faults)
            else:
                kills = torment(gateway, sink, wanted)
        left = drained(gateway)
        seconds = time.monotonic() - began
        return count(kind, kills, senders, sink, left, seconds)


def torment(gateway: Gateway, sink: Sink, wanted: argparse.Namespace) -> int:
    """Kill random processes until there were enough kills."""
    chance = random.Random(wanted.seed)
    kills = 0
    while kills < wanted.kills:
        time.sleep(chance.uniform(0.0, 2 * wanted.pause))
        # What is put off in the meantime has a history in the queue.
        sink.rules[:] = [Rule("body", "451 4.3.0 not now", times=chance.randrange(4))]
        victim = chance.choice(gateway.tree())
        with suppress(ProcessLookupError, ValueError):
            gateway.kill(victim, signal.SIGKILL)
            kills += 1
        if gateway.process and victim == gateway.process.pid:
            gateway.process.wait()
            gateway.process = None
            gateway.start()
        if kills % 100 == 0:
            print(f"  {kills} kills, {len(sink.transactions)} arrived", flush=True)
    sink.rules.clear()
    return kills


def shim(directory: Path, faults: Path) -> dict[str, str]:
    """Build what makes the disk fail; the environment that loads it."""
    faults.mkdir()
    library = directory / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "MAILWARDEN_FAULTS": str(faults)}


def fail(faults: Path) -> None:
    """Let the disk be full, and fail to sync, by turns, each longer than any write is tried."""
    for name in ("full", "sync", "full", "sync"):
        time.sleep(_WELL)
        (faults / name).touch()
        time.sleep(_ILL)
        (faults / name).unlink()
    time.sleep(_WELL)


def drained(gateway: Gateway) -> int:
    """Wait until the queue is empty; how many messages are left in it."""
    end = time.monotonic() + _PATIENCE
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "--config", str(gateway.file), "queue", "list", "--json"],
            cwd=ROOT,
            env=dict(gateway.environment()),
            capture_output=True,
            check=False,
        )
        left = len(json.loads(done.stdout)) if done.returncode == 0 else -1
        if left == 0 or time.monotonic() > end:
            return left
        time.sleep(1.0)


def count(kind: str, kills: int, senders: Senders, sink: Sink, left: int, seconds: float) -> Count:
    """Bring together what clients heard and what arrived."""
    heard = senders.heard
    arrived: Counter[str] = Counter()
    broken = 0
    for transaction in sink.transactions:
        found = _ID.search(transaction.data)
        name = found[1].decode() if found else "?"
        broken += not transaction.data.endswith(f"end of {name}\r\n".encode())
        arrived.update(transaction.recipients)
    lost = sum(1 for name in heard.taken for n in range(2) if not arrived[f"{name}+{n}@{DOMAIN}"])
    return Count(
        kind=kind,
        kills=kills,
        sent=len(heard.sent),
        taken=len(heard.taken),
        arrived=len(arrived),
        lost=lost,
        doubled=sum(max(arrived[f"{name}+{n}@{DOMAIN}"] - 1 for n in range(2)) for name in heard.taken),
        broken=broken,
        left=left,
        attempts=heard.attempts,
        seconds=round(seconds, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
