# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixed regression set: invented mail that no model may misjudge much of.

Reads two files of ours, ham.toml and spam.toml, as data; a damaged one is refused. A site's model is
measured with them before it is used: what it was taught must not make it call the ordinary mail of
others spam, nor let plain spam through.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parseaddr
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.classifier.features import extract
from gateway.classifier.mapping import ModelError, open_regular
from gateway.classifier.model import Score, with_site
from gateway.classifier.site import Seen, buckets, learned, shapes
from gateway.mail.mime import parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gateway.classifier.model import Model
    from gateway.classifier.site import SiteModel

_LIMIT: Final = 1 << 20  # octets of a file
_DATE: Final = "Mon, 05 Oct 2026 09:30:00 +0000"


@dataclass(frozen=True, slots=True)
class Known:
    """An invented message, and what it is."""

    name: str
    language: str
    spam: bool
    raw: bytes


@dataclass(frozen=True, slots=True)
class Examined:
    """The same, as the models see it."""

    known: Known
    seen: Seen
    base: Score


def load(directory: Path) -> tuple[Known, ...]:
    """Read both files. Raises `ModelError`."""
    return tuple(_read(directory / "ham.toml", spam=False)) + tuple(_read(directory / "spam.toml", spam=True))


def examine(known: Sequence[Known], base: Model) -> tuple[Examined, ...]:
    """Look at the messages once, for all site models that are measured with them."""
    found = []
    for one in known:
        features = extract(parse(one.raw))
        score = base.score_features(features)
        found.append(Examined(one, Seen(buckets(one.raw), shapes(features.shape), score.logit), score))
    return tuple(found)


def logits(examined: Sequence[Examined], local: SiteModel | None) -> NDArray[np.float64]:
    """Give the logits that would be acted upon, by the base and what a site taught."""
    if local is None or not learned(local.ham, local.spam):
        return np.array([one.base.acting for one in examined])
    return np.array([with_site(local, one.seen, one.base).acting for one in examined])


def _read(path: Path, *, spam: bool) -> Iterator[Known]:
    with os.fdopen(open_regular(path, _LIMIT), "rb") as file:
        raw = file.read(_LIMIT)
    try:
        for row in tomllib.loads(raw.decode("utf-8"))["mail"]:
            yield Known(row["name"], row["language"], spam, _message(row))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: not a regression set: {error!r}") from error


def _message(row: dict[str, str]) -> bytes:
    """Make the message: its own fields, a date, an identifier; HTML if the text starts with a tag."""
    name, address = parseaddr(row["from"])
    message = EmailMessage(policy=SMTP)
    message["From"] = Address(name, addr_spec=address)
    message["To"] = row["to"]
    message["Subject"] = row["subject"]
    if "reply_to" in row:
        message["Reply-To"] = row["reply_to"]
    message["Date"] = _DATE
    message["Message-ID"] = f"<{row['name']}@{address.rpartition('@')[2]}>"
    text = row["text"].lstrip()
    message.set_content(text, "html" if text.startswith("<") else "plain", cte="8bit")
    return message.as_bytes()
