# SPDX-License-Identifier: GPL-2.0-or-later
"""The site model: starts empty and learns from this site's own mail, one message at a time.

Reads hostile raw messages, the first 3,500 octets of each, as overlapping 4-octet grams; the
features of their shape; and a state file, whose size, type and values are checked. Two logistic
regressions with AdaGrad steps, over grams and over shape: shape learns faster, grams get further.
Each learns what the base model did not say already.
One writer learns and saves; readers map the saved file and see whole versions only.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from gateway.classifier.features import extract, key
from gateway.classifier.mapping import ModelError, Watched, array_bytes, read_array, replace
from gateway.classifier.stored import received

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from gateway.mail.types import Content

BUCKETS: Final = 1 << 18
SHAPES: Final = 1 << 14
READ: Final = 3_500  # octets of a message, after its line ends became LF

_RATE: Final = 0.4  # of learning, at first
_BIAS_RATE: Final = 0.02
_UNSURE: Final = 3.0  # logit of grams at which the site's opinion counts half, where it says spam
_UNSURE_HAM: Final = 1.0  # the same where it says ham
_START: Final = 1e-4  # of the sums of squared gradients
_HEAD: Final = 16  # values before the weights: see _Head
_VERSION: Final = 2.0
_SIZES: Final = (BUCKETS, BUCKETS, SHAPES, SHAPES)  # weights and squares of grams, of shape
_VALUES: Final = _HEAD + sum(_SIZES)
_LIMIT: Final = 1e8  # no honest weight, sum or count comes near
_PACKED_LIMIT: Final = 64 << 10  # octets of an unpacked sample
_PIECE: Final = 12  # neighbouring grams that are shown together


class _Head:
    """Places in the head of the state."""

    VERSION, HAM, SPAM = 0, 1, 2
    BIAS, BIAS_SQUARES, SHAPE_BIAS, SHAPE_BIAS_SQUARES = 3, 4, 5, 6
    UPTO, GENERATION = 7, 8  # number of the last sample learned, and generation of the samples


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the site model reads of a message: buckets of grams and of shape, the base's logit."""

    grams: NDArray[np.intp]
    shape: NDArray[np.intp]
    base: float = 0.0

    @classmethod
    def of(cls, raw: bytes, content: Content, base: float) -> Seen:
        """Look at a message, as received or stored, and as parsed."""
        return cls(buckets(b"".join(received(raw))), shapes(extract(content).shape), base)

    def pack(self) -> bytes:
        """Give octets that `unpack` understands."""
        grams = np.diff(self.grams, prepend=0).astype("<u4").tobytes()
        head = struct.pack("<fHH", self.base, len(self.grams), len(self.shape))
        return zlib.compress(head + grams + self.shape.astype("<u2").tobytes(), 1)

    @classmethod
    def unpack(cls, data: bytes) -> Seen:
        """Read what `pack` wrote. Raises ValueError for anything else."""
        try:
            plain = zlib.decompressobj().decompress(data, _PACKED_LIMIT)
            base, grams, shape = struct.unpack_from("<fHH", plain)
            seen = cls(
                np.cumsum(np.frombuffer(plain, "<u4", grams, 8)).astype(np.intp),
                np.frombuffer(plain, "<u2", shape, 8 + 4 * grams).astype(np.intp),
                base,
            )
        except (zlib.error, struct.error, ValueError) as error:
            raise ValueError(f"not a sample: {error}") from error
        if np.any(seen.grams >= BUCKETS) or np.any(seen.shape >= SHAPES) or not math.isfinite(base):
            raise ValueError("not a sample of this version")
        return seen


class Local(NamedTuple):
    """The site model's logits: by grams and by shape."""

    grams: float
    shape: float


