# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict in two sentences for end users, in their language, of words that are data.

Says nothing that a message brought: neither addresses nor subjects nor words, so that it can stand
anywhere. Points and names of signals are left to operators.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.mail.types import Action
from gateway.policy.counterfactual import answers
from gateway.policy.decide import UNANSWERED
from gateway.policy.patterns import RuleError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from gateway.mail.types import Verdict

_MOST: Final = 3  # reasons that a sentence names
_MALWARE: Final = "VIRUS"
_BRACES: Final = re.compile(r"\{([a-z]+)\}")


class Joining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How several phrases become one."""

    comma: str
    last: str
    more: str


class Sentences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two for each outcome."""

    held: tuple[str, str]
    malware: tuple[str, str]
    rejected: tuple[str, str]
    deferred: tuple[str, str]
    tagged: tuple[str, str]
    stripped: tuple[str, str]
    delivered: tuple[str, str]


class Wording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The words of one language, `rules/words.LANGUAGE.toml`."""

    sentences: Sentences
    joining: Joining
    phrases: dict[str, str]
    # Short sentences of the program, by their English; what stands in braces is a value.
    told: dict[str, str] = {}

    def phrase(self, name: str) -> str:
        """What a signal means to somebody who does not know it by name."""
        if name in self.phrases:
            return self.phrases[name]
        if name.endswith(UNANSWERED):
            return self.phrases["*" + UNANSWERED]
        fitting = [start for start in self.phrases if name.startswith(start)]
        return self.phrases[max(fitting, key=len, default="*")]

    def say(self, text: str) -> str:
        """A sentence of the program in this language; in English where the language has none for it."""
        if text in self.told:
            return self.told[text]
        for english, theirs in self.told.items():
            if "{" in english and (values := _values(english, text)) is not None:
                return _BRACES.sub(lambda found, values=values: values[found[1]], theirs)  # type: ignore[misc]  # bound now
        return text


def load(rules: Path, language: str = "en") -> Wording:
    """Read the words of a language. Raises `RuleError`."""
    path = rules / f"words.{language}.toml"
    try:
        found = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Wording)
        found.phrases["*"], found.phrases["*" + UNANSWERED]
    except (OSError, ValueError, KeyError) as error:
        raise RuleError(f"{path}: {error}") from error
    for english, theirs in found.told.items():
        if set(_BRACES.findall(english)) != set(_BRACES.findall(theirs)):
            raise RuleError(f"{path}: {english}: not the braces of English")
    return found


def brief(wording: Wording, verdict: Verdict, lifted: Collection[str] = (), recipient: str = "") -> str:
    """Two sentences about what became of a message, for one of its recipients, or for the worst off."""
    sentences = wording.sentences
    found = [one for one in answers(verdict, lifted) if not recipient or recipient in one.recipients]
    if not found:
        if any(o.action is Action.STRIP for o in verdict.outcomes if recipient in ("", o.recipient)):
            names = [c.name for c in verdict.contributions if c.decides is Action.STRIP]
            return _said(sentences.stripped, because(wording, names), verdict.id)
        tagged = any(o.action is Action.TAG for o in verdict.outcomes if recipient in ("", o.recipient))
        positive = sorted(verdict.contributions, key=lambda c: -c.points)
        why = because(wording, [c.name for c in positive if c.points > 0])
        return _said(sentences.tagged if tagged else sentences.delivered, why, verdict.id)
    worst = found[0]
    failed = {c.name for c in verdict.contributions if not c.answered}
    decisive = worst.ways[0].without if worst.ways else (verdict.reason,)
    names = [name + UNANSWERED if name in failed else name for name in decisive]
    chosen = {Action.REJECT: sentences.rejected, Action.DEFER: sentences.deferred}.get(
        worst.action, sentences.malware if _MALWARE in names else sentences.held
    )
    return _said(chosen, because(wording, names), verdict.id)


def because(wording: Wording, names: Sequence[str]) -> str:
    """The phrases of signals, each once; of many the first, and that there are more."""
    phrases = list(dict.fromkeys(wording.phrase(name) for name in names)) or [wording.phrases["*"]]
    if len(phrases) > _MOST:
        phrases = [*phrases[:_MOST], wording.joining.more]
    if len(phrases) == 1:
        return phrases[0]
    return wording.joining.comma.join(phrases[:-1]) + wording.joining.last + phrases[-1]


def _values(english: str, text: str) -> dict[str, str] | None:
    """What stands in `text` in place of each of the braces; None if it is another sentence."""
    start, *rest = _BRACES.split(english)
    if not text.startswith(start):
        return None
    values, at = {}, len(start)
    for name, after in zip(rest[::2], rest[1::2], strict=True):
        last = after is rest[-1]
        end = len(text) - len(after) if last else text.find(after, at)
        if end < at or not text.startswith(after, end):
            return None
        values[name], at = text[at:end], end + len(after)
    return values


def _said(sentences: tuple[str, str], why: str, number: str) -> str:
    return " ".join(sentences).replace("{why}", why).replace("{id}", number)
