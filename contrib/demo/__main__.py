# SPDX-License-Identifier: GPL-2.0-or-later
"""Send messages of all kinds through both doors, and show what becomes of them and why.

    make demo

Exit status 0 only if every message ended as it should; the figures go to build/demo.json.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from contrib.demo.cases import BOB, names
from contrib.demo.stage import DOORS, Stage, stage
from contrib.figures import write_figures
from contrib.lab.gateway import ROOT
from contrib.lab.process import StartError, program, tail
from gateway.cli.output import console, table
from gateway.config import load
from gateway.store.database import open_database
from gateway.store.journal import Journal

if TYPE_CHECKING:
    from contrib.demo.cases import Case
    from contrib.demo.stage import Answer, Door
    from gateway.store.journal import Record

OUT = console()


@dataclass(slots=True)
class Row:
    """One message through one door: what came of it."""

    case: Case
    door: Door
    answer: Answer
    happened: str
    id: str  # of the judgement, "" if there was none
    wrong: str = ""  # what is not as it should be
    why: str = ""


def main() -> int:
    """Run the demonstration; return the exit status."""
    started = time.monotonic()
    missing = [name for name in ("postfix", "clamd") if not program(name)]
    if missing or os.geteuid() != 0:
        print(f"`make demo` installs {', '.join(missing)}" if missing else "Postfix needs root: `make demo`")
        return 2
    directory = Path(tempfile.mkdtemp(prefix="mailwarden-demo-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        with stage(directory) as running:
            introduce(running)
            rows = play(running)
            explain_rows(running, rows)
            show(rows)
            released = review(running)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    right = sum(not row.wrong for row in rows)
    seconds = round(time.monotonic() - started, 1)
    write_figures("demo", {"messages": len(rows), "right": right, "seconds": seconds})
    print(f"\n{right} of {len(rows)} messages ended as they should, {released} of 2 releases; {seconds} s.")
    return 0 if right == len(rows) and released == 2 else 1


def introduce(running: Stage) -> None:
    """Say what is running."""
    postfix = subprocess.run(["postconf", "-dh", "mail_version"], capture_output=True, text=True, check=True)
    clamd = subprocess.run(["clamd", "--version"], capture_output=True, text=True, check=True)
    print(f"Postfix {postfix.stdout.strip()}, {clamd.stdout.split('/')[0].strip()}, and Mailwarden,", end=" ")
    print(f"which was ready in {running.gateway.started_in:.1f} s, are running on loopback.\n")


# ---------------------------------------------------------------- the messages


def play(running: Stage) -> list[Row]:
    """Send all messages through both doors."""
    rows = []
    for case in running.cases:
        if not case.clamd:
            running.clamd.stop()
        rows += [observe(running, case, door) for door in DOORS]
        if not case.clamd:
            running.clamd.start()
    return rows


def observe(running: Stage, case: Case, door: Door) -> Row:
    """Send one message and see where it went."""
    before = len(running.sink.transactions)
    answer = running.send(case, door)
    decision = running.decision()
    row = Row(case, door, answer, "", decision.get("id", ""))
    if answer.command != "DATA":
        row.happened = f"refused {answer.code}"
    elif answer.code >= 400:
        row.happened = f"{'rejected' if answer.code >= 500 else 'deferred'} {answer.code}"
    elif decision.get("held") == len(case.recipients):
        row.happened = "held"
    elif decision.get("action") in ("relay", "tag"):
        row.happened, row.wrong = arrived(running, case, before)
    else:
        row.happened = "accepted, not judged"
    if row.happened != case.expected:
        row.wrong = row.wrong or f"expected {case.expected}"
    return row


def arrived(running: Stage, case: Case, before: int) -> tuple[str, str]:
    """Wait for the message at the delivery server; return how it came, and what is wrong with it."""
    try:
        got = running.sink.wait_for(before + 1, 15)[before]
    except TimeoutError:
        return "lost", "it did not arrive"
    wanted = case.arrives_for or case.recipients
    head = got.data.partition(b"\r\n\r\n")[0]
    happened = "tagged" if b"X-Spam-Flag: YES" in head else "delivered"
    if len(wanted) < len(case.recipients):
        happened = "split"
    if got.recipients != wanted:
        return happened, f"it came to {names(got.recipients)}"
    if got.data.partition(b"\r\n\r\n")[2] != case.message.partition(b"\r\n\r\n")[2]:
        return happened, "its body was changed"
    if b"Authentication-Results: mx.example.org;" not in head or b"X-Virus-Scanned: Mailwarden" not in head:
        return happened, "our header fields are missing"
    if case.absent and case.absent in head:
        return happened, "a forged field came through"
    return happened, ""


def explain_rows(running: Stage, rows: list[Row]) -> None:
    """Look up in the journal why each message was judged as it was."""
    database = open_database(load(running.gateway.file).store)
    journal = Journal(database)
    for row in rows:
        if not row.id:
            row.why = "before any message was sent"
            continue
        end = time.monotonic() + 10  # records are written in batches
        while (record := journal.find(row.id)) is None and time.monotonic() < end:
            time.sleep(0.1)
        if record is None:
            row.wrong = row.wrong or "no record in the journal"
            continue
        row.why = reason(record)
        weighed = {c.name for c in record.verdict.contributions if c.points or c.decides}
        if row.case.because and row.case.because not in weighed:
            row.wrong = row.wrong or f"{row.case.because} had no part in it"
    database.close()


def reason(record: Record) -> str:
    """Say in a line what decided."""
    verdict = record.verdict
    if verdict.reason != "score":
        return f"{verdict.reason}: {verdict.reason_text}"
    weighed = sorted((c for c in verdict.contributions if c.points), key=lambda c: -abs(c.points))
    return f"score {verdict.score:g}: " + ", ".join(f"{c.name} {c.points:+g}" for c in weighed[:2])


def show(rows: list[Row]) -> None:
    """Print the table."""
    cells: list[list[str | Text]] = []
    for row in rows:
        first = row.door == DOORS[0]
        happened = row.happened + (f" (to {names(row.case.arrives_for)})" if row.case.arrives_for else "")
        verdict = Text("NO", style="bold red") if row.wrong else Text("yes", style="green")
        cells.append(
            [
                row.case.name if first else "",
                row.door,
                row.case.expected,
                happened,
                verdict,
                str(row.answer).partition(" (id ")[0],
                f"WRONG: {row.wrong}; {row.why}" if row.wrong else row.why,
            ]
        )
    columns = ["Message", "Door!", "Expected!", "What happened", "Right!", "Reply", "Why"]
    if OUT.width < 130:  # a narrow terminal: what happened and why says most
        columns = [name for name in columns if name not in ("Expected!", "Reply")]
        cells = [[*cell[:2], *cell[3:5], cell[6]] for cell in cells]
    OUT.print(table(columns, cells))


# ---------------------------------------------------------------- the quarantine


def review(running: Stage) -> int:
    """List what is held, ask why, release twice; return how many releases were right."""
    call(running, "quarantine", "list")
    held = running.ask("quarantine", "list")
    virus_free = {item["subject"]: item["id"] for item in held}
    order = virus_free["Your order is on its way"]
    invoice = virus_free["Invoice 2041"]
    call(running, "explain", order)
    right = release(running, order, "Your order is on its way", whole=True)
    print("\nThe same back into Postfix, past the milter, which recognises its token and removes it:")
    return right + release(running, invoice, "Invoice 2041", whole=False, config=running.into_postfix)


def release(running: Stage, item: str, subject: str, *, whole: bool, config: Path | None = None) -> int:
    """Release one message and compare what arrives with what was sent."""
    before = len(running.sink.transactions)
    call(running, "quarantine", "release", item, config=config)
    original = next(c.message for c in running.cases if f"Subject: {subject}\r\n".encode() in c.message)
    try:
        got = running.sink.wait_for(before + 1, 20)[before]
    except TimeoutError:
        print("It did not arrive.")
        return 0
    same = got.data == original if whole else got.data.endswith(original)
    same = same and got.recipients == (BOB,) and b"X-Mailwarden-Release" not in got.data
    digest = hashlib.sha256(got.data[-len(original) :]).hexdigest()
    part = "" if whole else f" the last {len(original)} of them"
    print(f"It arrived for {names(got.recipients)}: {len(got.data)} octets,{part}", end="")
    print(f" {'exactly those' if same else 'NOT THOSE'} that were sent (SHA-256 {digest[:16]}…).")
    return int(same)


def call(running: Stage, *arguments: str, config: Path | None = None) -> None:
    """Run a command of `mailwarden` in sight of the reader."""
    print(f"\n$ mailwarden {' '.join(arguments)}", flush=True)
    done = subprocess.run(running.command(*arguments, config=config), cwd=ROOT, check=False)
    if done.returncode:
        print(f"exit status {done.returncode}; the gateway's log ends:\n{tail(running.gateway.log)}")


if __name__ == "__main__":
    sys.exit(main())
