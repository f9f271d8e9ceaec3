# SPDX-License-Identifier: GPL-2.0-or-later
"""The same mail through Postfix with Mailwarden and Postfix with rspamd, interleaved in one run.

    make bench

Both have two scanning processes, the same DNS server, the same clamd, and the same clients: ten
sessions that are strangers to them. Only the filter's own processes count, not clamd's or Postfix's.
rspamd is Debian's, with the processes and modules that Debian gives it, and its DNS questions answered
by the same server. The medians go to build/bench.json. Against rspamd made as lean as it gets, asked
only what Mailwarden does: make bench ARGS=--lean, to build/bench-lean.json.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from contrib.bench.corpus import messages
from contrib.bench.load import DOMAIN, hand_in
from contrib.bench.rspamd import Rspamd
from contrib.demo.cases import letter
from contrib.figures import write_figures
from contrib.lab.certificates import Authority
from contrib.lab.clamd import EICAR, Clamd
from contrib.lab.dns import DnsStub
from contrib.lab.gateway import Gateway, to_toml
from contrib.lab.postfix import Postfix
from contrib.lab.process import free_port
from contrib.lab.sink import Sink
from gateway.cli.output import console, table

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKERS = 2
_VIRUS = letter("anna@example.net", "The tool", "Attached.", ("tool.bin", EICAR))


@dataclass(frozen=True, slots=True)
class Round:
    """What one round cost. `delivered` and `kept` (by the filter) make up what was accepted."""

    rate: float
    cpu_ms: float
    pss_mb: float
    accepted: int
    delivered: int
    refused: int


def main() -> int:
    """Measure, print and write; return 1 if a message got lost."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--messages", type=int, default=500, help="messages a round (default 500)")
    asked.add_argument("--rounds", type=int, default=3, help="rounds of each filter (default 3)")
    asked.add_argument("--sessions", type=int, default=10, help="SMTP sessions at once (default 10)")
    asked.add_argument("--archive", type=Path, help="a tar file with a message in each file to send instead")
    asked.add_argument(
        "--lean",
        action="store_true",
        help="rspamd by self-scan without its network modules (default: as Debian configures it)",
    )
    wanted = asked.parse_args()
    mail, source = messages(wanted.messages, wanted.archive)
    size = sum(map(len, mail)) / len(mail) / 1000
    print(
        f"{len(mail)} messages of {source}, {size:.1f} kB on average, {wanted.sessions} sessions.", flush=True
    )
    directory = Path(tempfile.mkdtemp(prefix="mailwarden-bench-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        start = start_seconds(directory)
        rounds, lost = compare(directory, mail, wanted)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report(rounds, start, "bench-lean" if wanted.lean else "bench")
    if lost:
        print(f"LOST: {lost} messages were accepted and are nowhere.")
    return 1 if lost else 0


def config(directory: Path, dns: DnsStub, clamd: Clamd, next_hop: str) -> dict[str, Any]:
    """Return the configuration of Mailwarden, its defaults but for addresses."""
    return {
        "hostname": "mx.example.org",
        "domains": [DOMAIN],
        "next_hop": next_hop,
        "milter": {"listen": [f"inet:127.0.0.1:{free_port()}"], "workers": WORKERS},
        "dns": {"nameservers": [dns.nameserver]},
        "antivirus": {"addresses": [clamd.addresses[0]]},
        "store": {"database": f"sqlite:///{directory}/store/mailwarden.db"},
        "http": {"listen": ""},
    }


def start_seconds(directory: Path) -> float:
    """Return the median time from start until both doors accept."""
    pair = Authority(directory / "tls").issue("mx.example.org")
    with DnsStub({}) as dns, Clamd(directory / "clamd-start") as clamd:
        times = []
        for number in range(3):
            settings = config(directory / f"start-{number}", dns, clamd, "smtp:127.0.0.1:25")
            settings["smarthost"] = {
                "listen": [f"127.0.0.1:{free_port()}"],
                "certificate": str(pair.certificate),
                "key": str(pair.key),
            }
            with Gateway(directory / f"start-{number}", to_toml(settings)) as gateway:
                times.append(gateway.started_in)
    return median(times)


def compare(
    directory: Path, mail: Sequence[bytes], wanted: argparse.Namespace
) -> tuple[dict[str, list[Round]], int]:
    """Run the rounds, the filters taking turns; return what they cost, and how many messages got lost."""
    with ExitStack() as stack:
        dns = stack.enter_context(DnsStub({}))
        clamd = stack.enter_context(Clamd(directory / "clamd"))
        sink = stack.enter_context(Sink())
        settings = config(directory, dns, clamd, f"smtp:{sink.address}")
        ours = stack.enter_context(Gateway(directory / "mailwarden", to_toml(settings)))
        theirs = stack.enter_context(
            Rspamd(
                directory / "rspamd",
                clamd=clamd.addresses[0],
                nameserver=dns.nameserver,
                workers=WORKERS,
                lean=wanted.lean,
            )
        )
        print(
            f"Ready: Mailwarden in {ours.started_in:.1f} s, rspamd in {theirs.started_in:.1f} s.", flush=True
        )
        filters: list[tuple[str, Gateway | Rspamd, Postfix]] = []
        for name, server, milter in (
            ("mailwarden", ours, settings["milter"]["listen"][0]),
            ("rspamd", theirs, f"inet:127.0.0.1:{theirs.port}"),
        ):
            postfix = Postfix(
                directory / f"postfix-{name}", milter=milter, relay_to=sink.address, domains=[DOMAIN]
            )
            filters.append((name, server, stack.enter_context(postfix)))
        results: dict[str, list[Round]] = {name: [] for name, _, _ in filters}
        lost = 0
        for number in range(-1, wanted.rounds):
            for name, server, postfix in filters:
                if number < 0:  # both fill their caches and compile their patterns
                    done = run(server, postfix, sink, mail[:50], wanted.sessions)
                    assert done.accepted, f"{name} takes no message"
                    assert hand_in(postfix.port, [_VIRUS], 1)[0].code >= 500, f"{name} does not ask clamd"
                    continue
                done = run(server, postfix, sink, mail, wanted.sessions)
                results[name].append(done)
                kept = _held(ours, done) if name == "mailwarden" else 0
                lost += done.accepted - done.delivered - kept
                print(
                    f"  {name:<10} {done.rate:6.1f} messages/s  {done.cpu_ms:6.2f} ms  {done.pss_mb:6.1f} MB"
                    f"  {done.delivered} delivered, {kept} held, {done.refused} refused",
                    flush=True,
                )
        return results, lost


def run(
    server: Gateway | Rspamd, postfix: Postfix, sink: Sink, mail: Sequence[bytes], sessions: int
) -> Round:
    """Send all of `mail` once."""
    sink.clear()
    gc.collect()
    before, began = server.cpu(), time.monotonic()
    handed = hand_in(postfix.port, mail, sessions)
    seconds = time.monotonic() - began
    postfix.wait_empty(60)
    time.sleep(0.6)  # the journal writes its last batch
    return Round(
        rate=len(mail) / seconds,
        cpu_ms=(server.cpu() - before) * 1000 / len(mail),
        pss_mb=server.pss(),
        accepted=sum(one.code == 250 for one in handed),
        delivered=len(sink.transactions),
        refused=sum(one.code != 250 for one in handed),
    )


def _held(gateway: Gateway, done: Round) -> int:
    """Count what the last round put into quarantine: its log has a line for each decision."""
    lines = gateway.log.read_text("utf-8", "replace").splitlines()
    decisions = [line for line in lines if "event=decision" in line][-(done.accepted + done.refused) :]
    return sum(" held=1" in line for line in decisions)


def report(rounds: dict[str, list[Round]], start: float, file: str) -> None:
    """Print the medians and their ratios, and write them to build/`file`.json."""
    middle = {
        name: (
            median(r.rate for r in done),
            median(r.cpu_ms for r in done),
            median(r.pss_mb for r in done),
        )
        for name, done in rounds.items()
    }
    ours, theirs = middle["mailwarden"], middle["rspamd"]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    rows = [
        ["messages a second", f"{ours[0]:.1f}", f"{theirs[0]:.1f}", f"{ratios[0]:.2f}"],
        ["processor time a message, ms", f"{ours[1]:.2f}", f"{theirs[1]:.2f}", f"{ratios[1]:.2f}"],
        ["memory (PSS), MB", f"{ours[2]:.0f}", f"{theirs[2]:.0f}", f"{ratios[2]:.2f}"],
        ["start to accepting on both doors, s", f"{start:.2f}", "", ""],
    ]
    console().print(table(["Median of the rounds", "Mailwarden>", "rspamd>", "Ratio>"], rows))
    figures = {
        "cpu_ms": round(ours[1], 2),
        "cpu_ms_rspamd": round(theirs[1], 2),
        "cpu_ratio": round(ratios[1], 3),
        "rate": round(ours[0], 1),
        "rate_rspamd": round(theirs[0], 1),
        "rate_ratio": round(ratios[0], 3),
        "pss_mb": round(ours[2], 1),
        "pss_mb_rspamd": round(theirs[2], 1),
        "start_s": round(start, 2),
    }
    print(f"Written to {write_figures(file, figures)}.")


if __name__ == "__main__":
    sys.exit(main())
