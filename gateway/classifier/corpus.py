# SPDX-License-Identifier: GPL-2.0-or-later
"""Mail to learn from and to measure with: folders, mbox, Maildir, single files, indexes and tables.

Reads hostile mail and the indexes of strangers: regular files only, nothing outside the folder of
an index, no symbolic links inside a folder, a bounded number of messages, and of each message its
first octets only. Nothing is decoded here.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MESSAGE_LIMIT: Final = 2 << 20  # octets that are read of a message
COUNT_LIMIT: Final = 1_000_000  # messages of one source
_LINE_LIMIT: Final = 100_000  # octets of an index line
_WALK_DEPTH: Final = 12

_SPAM_WORDS: Final = frozenset({"spam", "1", "junk", "phishing", "phish"})
_HAM_WORDS: Final = frozenset({"ham", "0", "good", "nonspam", "legitimate"})
_FIELD = re.compile(rb"(?im)^(?:from|to|date|received|message-id|return-path|mime-version|content-type):")


# The line before each message of an mbox (RFC 4155), and as programs write it that leave the date out.
_DATED = re.compile(rb"From .*\d:\d\d")
_BARE = re.compile(rb"From ")


class CorpusError(Exception):
    """A source of mail cannot be read; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A message, where it came from, and what people said it is (None: nothing)."""

    name: str
    raw: bytes
    spam: bool | None = None


def read(path: Path, spam: bool | None = None) -> Iterator[Sample]:
    """Give the messages of a file, an mbox, a Maildir or a folder, in the order of their names."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        yield from _folder(path, spam)
    elif stat.S_ISREG(mode):
        yield from _file(path, spam)
    else:
        raise CorpusError(f"{path}: neither a file nor a folder")


def read_index(path: Path) -> Iterator[Sample]:
    """Give the labelled messages that an index names, or a table of texts holds.

    Three kinds: lines of "label path" (as TREC has them), tab-separated "label, path, ...", and a
    CSV file whose head names the columns "label" and "text". Paths are relative to the index.
    """
    if path.suffix.lower() == ".csv":
        yield from _table(path)
        return
    root = path.resolve().parent
    inside = root.parent if root.parent.parent != root.parent else root  # never all of the disk
    with _reading(path) as file:
        for number, line in enumerate(_lines(file), 1):
            fields = line.decode("utf-8", "replace").split("\t" if b"\t" in line else None, 2)
            if len(fields) < 2 or number > COUNT_LIMIT:
                continue
            spam = label(fields[0])
            if spam is None:
                if number == 1:
                    continue  # the head of the table
                raise CorpusError(f"{path}:{number}: {fields[0][:40]!r} is neither ham nor spam")
            try:
                target = (root / fields[1].strip()).resolve()
            except (ValueError, RuntimeError, OSError) as error:  # a NUL in it, a loop of links
                raise CorpusError(f"{path}:{number}: {fields[1][:100]!r}: {error}") from error
            if not target.is_relative_to(inside):
                raise CorpusError(f"{path}:{number}: {fields[1][:100]!r} points out of the folder")
            try:
                yield Sample(str(target), as_message(_head(target)), spam)
            except OSError as error:
                raise CorpusError(f"{path}:{number}: {target}: {error.strerror}") from error


def label(word: str) -> bool | None:
    """Say whether a label means spam; None if it is neither."""
    word = word.strip().lower()
    return True if word in _SPAM_WORDS else False if word in _HAM_WORDS else None


def as_message(raw: bytes) -> bytes:
    """Make a message as a mail server would receive it: CRLF line ends, no mbox "From " line.

    A text file that starts with its subject and has no other field gets its empty line, and if it
    was taken apart into tokens ("http : / / www . example . com"), its signs go back to their words.
    """
    if raw.startswith(b"From "):
        raw = raw.partition(b"\n")[2]
    raw = re.sub(rb"\r?\n", b"\r\n", raw)
    if raw[:8].lower() == b"subject:" and not _FIELD.search(raw[:2000].partition(b"\r\n\r\n")[0]):
        subject, _, body = raw.partition(b"\r\n")
        return subject + b"\r\n\r\n" + _together(body)
    return raw


_LINK_APART = re.compile(rb"\b(?:https?|ftp) : / / \S+(?: [./?=&_-] ?\S+)*")
_SIGN_APART = re.compile(rb" ([.,:;!?)\]%'])|([(\[$']) ")


