# SPDX-License-Identifier: GPL-2.0-or-later
"""The site model: starts empty and learns from this site's own mail, one message at a time.

Reads hostile raw messages, the first 3,500 octets of each, as overlapping 4-octet grams; and a
state file, whose size, type and values are checked. Logistic regression with AdaGrad steps.
One writer learns and saves; readers map the saved file and see whole versions only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.classifier.mapping import ModelError, array_bytes, read_array, replace

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BUCKETS: Final = 1 << 18
READ: Final = 3_500  # octets of a message, after its line ends became LF

_RATE: Final = 0.2
_BIAS_RATE: Final = 0.02
_START: Final = 1e-4  # of the sums of squared gradients
_HEAD: Final = 8  # values before the weights: version, ham, spam, bias, its sum of squares, unused
_VERSION: Final = 1.0
_VALUES: Final = _HEAD + 2 * BUCKETS
_LIMIT: Final = 1e8  # no honest weight, sum or count comes near


class SiteModel:
    """Weights over hashed grams. Learning is for one thread of one process; scoring for any."""

    __slots__ = ("_state",)

    def __init__(self, state: NDArray[np.float32] | None = None) -> None:
        if state is None:
            state = np.zeros(_VALUES, np.float32)
            state[0] = _VERSION
            state[4] = _START
            state[_HEAD + BUCKETS :] = _START
        self._state = state

    @property
    def ham(self) -> int:
        """How many ham messages it has learned."""
        return int(self._state[1])

    @property
    def spam(self) -> int:
        """How many spam messages it has learned."""
        return int(self._state[2])

    def score(self, raw: bytes) -> float:
        """Give the logit of spam; 0.0 for an empty model."""
        at = buckets(raw)
        return self._logit(at)

    def learn(self, raw: bytes, *, spam: bool) -> float:
        """Learn one message and give the logit it had before. Needs a writable model."""
        at = buckets(raw)
        logit = self._logit(at)
        error = (1.0 if spam else 0.0) - 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))
        state = self._state
        if len(at):
            step = np.float32(error / math.sqrt(len(at)))
            weights, squares = _halves(state)
            grown = squares[at] + step * step
            squares[at] = grown
            weights[at] += np.float32(_RATE) * step / np.sqrt(grown)
        state[4] += error * error
        state[3] += _BIAS_RATE * error / math.sqrt(float(state[4]))
        state[2 if spam else 1] += 1
        return logit

    def _logit(self, at: NDArray[np.intp]) -> float:
        if not len(at):
            return float(self._state[3])
        weights, _ = _halves(self._state)
        return float(weights[at].sum()) / math.sqrt(len(at)) + float(self._state[3])

    def save(self, path: Path) -> None:
        """Replace the file whole: readers see the old state or the new one. Raises `OSError`."""
        replace(path, array_bytes(self._state))

    @classmethod
    def load(cls, path: Path, *, writable: bool = False) -> SiteModel:
        """Map the state read-only, or copy it for learning. Raises `ModelError`."""
        state = read_array(path, np.dtype("<f4"), 4 * _VALUES + 1024)
        if state.shape != (_VALUES,) or state[0] != _VERSION:
            raise ModelError(f"{path}: not a site model of this version")
        squares = (state[4], *_halves(state)[1:])
        counts_fit = bool(np.all(state[1:3] >= 0))
        if not counts_fit or not np.all(np.abs(state) < _LIMIT) or not all(np.all(s > 0) for s in squares):
            raise ModelError(f"{path}: its values are out of range")
        return cls(state.copy() if writable else state)


def _halves(state: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the weights and their sums of squared gradients."""
    return state[_HEAD : _HEAD + BUCKETS], state[_HEAD + BUCKETS :]


def buckets(raw: bytes) -> NDArray[np.intp]:
    """Hash the distinct 4-octet grams of the start of a message, sorted."""
    start = raw[: READ * 2]
    if start.startswith(b"From "):
        start = start.partition(b"\n")[2]
    octets = np.frombuffer(start.replace(b"\r\n", b"\n")[:READ], np.uint8).astype(np.uint32)
    if len(octets) < 4:
        return np.zeros(0, np.intp)
    grams = (octets[:-3] << 24) | (octets[1:-2] << 16) | (octets[2:-1] << 8) | octets[3:]
    hashed = np.sort((grams * np.uint32(2654435761)) >> np.uint32(14))
    return hashed[np.concatenate(([True], hashed[1:] != hashed[:-1]))].astype(np.intp)
