# SPDX-License-Identifier: GPL-2.0-or-later
"""Count every message: through Postfix and Mailwarden to the sink, in peace and while workers are killed.

    make torture-milter

Each message has a recipient of its own. It must be delivered, held or refused, and never two of
these, nor delivered twice; each that is delivered must carry the marks of our scanners; each DKIM
signature that verified before must verify after. In the second run a random process of the
gateway gets SIGKILL every second, and clients try again as mail servers do. A message whose worker
dies between holding it and saying so is held again (RFC 1047): such doubles are counted apart.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dkim
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from contrib.bench.__main__ import config
from contrib.bench.corpus import messages
from contrib.bench.load import DOMAIN, hand_in, recipient
from contrib.figures import write_figures
from contrib.lab.clamd import Clamd
from contrib.lab.dns import DnsStub
from contrib.lab.gateway import ROOT, Gateway, to_toml
from contrib.lab.postfix import Postfix
from contrib.lab.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contrib.bench.load import Handed

_SIGNER = b"signed.example.com"
_EVERY = 5  # every fifth message is signed, header and body "simple": the least forgiving
_MARKS = (
    b"X-Virus-Scanned: Mailwarden at mx.example.org",
    b"X-Spam-Status: ",
    b"Authentication-Results: mx.",
)


@dataclass(frozen=True, slots=True)
class Count:
    """What became of the messages of one run."""

    messages: int
    delivered: int
    held: int
    refused: int
    retried: int
    lost: int
    doubled: int
    held_again: int
    unscanned: int
    signatures: int
    broken: int
    kills: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing happened that must not. A double costs nothing only where workers were killed."""
        doubled = 0 if self.kills else self.doubled + self.held_again
        return not (self.lost or self.unscanned or self.broken or doubled)


def main() -> int:
    """Run both, print and write the figures; return 1 if something must not have happened."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--messages", type=int, default=1000)
    asked.add_argument("--sessions", type=int, default=10)
    wanted = asked.parse_args()
    mail, source = messages(wanted.messages)
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    mail = [signed(raw, key) if number % _EVERY == 0 else raw for number, raw in enumerate(mail)]
    print(f"{len(mail)} messages of {source}, {wanted.sessions} sessions.", flush=True)
    counts = {}
    for name, kill in (("peace", False), ("kill", True)):
        directory = Path(tempfile.mkdtemp(prefix="mailwarden-durability-", dir="/tmp"))
        directory.chmod(0o755)
        try:
            counts[name] = run(directory, mail, key, wanted.sessions, kill=kill)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        facts = msgspec.to_builtins(counts[name]).items()
        print(f"{name}: " + ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in facts), flush=True)
    figures = {
        f"{name}_{k}": v for name, count in counts.items() for k, v in msgspec.to_builtins(count).items()
    }
    print(f"Written to {write_figures('durability', figures)}.")
    return 0 if all(count.good for count in counts.values()) else 1


def run(
    directory: Path, mail: Sequence[bytes], key: rsa.RSAPrivateKey, sessions: int, *, kill: bool
) -> Count:
    """Send all messages once, and count."""
    with ExitStack() as stack:
        dns = stack.enter_context(DnsStub({}))
        clamd = stack.enter_context(Clamd(directory / "clamd"))
        sink = stack.enter_context(Sink())
        settings = config(directory, dns, clamd, f"smtp:{sink.address}")
        gateway = stack.enter_context(Gateway(directory / "gateway", to_toml(settings)))
        postfix = stack.enter_context(
            Postfix(
                directory / "postfix",
                milter=settings["milter"]["listen"][0],
                relay_to=sink.address,
                domains=[DOMAIN],
                # Postfix itself must change nothing that a signature covers
                parameters={"disable_mime_output_conversion": "yes", "smtp_line_length_limit": "0"},
            )
        )
        kills = Counter[str]()
        began = time.monotonic()
        with killing(gateway, kills) if kill else ExitStack():
            handed = hand_in(postfix.port, mail, sessions, tries=200)
        seconds = time.monotonic() - began
        postfix.wait_empty(120)
        time.sleep(1)
        return count(handed, sink, held_recipients(gateway), key, kills["kill"], seconds)


@contextmanager
def killing(gateway: Gateway, kills: Counter[str]) -> Iterator[None]:
    """Kill a random process below the supervisor every second."""
    stopping = threading.Event()
    chance = random.Random(1)

    def work() -> None:
        while not stopping.wait(1.0):
            workers = gateway.workers()
            if workers:
                try:
                    gateway.kill(chance.choice(workers))
                except (ProcessLookupError, ValueError):
                    continue  # it has ended by itself
                kills["kill"] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def held_recipients(gateway: Gateway) -> Counter[str]:
    """Return how often each recipient has a message in the quarantine, by the real command."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gateway", "--config", str(gateway.file)),
            *("quarantine", "list", "--limit", "100000", "--json"),
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    items = msgspec.json.decode(done.stdout)
    return Counter(one["address"] for item in items for one in item["recipients"])


def count(
    handed: Sequence[Handed],
    sink: Sink,
    held: Counter[str],
    key: rsa.RSAPrivateKey,
    kills: int,
    seconds: float,
) -> Count:
    """Bring together what the clients heard, what arrived, and what is held."""
    arrived = Counter(one for transaction in sink.transactions for one in transaction.recipients)
    taken = {recipient(one.number) for one in handed if one.code == 250}
    with_signature = [t for t in sink.transactions if t.data.find(b"d=" + _SIGNER) > 0]
    return Count(
        messages=len(handed),
        delivered=len(arrived),
        held=len(held),
        refused=sum(one.code >= 500 for one in handed),
        retried=sum(one.tries - 1 for one in handed),
        lost=sum(1 for one in taken if not arrived[one] and not held[one])
        + sum(1 for one in handed if one.code != 250 and one.code < 500),
        doubled=sum(times - 1 for times in arrived.values()) + sum(1 for one in arrived if held[one]),
        held_again=sum(times - 1 for times in held.values()),
        unscanned=sum(not marked(transaction.data) for transaction in sink.transactions),
        signatures=len(with_signature),
        broken=sum(not verifies(transaction.data, key) for transaction in with_signature),
        kills=kills,
        seconds=round(seconds, 1),
    )


def marked(message: bytes) -> bool:
    """Whether our fields stand in the header section, above everything that was there before."""
    head = message.partition(b"\r\n\r\n")[0]
    return all(mark in head for mark in _MARKS)


def signed(raw: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """Sign a message, if it can be signed so that it verifies."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    try:
        field: bytes = dkim.sign(raw, b"s", _SIGNER, private, canonicalize=(b"simple", b"simple"))
    except (dkim.DKIMException, ValueError, IndexError):
        return raw
    return field + raw if verifies(field + raw, key) else raw


def verifies(message: bytes, key: rsa.RSAPrivateKey) -> bool:
    """Whether our signature holds; other signatures in the message are not looked at."""
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])
    at = message.find(b"DKIM-Signature:")
    # what Postfix and the gateway put on top is no part of what was signed
    try:
        return bool(dkim.DKIM(message[at:]).verify(dnsfunc=lambda *_, **__: record))
    except Exception:  # noqa: BLE001  # dkimpy raises what it likes on odd mail; that is no pass
        return False


if __name__ == "__main__":
    sys.exit(main())