def _together(text: bytes) -> bytes:
    """Put a text together that was taken apart into tokens; other text hardly changes."""
    if b" . " not in text and b" , " not in text:
        return text
    text = _LINK_APART.sub(lambda found: found[0].replace(b" ", b""), text)
    return _SIGN_APART.sub(rb"\1\2", text)


def from_text(text: str) -> bytes:
    """Make a message of a bare text."""
    return as_message(b"Content-Type: text/plain; charset=utf-8\n\n" + text.encode("utf-8", "replace"))


# ---------------------------------------------------------------- kinds of sources


def _folder(path: Path, spam: bool | None) -> Iterator[Sample]:
    maildir = (path / "cur", path / "new")
    if all(one.is_dir() and not one.is_symlink() for one in maildir):
        names: Iterable[Path] = [name for one in maildir for name in sorted(one.iterdir())]
    else:
        names = _walk(path)
    count = 0
    for name in names:
        if name.name.startswith(".") or name.is_symlink() or not name.is_file():
            continue
        count += 1
        if count > COUNT_LIMIT:
            raise CorpusError(f"{path}: more than {COUNT_LIMIT} messages")
        yield from _file(name, spam)


def _walk(path: Path) -> Iterator[Path]:
    base = len(path.parts)
    for folder, folders, files in os.walk(path):
        folders.sort()
        if len(Path(folder).parts) - base >= _WALK_DEPTH:
            folders.clear()
        yield from (Path(folder, name) for name in sorted(files))


def _file(path: Path, spam: bool | None) -> Iterator[Sample]:
    try:
        start = _head(path, 5)
        if start == b"From " and _is_mbox(path):
            yield from _mbox(path, spam)
        else:
            yield Sample(str(path), as_message(_head(path)), spam)
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from error


def _reading(path: Path) -> BinaryIO:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CorpusError(f"{path}: not a regular file")
    return os.fdopen(handle, "rb")


def _head(path: Path, limit: int = MESSAGE_LIMIT) -> bytes:
    with _reading(path) as file:
        return file.read(limit)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LINE_LIMIT):
        yield line


def _between(first: bytes) -> re.Pattern[bytes]:
    """What lines between messages look like, by the first one: text that starts with "From " has no date."""
    return _DATED if _DATED.match(first) else _BARE


def _is_mbox(path: Path) -> bool:
    """Tell an mbox from one message with a "From " line: a second such line after an empty one."""
    with _reading(path) as file:
        empty = False
        between = _between(file.readline(_LINE_LIMIT))
        for line in _lines(file):
            if empty and between.match(line):
                return True
            empty = line in {b"\n", b"\r\n"}
    return False


def _mbox(path: Path, spam: bool | None) -> Iterator[Sample]:
    """Split an mbox; `>From ` loses its quote (mboxrd)."""
    count = 0
    message: list[bytes] = []
    size = 0
    empty = True
    with _reading(path) as file:
        between = _between(file.readline(_LINE_LIMIT))
        file.seek(0)
        for line in _lines(file):
            if empty and between.match(line):
                if message:
                    count += 1
                    yield Sample(f"{path}#{count}", as_message(b"".join(message)), spam)
                message, size = [], 0
                empty = False
                continue
            empty = line in {b"\n", b"\r\n"}
            size += len(line)
            if size <= MESSAGE_LIMIT:
                message.append(re.sub(rb"^>(>*From )", rb"\1", line))
            if count >= COUNT_LIMIT:
                raise CorpusError(f"{path}: more than {COUNT_LIMIT} messages")
    if message:
        yield Sample(f"{path}#{count + 1}", as_message(b"".join(message)), spam)


def _table(path: Path) -> Iterator[Sample]:
    csv.field_size_limit(MESSAGE_LIMIT)
    try:
        with io.TextIOWrapper(_reading(path), encoding="utf-8", errors="replace", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 1):
                if "label" not in row or "text" not in row:
                    raise CorpusError(f"{path}: its head names no columns “label” and “text”")
                spam = label(row["label"] or "")
                if spam is None or number > COUNT_LIMIT:
                    raise CorpusError(f"{path}:{number + 1}: the label is neither ham nor spam")
                yield Sample(f"{path}#{number}", from_text(row["text"] or ""), spam)
    except (OSError, csv.Error) as error:
        raise CorpusError(f"{path}: {error}") from error
