# SPDX-License-Identifier: GPL-2.0-or-later
"""The public suites on content, judged whole with a real clamd, and what the reading costs. Data, not tests.

Each suite is a function from its folder's parent to outcomes, as in `auth_suites`. Messages come
with CRLF, as over SMTP. What has no clamd here, or no mail to measure with, raises `SkippedError`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import csv
import hashlib
import io
import random
import re
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from contrib.lab.clamd import Clamd
from contrib.lab.process import program
from gateway import assembly
from gateway.auth.settings import AuthSettings
from gateway.config import Config
from gateway.mail.mime import parse
from gateway.mail.names import extensions
from gateway.mail.types import Direction, Envelope, Evidence, Mail, Session, new_id
from gateway.metrics import Metrics
from gateway.pipeline import Judgement, consider
from gateway.policy.examine import examine
from gateway.policy.rules import PolicySettings
from gateway.scanners.clamd import ClamdSettings
from gateway.scanners.unpack.pool import Unpacker
from gateway.scanners.unpack.settings import UnpackSettings
from tests import bombs, evasions
from tests.conformance.auth_suites import Outcome, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS, MEGABYTES = 2.0, 256  # for one archive
AMBIGUOUS = 0.003  # of real mail, at most
MEDIAN_MS = 1.0  # for parsing and the signals of content
LARGE, TIMES = 25_000_000, 2.0  # octets of an attachment, and what it may cost
ROUNDS = 11  # in which both are measured
# No virus, and no archive: it is enough that it is tagged, and why.
FLAGGED = {"svg-script": "ATTACHMENT_SVG_SCRIPT"}
_SPAM = re.compile(r"(?:^|/)spam(?:_2)?/")


class SkippedError(Exception):
    """The suite cannot be run here; the text says why."""


@contextlib.contextmanager
def judging(most: int = 25_000_000) -> Iterator[Callable[[Mail], Judgement]]:
    """A pipeline with a real clamd and without the classifier, as a function of messages.

    `most` octets go to clamd in one piece.
    """
    if program("clamd") is None:
        raise SkippedError("clamd is not installed")
    with tempfile.TemporaryDirectory(prefix="mailwarden-conformance-") as directory:
        Path(directory).chmod(0o755)  # clamd drops its rights
        sizes = {name: str(4 * most) for name in ("StreamMaxLength", "MaxScanSize", "MaxFileSize")}
        with Clamd(Path(directory), options=sizes) as clamd:
            config = Config(
                hostname="mx.example.org",
                auth=AuthSettings(spf=False, dkim=False, dmarc=False, arc=False, iprev=False),
                antivirus=ClamdSettings(addresses=(clamd.addresses[0],), max_size=most),
                policy=PolicySettings(weights={"CLASSIFIER": 0.0}),
            )
            log = structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
            opened = assembly.assemble(assembly.load(config), Metrics(1).slot(0), log, threads=4, keep=False)
            try:
                yield lambda mail: consider(mail, opened.gateway)
            finally:
                opened.close()


def received(raw: bytes) -> Mail:
    """A message from outside."""
    session = Session(client_ip="192.0.2.10", direction=Direction.INBOUND)
    return Mail(new_id(), session, Envelope("a@example.net", ("b@example.com",)), over_smtp(raw), time.time())


def over_smtp(raw: bytes) -> bytes:
    """A stored message with the line ends of SMTP, and without the separator of an mbox."""
    if raw.startswith(b"From "):
        raw = raw.partition(b"\n")[2]
    return re.sub(rb"\r?\n", b"\r\n", raw)


def held(judgement: Judgement) -> bool:
    """Whether nobody gets the message."""
    return not judgement.verdict.relayed


def seen(judgement: Judgement) -> str:
    """The signals, for a row that failed."""
    return ", ".join(f"{s.name} {s.text[:40]}".rstrip() for s in judgement.signals)[:200]


def found_or_ambiguous(judgement: Judgement) -> bool:
    """Whether the virus was found, or the message is held for what is wrong with its structure."""
    content = judgement.content
    return judgement.evidence.antivirus.status == "infected" or (
        held(judgement) and bool(content.ambiguities or content.limits)
    )


# ---------------------------------------------------------------- evasion


def hidden_contents(root: Path) -> Iterator[Outcome]:
    """Run mime-is-broken: a file that readers see differently is found, or held as ambiguous."""
    folder = root / "mime-is-broken"
    with judging() as judge:
        for row in rows(folder / "cases.jsonl"):
            if row["kind"] == "hide-content":
                judgement = judge(received((folder / row["file"]).read_bytes()))
                yield Outcome(row["id"], found_or_ambiguous(judgement), seen(judgement))


def hidden_names(root: Path) -> Iterator[Outcome]:
    """Run mime-is-broken: the name of a file is seen as some client shows it, or the message is held."""
    folder = root / "mime-is-broken"
    with judging() as judge:
        for row in rows(folder / "cases.jsonl"):
            if row["kind"] == "hide-filename":
                judgement = judge(received((folder / row["file"]).read_bytes()))
                names = [name for a in judgement.content.attachments for name in a.names]
                wanted = "png" if row["id"].endswith(".png") else "zip"
                known = any(wanted in extensions(name)[:1] for name in names)
                yield Outcome(row["id"], known or held(judgement), str(names)[:200])


def valid_messages(root: Path) -> Iterator[Outcome]:
    """Run mime-is-broken: what is valid there (levels 2 and 3) is not called ambiguous."""
    folder = root / "mime-is-broken"
    for row in rows(folder / "cases.jsonl"):
        if row["validity"] >= 2:
            content = parse(over_smtp((folder / row["file"]).read_bytes()))
            marks = (*content.ambiguities, *content.limits)
            yield Outcome(row["id"], not marks, ", ".join(marks))


def nested(root: Path) -> Iterator[Outcome]:
    """Run eicar-nested: in encodings, archives and nestings, the virus is found, or held."""
    folder = root / "eicar-nested"
    with judging() as judge:
        for row in rows(folder / "cases.jsonl"):
            judgement = judge(received((folder / row["file"]).read_bytes()))
            flagged = FLAGGED.get(row["id"]) in {s.name for s in judgement.signals}
            yield Outcome(row["id"], held(judgement) or flagged, seen(judgement))


def false_ambiguity(root: Path) -> Iterator[Outcome]:
    """Read real ham: hardly a message of a collection is called ambiguous, or beyond a limit."""
    for name, messages in collections(root.parent / "corpus"):
        marked: dict[str, tuple[str, ...]] = {}
        count = 0
        for number, (where, raw) in enumerate(messages, 1):
            content = parse(over_smtp(raw))
            count = number
            if content.ambiguities or content.limits:
                marked[where] = content.ambiguities + content.limits
        if count:
            detail = f"{len(marked)} of {count}, {100 * len(marked) / count:.2f} %: {marked}"
            yield Outcome(name, len(marked) <= AMBIGUOUS * count, detail)


def collections(folder: Path) -> Iterator[tuple[str, Iterator[tuple[str, bytes]]]]:
    """The ham of each collection that lies here, one message after the other."""
    if not folder.is_dir():
        raise SkippedError("no collections of mail here")
    for name in ("spamassassin", "lists-2019-2021", "enron1-4_preprocessed"):
        archive = folder / f"{name}.tar.xz"
        if archive.exists():
            yield name, _ham(archive)


def _ham(archive: Path) -> Iterator[tuple[str, bytes]]:
    spam: set[str] = set()
    with tarfile.open(archive) as opened:
        for member in opened:
            file = opened.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            if member.name.endswith("index.tsv"):
                table = csv.reader(io.StringIO(file.read().decode("utf-8", "replace")), delimiter="\t")
                spam = {row[1].rpartition("/")[2] for row in table if len(row) > 1 and row[0] == "spam"}
            elif not _SPAM.search(member.name) and member.name.rpartition("/")[2] not in spam:
                yield member.name, file.read()


# ---------------------------------------------------------------- archives


def archives(root: Path, suite: str) -> Iterator[Outcome]:
    """Open what brought archive libraries down: within time and memory, each is read, or held."""
    folder = root / suite
    listed = folder / "cases.jsonl"
    files = (
        [path for row in rows(listed) if (path := folder / row["file"]).exists()]
        if listed.exists()
        else sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "ORIGIN.json")
    )
    unpacker = Unpacker(UnpackSettings(children=1))
    try:
        for path in files:
            yield _opened(unpacker, path)
    finally:
        unpacker.close()


def _opened(unpacker: Unpacker, path: Path) -> Outcome:
    children = [child._process.pid for child in unpacker._idle]
    before = {pid: _seconds(pid) for pid in children}
    for pid in children:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): forget the peak
    future = unpacker.submit(parse(bombs.mail(path.name, path.read_bytes())), time.monotonic() + 30)
    if future is None:
        return Outcome(path.name, passed=True, detail="no archive")
    answer, taken = future.result()
    status = answer.unpacked.status  # "error" is held, as all that was not seen to its end
    pids = [child._process.pid for child in unpacker._idle]
    used = max((_seconds(pid) - before.get(pid, 0.0) for pid in pids), default=0.0)
    peak = max(map(_peak, pids), default=0.0)
    passed = used <= SECONDS and peak <= MEGABYTES and taken < 10 * SECONDS * 1000
    detail = f"{status} {answer.unpacked.detail}: {used:.1f} s, {peak:.0f} MB, {taken:.0f} ms by the clock"
    return Outcome(path.name, passed, detail)


def _seconds(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _peak(pid: int) -> float:
    """Megabytes of memory that a process had at most."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