class SiteModel:
    """Weights over hashed grams and shape. Learning is for one thread of one process; scoring for any."""

    __slots__ = ("_grams", "_shape", "_state")

    def __init__(self, state: NDArray[np.float32] | None = None) -> None:
        if state is None:
            state = np.zeros(_VALUES, np.float32)
            state[_Head.VERSION] = _VERSION
            state[[_Head.BIAS_SQUARES, _Head.SHAPE_BIAS_SQUARES]] = _START
        self._state = state
        weights, squares, shape_weights, shape_squares = _parts(state)
        if not squares[0]:
            squares[:] = _START
            shape_squares[:] = _START
        self._grams = (weights, squares, _Head.BIAS)
        self._shape = (shape_weights, shape_squares, _Head.SHAPE_BIAS)

    @property
    def ham(self) -> int:
        """How many ham messages it has learned."""
        return int(self._state[_Head.HAM])

    @property
    def spam(self) -> int:
        """How many spam messages it has learned."""
        return int(self._state[_Head.SPAM])

    @property
    def upto(self) -> tuple[int, int]:
        """Number of the last sample learned, and the generation of the samples then."""
        return int(self._state[_Head.UPTO]), int(self._state[_Head.GENERATION])

    def mark(self, number: int, generation: int) -> None:
        """Note which samples it is made of."""
        self._state[_Head.UPTO], self._state[_Head.GENERATION] = number, generation

    def score(self, seen: Seen) -> Local:
        """Give the logits of spam; zeros for an empty model."""
        return Local(self._logit(self._grams, seen.grams), self._logit(self._shape, seen.shape))

    def telling(self, raw: bytes) -> list[tuple[str, float]]:
        """Give the pieces of a message that weigh most in either direction, and their share of the logit.

        A piece is some neighbouring grams; each gram counts where it stands first, so that shares add up.
        """
        start = _start(raw)
        hashed = _hashed(start)
        if len(hashed) <= _PIECE:
            return []
        distinct, first = np.unique(hashed, return_index=True)
        weights = np.zeros(len(hashed))
        weights[first] = self._grams[0][distinct] / math.sqrt(len(distinct))
        found = []
        for sign in (1, 1, -1, -1):
            sums = np.convolve(weights, np.ones(_PIECE), "valid")
            at = int(np.argmax(sign * sums))
            if sign * sums[at] > 0:
                piece = start[at : at + _PIECE + 3].decode("utf-8", "replace")
                found.append((" ".join(piece.split()), float(sums[at])))
            weights[at : at + _PIECE] = 0
        return found

    def learn(self, seen: Seen, *, spam: bool) -> None:
        """Learn one message. Needs a writable model."""
        count = learned(self.ham, self.spam)
        known = 0.3 * seen.base / (1 + (count / 1500) ** 2)
        self._step(self._grams, seen.grams, spam, known, rate_of_grams(count))
        self._step(self._shape, seen.shape, spam, seen.base, _RATE)
        self._state[_Head.SPAM if spam else _Head.HAM] += 1

    def copy(self) -> SiteModel:
        """Give a writable copy."""
        return SiteModel(self._state.copy())

    def _logit(self, part: _Part, at: NDArray[np.intp]) -> float:
        weights, _, bias = part
        if not len(at):
            return float(self._state[bias])
        return float(weights[at].sum()) / math.sqrt(len(at)) + float(self._state[bias])

    def _step(self, part: _Part, at: NDArray[np.intp], spam: bool, known: float, rate: float) -> None:
        """Move one part towards the label, given the logit `known` without it."""
        logit = self._logit(part, at) + known
        error = (1.0 if spam else 0.0) - 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))
        weights, squares, bias = part
        state = self._state
        if len(at):
            step = np.float32(error / math.sqrt(len(at)))
            grown = squares[at] + step * step
            squares[at] = grown
            weights[at] += np.float32(rate) * step / np.sqrt(grown)
        state[bias + 1] += error * error
        state[bias] += _BIAS_RATE * error / math.sqrt(float(state[bias + 1]))

    def save(self, path: Path) -> None:
        """Replace the file whole: readers see the old state or the new one. Raises `OSError`."""
        replace(path, array_bytes(self._state))

    @classmethod
    def load(cls, path: Path, *, writable: bool = False) -> SiteModel:
        """Map the state read-only, or copy it for learning. Raises `ModelError`."""
        state = read_array(path, np.dtype("<f4"), 4 * _VALUES + 1024)
        if state.shape != (_VALUES,) or state[_Head.VERSION] != _VERSION:
            raise ModelError(f"{path}: not a site model of this version")
        _, squares, _, shape_squares = _parts(state)
        positive = (squares, shape_squares, state[[_Head.BIAS_SQUARES, _Head.SHAPE_BIAS_SQUARES]])
        counts = state[[_Head.HAM, _Head.SPAM, _Head.UPTO, _Head.GENERATION]]
        if (
            not np.all(np.abs(state) < _LIMIT)
            or np.any(counts < 0)
            or not all(np.all(s > 0) for s in positive)
        ):
            raise ModelError(f"{path}: its values are out of range")
        return cls(state.copy() if writable else state)


