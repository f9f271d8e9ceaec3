# SPDX-License-Identifier: GPL-2.0-or-later
"""Small models of single domains or recipients, on top of the site's, for what people there see otherwise.

Reads what `site.Seen` holds of hostile mail; and a file, whose size, type and values are checked. A
model of an owner is made of his samples alone, against the finished model of the site: it learns what
that one still gets wrong for him, such as a newsletter that others reported, and nothing else. All are
in one file, bounded in number and size, which is replaced whole. They are linear like the others, and what an
owner's model adds is one number.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.classifier.mapping import ModelError, Watched, array_bytes, read_array, replace
from gateway.mail.domains import domain_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gateway.classifier.site import Seen

MOST: Final = 256  # owners that may have a model
LEAST: Final = 3  # samples of an owner below which he has none
PER_OWNER: Final = 500  # newest samples that a model is made of
BUCKETS: Final = 1 << 15

_SHIFT: Final = 3  # from the site's buckets to these
_RATE: Final = 0.1
_START: Final = 1e-4  # of the sums of squared gradients
_VERSION: Final = 1.0
_HEAD: Final = 8  # version, two halves of the owner's hash, ham, spam, bias, two spare
_LIMIT: Final = 1e6


class OwnModels:
    """The models of all owners that have one; read-only, for any thread."""

    __slots__ = ("_rows", "_table")

    def __init__(self, table: NDArray[np.float32]) -> None:
        self._table = table
        self._rows = {(float(row[1]), float(row[2])): number for number, row in enumerate(table)}

    def __len__(self) -> int:
        return len(self._table)

    def score(self, owner: str, seen: Seen) -> tuple[float, int] | None:
        """Give the logit that the owner's model adds, and of how many messages; None if he has none."""
        number = self._rows.get(_hashed(owner))
        if number is None:
            return None
        row = self._table[number]
        return _logit(row[_HEAD:], float(row[5]), _places(seen)), int(row[3] + row[4])

    def save(self, path: Path) -> None:
        """Replace the file whole. Raises `OSError`."""
        replace(path, array_bytes(self._table))

    @classmethod
    def load(cls, path: Path) -> OwnModels:
        """Map a file. Raises `ModelError`."""
        table = read_array(path, np.dtype("<f4"), 4 * MOST * (_HEAD + BUCKETS) + 1024)
        if table.ndim != 2 or len(table) > MOST or table.shape[1] != _HEAD + BUCKETS:
            raise ModelError(f"{path}: not models of this version")
        if not np.all(np.abs(table) < _LIMIT * 100) or not np.all(table[:, 0] == _VERSION):
            raise ModelError(f"{path}: its values are out of range")
        return cls(table)


class OwnFile(Watched[OwnModels]):
    """The newest whole version of the owners' models."""

    __slots__ = ()

    def __init__(self, path: Path) -> None:
        super().__init__(path, OwnModels.load)


def owner_of(recipients: Iterable[str], per: str) -> str:
    """Whose model a message is for: "" if it is for several, or if there are no such models."""
    if per == "site":
        return ""
    names = {_name(address, per) for address in recipients}
    return names.pop() if len(names) == 1 else ""


def _name(address: str, per: str) -> str:
    domain = domain_of(address)
    return f"{address.rpartition('@')[0].lower()}@{domain}" if domain and per == "recipient" else domain


def make(owners: Iterable[tuple[str, Sequence[tuple[Seen, float, bool]]]]) -> OwnModels:
    """Make models of owners with their samples, oldest first: what was seen, the site's logit, the label."""
    rows = [_made(owner, samples) for owner, samples in owners if len(samples) >= LEAST][:MOST]
    return OwnModels(np.array(rows, np.float32).reshape(len(rows), _HEAD + BUCKETS))


def _made(owner: str, samples: Sequence[tuple[Seen, float, bool]]) -> NDArray[np.float32]:
    row = np.zeros(_HEAD + BUCKETS, np.float32)
    weights, squares = row[_HEAD:], np.full(BUCKETS, _START, np.float32)
    bias, bias_squares = 0.0, _START
    for seen, known, spam in samples:
        at = _places(seen)
        error = float(spam) - 1 / (1 + math.exp(-min(max(_logit(weights, bias, at) + known, -30.0), 30.0)))
        if len(at):
            step = np.float32(error / math.sqrt(len(at)))
            squares[at] += step * step
            weights[at] += np.float32(_RATE) * step / np.sqrt(squares[at])
        bias_squares += error * error
        bias += 0.02 * error / math.sqrt(bias_squares)
    spams = sum(spam for _, _, spam in samples)
    row[:6] = (_VERSION, *_hashed(owner), len(samples) - spams, spams, bias)
    return row


def _places(seen: Seen) -> NDArray[np.intp]:
    at = seen.grams >> _SHIFT  # sorted, as those of the site are
    return at[np.concatenate(([True], at[1:] != at[:-1]))] if len(at) else at


def _logit(weights: NDArray[np.float32], bias: float, at: NDArray[np.intp]) -> float:
    return float(weights[at].sum()) / math.sqrt(len(at)) + bias if len(at) else bias


def _hashed(owner: str) -> tuple[float, float]:
    """Hash an owner's name to two numbers of 24 bits, which fit a float."""
    digest = hashlib.blake2b(owner.encode(), digest_size=6).digest()
    return float(int.from_bytes(digest[:3], "big")), float(int.from_bytes(digest[3:], "big"))
