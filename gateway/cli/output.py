# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands print: tables for people, JSON for scripts, and nothing that a message made.

Prints hostile text. Every cell goes through `printable` and is a `Text`, so that neither terminal
escapes nor rich's own markup in a subject are obeyed; JSON is ASCII. No colour where nobody looks.
"""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gateway.mail.headers import printable
from gateway.mail.shown import moment as moment  # noqa: PLC0414  # the commands know it from here
from gateway.mail.shown import octets as octets  # noqa: PLC0414  # as above

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")
WIDE = 160  # columns where no terminal says how many there are


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that obeys no markup; `quiet` prints nothing. A pipe or file gets wide lines, no colour."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDE
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a terminal that knows fewer characters than mail does
    return Console(
        file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False, quiet=quiet
    )


def progress(items: Iterable[T], text: str) -> Iterator[T]:
    """Count items on the terminal while they are worked on, if somebody looks at it."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415  # seldom

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        for item in items:
            yield item
            bar.advance(task)


def safe(text: object, limit: int = 200, style: str = "") -> Text:
    """Hostile text as a cell or a line."""
    return Text(printable(str(text), limit), style=style)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> Table:
    """A plain table. A column whose name ends in ">" is aligned right; one in "!" is never cut."""
    made = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=False
    )
    for name in columns:
        right, whole = name.endswith(">"), name.endswith("!")
        made.add_column(
            name.rstrip(">!"),
            justify="right" if right else "left",
            no_wrap=right or whole,
            overflow="ellipsis" if right or whole else "fold",
            header_style="bold",
        )
    for row in rows:
        made.add_row(*[cell if isinstance(cell, Text) else safe(cell) for cell in row])
    return made


def entries(rows: Iterable[tuple[str, str]]) -> Group:
    """Two lines for each row, the second one indented, cut where the terminal ends."""
    lines = []
    for first, second in rows:
        lines += [safe(first, 500, "bold"), safe(f"  {second}", 500)]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def facts(rows: Iterable[tuple[str, object]]) -> Table:
    """Name and value, one pair a line; empty values are left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for name, value in rows:
        if value not in ("", None):
            made.add_row(Text(name), value if isinstance(value, Text) else safe(value, 500))
    return made


def print_json(value: object) -> None:
    """Print JSON in ASCII, so that no text in it can reach a terminal as anything else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True, indent=2) + "\n")