def in_use(path: Path) -> SiteModel:
    """Load a model to be taught, an empty one if there is none. Raises `ModelError`, with the mend."""
    if not path.exists():
        return SiteModel()
    try:
        return SiteModel.load(path, writable=True)
    except ModelError as error:
        mend = "if it is not sound, move it away and run: mailwarden model relearn"
        raise ModelError(f"{error}; {mend}") from error


_Part = tuple["NDArray[np.float32]", "NDArray[np.float32]", int]  # weights, squares, place of the bias


def _parts(state: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return np.split(state, np.cumsum((_HEAD, *_SIZES))[:-1])[1:]


def learned(ham: int, spam: int) -> int:
    """Count what was taught; a kind of mail of which little is known bounds the count."""
    return min(ham + spam, 5 * min(ham, spam))


def blend(count: int, local: Local, base: float) -> float:
    """Give the logit of both models once the site has taught `count` messages.

    The base counts whole at first and fades; so does shape, sooner: that ranked best, replayed in
    time from several starts.
    """
    share_of_shape = 1 / (1 + (count / 1000) ** 2)
    return local.grams + share_of_shape * local.shape + share_of_base(count) * base


def sureness(local: Local) -> float:
    """Say how much the site's opinion of a message counts when it is acted upon, 0 to 1.

    Mail like that it learned moves its grams far from 0; mail of a kind it never saw does not, and
    what is left of shape and of a few common grams there would call all new ham spam on a site
    with much spam. Such mail is left to the base model; less so what looks like the site's ham, since
    the base takes many wanted newsletters for spam.
    """
    unsure = _UNSURE if local.grams > 0 else _UNSURE_HAM
    return local.grams**2 / (local.grams**2 + unsure**2)


def acting(count: int, local: Local, base: float) -> float:
    """Give the logit to act upon, as `blend` gives that of ranking."""
    sure = sureness(local)
    return sure * blend(count, local, base) + (1 - sure) * base


def rate_of_grams(count: int) -> float:
    """Say how fast grams learn after `count` messages.

    Slowly at first, when the base model knows more; fast until 1,000; slower and slower after that,
    so that one wrong label among thousands is not believed for ever.
    """
    return _RATE * (1 + min(count / 500, 1)) / (1 + max(count - 1000, 0) / 2000)


def share_of_base(count: int) -> float:
    """Say how much the base model's logit counts once a site has taught `count` messages."""
    return max(0.08, 1 / (1 + math.pow(count / 1500, 1.5)))


# ---------------------------------------------------------------- the file, while others replace it


class SiteFile(Watched[SiteModel]):
    """The newest whole version of a site model that others save; a site that taught nothing has none."""

    __slots__ = ()

    def __init__(self, path: Path) -> None:
        super().__init__(path, SiteModel.load)


# ---------------------------------------------------------------- what is read of a message


def buckets(raw: bytes) -> NDArray[np.intp]:
    """Hash the distinct 4-octet grams of the start of a message, sorted."""
    hashed = np.sort(_hashed(_start(raw)))
    return hashed[np.concatenate(([True], hashed[1:] != hashed[:-1]))] if len(hashed) else hashed


def _start(raw: bytes) -> bytes:
    start = raw[: READ * 2]
    if start.startswith(b"From "):
        start = start.partition(b"\n")[2]
    return start.replace(b"\r\n", b"\n")[:READ]


def _hashed(start: bytes) -> NDArray[np.intp]:
    """Hash the gram at each place."""
    octets = np.frombuffer(start, np.uint8).astype(np.uint32)
    if len(octets) < 4:
        return np.zeros(0, np.intp)
    grams = (octets[:-3] << 24) | (octets[1:-2] << 16) | (octets[2:-1] << 8) | octets[3:]
    return ((grams * np.uint32(2654435761)) >> np.uint32(14)).astype(np.intp)


def shapes(features: Iterable[str]) -> NDArray[np.intp]:
    """Hash features of shape."""
    keys = np.fromiter(map(key, features), np.uint32)
    return ((keys * np.uint32(2654435761)) >> np.uint32(18)).astype(np.intp)
