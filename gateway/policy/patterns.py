# SPDX-License-Identifier: GPL-2.0-or-later
"""Content patterns from `rules/patterns/`, matched by RE2.

Reads hostile text. RE2 runs in linear time whatever the pattern, so an administrator's pattern
cannot stop the gateway; the standard library's `re` could be made to. Every pattern brings
examples, and one that does not behave on them is refused when it is loaded.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import re2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from gateway.mail.types import Content

TEXT_LIMIT = 100_000  # characters of text that patterns look at


class RuleError(Exception):
    """A rules file that must not be used; the text names file and mend."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    where: str
    pattern: str
    must_match: list[str]
    must_not_match: list[str]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One compiled pattern. `where` is "subject", "text" or "header:NAME"."""

    name: str
    where: str
    regex: re2._Regexp
    source: str

    def find(self, text: str) -> str:
        """Return the text that matched, at most 80 characters, or "" where nothing did."""
        match = self.regex.search(text)
        return (match.group()[:80] or " ") if match else ""


class Patterns:
    """All patterns, grouped by where they look so that each text is read once for all of them."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self.patterns = tuple(patterns)
        self._sets: dict[str, tuple[re2.Set, tuple[Pattern, ...]]] = {}
        for where in dict.fromkeys(p.where for p in self.patterns):
            group = tuple(p for p in self.patterns if p.where == where)
            choice = re2.Set.SearchSet(_options())
            for pattern in group:
                choice.Add(pattern.source)
            choice.Compile()
            self._sets[where] = (choice, group)

    def matches(self, content: Content) -> Iterator[tuple[str, str]]:
        """Yield (pattern name, the text that matched) in the order of the files."""
        for where, (choice, group) in self._sets.items():
            text = _text(content, where)
            if not text:
                continue
            for index in sorted(choice.Match(text) or ()):
                pattern = group[index]
                yield pattern.name, pattern.find(text)


def load(directories: Iterable[Path]) -> Patterns:
    """Read all `*.toml` of the directories, in order of name. Raises `RuleError`."""
    found: dict[str, Pattern] = {}
    for directory in directories:
        if not directory.is_dir():
            raise RuleError(f"{directory}: no such directory of patterns")
        for path in sorted(directory.glob("*.toml")):
            for pattern in _read(path):
                if pattern.name in found:
                    raise RuleError(
                        f"{path}: the pattern {pattern.name} is defined twice; rename one of them"
                    )
                found[pattern.name] = pattern
    return Patterns(found.values())


def _read(path: Path) -> Iterator[Pattern]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        entries = msgspec.convert(table, dict[str, _Entry])
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise RuleError(f"{path}: {error}") from error
    for name, entry in entries.items():
        if entry.where not in ("subject", "text") and not entry.where.startswith("header:"):
            raise RuleError(f'{path}: {name}: where must be "subject", "text" or "header:NAME"')
        try:
            regex = re2.compile(entry.pattern, _options())
        except re2.error as error:
            raise RuleError(f"{path}: {name}: not a pattern that RE2 takes: {error}") from error
        pattern = Pattern(name, entry.where, regex, entry.pattern)
        for text in entry.must_match:
            if not pattern.find(text):
                raise RuleError(f"{path}: {name}: does not match its own example {text!r}")
        for text in entry.must_not_match:
            if pattern.find(text):
                raise RuleError(f"{path}: {name}: matches the example it must not match {text!r}")
        yield pattern


def _options() -> re2.Options:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = 16 << 20
    return options


def _text(content: Content, where: str) -> str:
    if where == "subject":
        return content.subject
    if where == "text":
        return "\n".join(f"{t.text}\n{t.hidden}" if t.hidden else t.text for t in content.texts)[:TEXT_LIMIT]
    fields = content.all(where.removeprefix("header:"))
    return "\n".join(f.value.decode("utf-8", "replace") for f in fields)[:TEXT_LIMIT]
