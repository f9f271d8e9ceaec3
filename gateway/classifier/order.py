# SPDX-License-Identifier: GPL-2.0-or-later
"""In which order labelled mail is learned: as it came, but ham and spam spread among each other.

Reads labels only. A model that learns one message after the other believes the last ones most, and people
teach a folder of spam and then a folder of ham, or the other way round.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BLOCK: Final = 2_000  # messages among which labels are spread; between blocks the order of time stays
_FEW: Final = 10  # fewer of one label change little, whatever the order
_SHARE: Final = 0.05  # nor do they where there are so many times more already
_OTHERS: Final = 0.05  # share of the other label from which messages count as mixed


class _Labelled(Protocol):
    @property
    def spam(self) -> bool: ...


_L = TypeVar("_L", bound=_Labelled)


def spread(samples: Iterable[_L]) -> Iterator[_L]:
    """Give the samples block by block, in each ham and spam evenly, both in the order they came."""
    waiting = iter(samples)
    while block := list(islice(waiting, BLOCK)):
        kinds = [[one for one in block if one.spam is spam] for spam in (False, True)]
        places = [((at + 0.5) / len(kind), one) for kind in kinds for at, one in enumerate(kind)]
        places.sort(key=lambda place: place[0])
        yield from (one for _, one in places)


def one_sided(samples: Sequence[_Labelled], known: int) -> bool:
    """Whether they are (nearly) all ham or all spam, and many beside the `known` ones: order tells."""
    spam = sum(one.spam for one in samples)
    return len(samples) >= max(_FEW, _SHARE * known) and min(spam, len(samples) - spam) < _OTHERS * len(
        samples
    )
