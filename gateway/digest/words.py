# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of digests, as data: one file for each language, `rules/digest.LANGUAGE.toml`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.mail.domains import domain_of, matches
from gateway.policy import brief
from gateway.policy.brief import Wording  # msgspec reads it
from gateway.policy.patterns import RuleError

if TYPE_CHECKING:
    from gateway.digest.settings import DigestSettings

_LANGUAGE: Final = re.compile(r"digest\.([a-z]{2,3}(?:-[A-Za-z0-9]{2,8})?)\.toml")


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a digest says. `{…}` stands for what `compose` puts there."""

    from_name: str
    subject: str  # {count}
    greeting: str  # {address}
    intro: str  # {count}
    more: str  # {count}
    sender: str
    subject_label: str
    no_subject: str
    held: str
    size: str
    why: str
    requested: str
    release: str
    ask: str
    spam: str
    by_mail: str
    overview: str
    expires: str  # {days}, {date}
    ending: str
    refused: str  # the refusal of a reply
    admin_subject: str  # {domain}
    admin_intro: str  # {domain}
    admin_waiting: str
    admin_new: str
    admin_malware: str
    admin_requests: str
    admin_none: str
    admin_reasons: str
    admin_senders: str
    admin_all: str
    admin_how: str  # {id}
    date: str  # for strftime, figures only


class Language(msgspec.Struct, frozen=True):
    """A language: the words of digests, and those for reasons."""

    code: str
    words: Words
    reasons: Wording


def load(rules: Path, language: str, own: str = "") -> Language:
    """Read a language, of the directory `own` before the shipped one. Raises `RuleError`."""
    folder = Path(own) if own and (Path(own) / f"digest.{language}.toml").is_file() else rules
    path = folder / f"digest.{language}.toml"
    try:
        words = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Words)
    except (OSError, ValueError) as error:
        raise RuleError(f"{path}: {error}") from error
    for name, text in msgspec.structs.asdict(words).items():
        if not text or any(c in text for c in "\r\n<>") or not text.isprintable():
            raise RuleError(f"{path}: {name}: one line of text without < and >")
    theirs = Path(own) if own and (Path(own) / f"words.{language}.toml").is_file() else rules
    return Language(language, words, brief.load(theirs, language))


def known(rules: Path) -> list[str]:
    """The languages that are shipped."""
    return sorted(found[1] for path in rules.iterdir() if (found := _LANGUAGE.fullmatch(path.name)))


def load_all(rules: Path, settings: DigestSettings) -> dict[str, Language]:
    """All languages that the settings name. Raises `RuleError`."""
    codes = {settings.language, *(row.language for row in settings.languages)}
    return {code: load(rules, code, settings.words_dir) for code in sorted(codes)}


def language_for(address: str, settings: DigestSettings) -> str:
    """The language of a recipient: of the first row whose domain it is in."""
    domain = domain_of(address)
    return next(
        (row.language for row in settings.languages if matches(domain, (row.domain,))), settings.language
    )
