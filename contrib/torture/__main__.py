# SPDX-License-Identifier: GPL-2.0-or-later
"""Let everything fail around the smart host's queue, and count what is lost and what comes twice.

    make torture
    python -m contrib.torture --kills 500
    python -m contrib.torture --only power --cuts 200

Clients hand in messages with ids of their own and try again until they are answered; a next hop
keeps what arrives, and now and then puts a message off. Each message that was answered with 250 must
arrive, whole, for each recipient; how often one arrives twice is counted. Meanwhile, in trials of their own:

    sqlite, postgresql   any process of the gateway, the supervisor among them, gets SIGKILL
    power                the power is cut: only what was synced survives
    disk                 the disk is full, fails to sync, is read-only
    clock                the clock leaps, further than mail lives
    hops                 the next hop hangs, hangs up, talks nonsense, in each phase
    nodes                of two nodes on one PostgreSQL one dies for good
    restarts             PostgreSQL crashes and comes back

The figures go to build/torture.json.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrib.figures import write_figures
from contrib.lab.postgresql import Postgresql
from contrib.torture.disk import clock, disk
from contrib.torture.hops import hops
from contrib.torture.kills import kills, nodes, restarts
from contrib.torture.power import power
from contrib.torture.trial import staged

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from contrib.torture.trial import Count, Result, Stage

TRIALS: dict[str, Callable[[Stage, ExitStack], Result]] = {
    "sqlite": partial(kills, postgresql=False),
    "postgresql": partial(kills, postgresql=True),
    "power": power,
    "disk": disk,
    "clock": clock,
    "hops": hops,
    "nodes": nodes,
    "restarts": restarts,
}
_POSTGRESQL = ("postgresql", "nodes", "restarts")


def main() -> int:
    """Run the trials, print and write the figures; return 1 if something must not have happened."""
    wanted = arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is stopped
    names = wanted.only or [n for n in TRIALS if n not in _POSTGRESQL or Postgresql.available()]
    print(f"Seed {wanted.seed}.", flush=True)
    counts = run(names, wanted)
    figures: dict[str, Any] = {
        "kills": sum(one.events for one in counts if one.kind in ("sqlite", "postgresql")),
        "lost": sum(one.lost for one in counts),
        "doubled": sum(one.doubled for one in counts),
    }
    for one in counts:
        figures |= {f"{one.kind}_{key}": value for key, value in asdict(one).items() if key != "kind"}
    print(f"Written to {write_figures('torture', figures)}.")
    return 0 if all(one.good for one in counts) else 1


def arguments(given: list[str]) -> argparse.Namespace:
    """Read the command line."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument(
        "--kills", type=int, default=60, help="processes to kill on each database (default 60)"
    )
    asked.add_argument("--minutes", type=float, default=math.inf, help="stop killing, and count, after these")
    asked.add_argument("--cuts", type=int, default=200, help="power cuts to look at (default 200)")
    asked.add_argument("--sessions", type=int, default=8, help="SMTP sessions at once (default 8)")
    asked.add_argument("--rate", type=float, default=60.0, help="messages a second, 0: no limit (default 60)")
    asked.add_argument(
        "--pause",
        type=float,
        default=1.0,
        help="mean seconds between kills, four times as long before a node dies (default 1)",
    )
    asked.add_argument("--seed", type=int, default=int(time.time()), help="of the random choices")
    asked.add_argument("--only", action="append", choices=TRIALS, help="this trial only; may be given again")
    return asked.parse_args(given)


def run(names: list[str], wanted: argparse.Namespace) -> list[Count]:
    """Run trials one after the other, and say of each what came of it."""
    directory = Path(tempfile.mkdtemp(prefix="mailwarden-torture-", dir="/tmp"))
    directory.chmod(0o755)
    counts = []
    try:
        for name in names:
            counts.append(staged(name, directory / name, wanted, TRIALS[name]))
            told = ", ".join(f"{value} {key}" for key, value in asdict(counts[-1]).items() if key != "kind")
            print(f"{name}: {told}{'' if counts[-1].good else '  <-- must not be'}", flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return counts


if __name__ == "__main__":
    sys.exit(main())