# ---------------------------------------------------------------- costs


def costs(root: Path) -> Iterator[Outcome]:
    """Measure what reading costs: real mail, and a large attachment in the whole pipeline."""
    archive = root.parent / "corpus" / "spamassassin.tar.xz"
    if archive.exists():
        policy = assembly.load(Config(hostname="mx.example.org")).policy
        times = []
        with tarfile.open(archive) as opened:
            files = (opened.extractfile(member) for member in opened if member.isfile())
            for mail in [received(file.read()) for file in files if file]:
                start = time.thread_time()
                examine(mail, parse(mail.raw), Evidence(), None, policy)
                times.append((time.thread_time() - start) * 1000)
        median = statistics.median(times)
        detail = f"median {median:.2f} ms, mean {statistics.mean(times):.2f} ms"
        yield Outcome("parsing and signals", median <= MEDIAN_MS, detail)
    yield _large_attachment()


def _large_attachment() -> Outcome:
    """Judge 25 MB with a real clamd, and compare with decoding and hashing them once."""
    text = base64.encodebytes(random.Random(1).randbytes(LARGE)).replace(b"\n", b"\r\n")
    mail = received(evasions.mixed(evasions.TEXT, evasions.attached(text)))
    with judging(2 * LARGE) as judge:
        scanned = judge(mail).evidence.antivirus.status
        pairs = [
            (
                _processor(lambda: judge(mail)),
                _processor(lambda: hashlib.sha256(binascii.a2b_base64(text))),
            )
            for _ in range(ROUNDS)
        ]
    # Page faults make either cost half as much again now and then: pairs differ, their median does not.
    times = statistics.median(ours / once for ours, once in pairs)
    milliseconds = statistics.median(ours for ours, _ in pairs) * 1000
    detail = f"{milliseconds:.0f} ms, {times:.2f} times decoding and hashing, {scanned}"
    return Outcome("25 MB attachment", scanned == "clean" and times <= TIMES, detail)


def _processor(work: Callable[[], object]) -> float:
    """Seconds of processor time of all our threads; clamd's and the children's are their own."""
    start = time.process_time()
    work()
    return time.process_time() - start


MEASURED = frozenset(
    ("false-ambiguity", "content-costs", "bombs")
)  # suites whose figures are worth a line each
SUITES: dict[str, Callable[[Path], Iterator[Outcome]]] = {
    "mime-is-broken": hidden_contents,
    "mime-is-broken-names": hidden_names,
    "mime-is-broken-valid": valid_messages,
    "eicar-nested": nested,
    "archives-libarchive": lambda root: archives(root, "archives-libarchive"),
    "archives-python": lambda root: archives(root, "archives-python"),
    "false-ambiguity": false_ambiguity,
    "content-costs": costs,
}
