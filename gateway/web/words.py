# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of the pages, as data: a file for each language, `rules/web.LANGUAGE.toml`, as digests have them.

Reads which languages a browser asks for. English has all words; a translation with other keys, or other
places for values, is refused at the start.
"""

from __future__ import annotations

import re
import string
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape

from gateway.policy.patterns import RuleError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from pathlib import Path

FIRST: Final = "en"
_FILE: Final = re.compile(r"web\.([a-z]{2,3})\.toml")
_ASKED: Final = re.compile(
    r"\s*([a-z]{2,3})(?:-[a-z0-9-]{1,30})?\s*(?:;\s*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?\s*"
)
_MOST: Final = 20  # languages of a browser that are looked at


@dataclass(frozen=True, slots=True)
class Words:
    """All that the pages say, in one language."""

    code: str
    texts: Mapping[str, str]

    def say(self, name: str, /, **values: Any) -> Markup:
        """A text with its values, escaped for a page."""
        return Markup(escape(self.texts[name])).format(**values)  # noqa: S704  # escaped before


def load_all(rules: Path) -> dict[str, Words]:
    """All languages that are there, by their codes, English first. Raises RuleError."""
    first = _load(rules / f"web.{FIRST}.toml")
    found = {FIRST: Words(FIRST, first)}
    for path in sorted(rules.iterdir()):
        if (code := _FILE.fullmatch(path.name)) and code[1] != FIRST:
            texts = _load(path)
            if wrong := first.keys() ^ texts.keys():
                raise RuleError(f"{path}: {', '.join(sorted(wrong)[:5])}: not the keys of English")
            for name, text in texts.items():
                if _places(text) != _places(first[name]):
                    raise RuleError(f"{path}: {name}: not the braces of English")
            found[code[1]] = Words(code[1], texts)
    return found


def _load(path: Path) -> dict[str, str]:
    try:
        texts = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RuleError(f"{path}: {error}") from error
    for name, text in texts.items():
        if not isinstance(text, str) or not text.isprintable() or not text or set(text) & set("<>"):
            raise RuleError(f"{path}: {name}: one line of text without < and >")
        try:
            _places(text)
        except ValueError as error:
            raise RuleError(f"{path}: {name}: {error}") from error
    return texts


def _places(text: str) -> set[str]:
    """The names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def wanted(chosen: str, accepted: str, known: Container[str]) -> str:
    """The language chosen, else the best of those that the browser accepts, else English."""
    if chosen in known:
        return chosen
    best, weight = FIRST, 0.0
    for asked in accepted[:500].lower().split(",")[:_MOST]:
        if (found := _ASKED.fullmatch(asked)) and found[1] in known:
            q = float(found[2] or 1.0)
            if q > weight:
                best, weight = found[1], q
    return best
