# SPDX-License-Identifier: GPL-2.0-or-later
"""Bombs through the real milter door, beside ordinary mail, with a real clamd.

Each bomb is held, ordinary mail hardly notices, and no worker is lost.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests import bombs
from tests.conformance.bomb_suites import BOMBS, ORDINARY, PLAIN, WORST, at_once, send, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrib.lab.clamd import Clamd
    from contrib.lab.gateway import Gateway

pytestmark = pytest.mark.server("clamd")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, clamd: Clamd) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("unpack"), clamd) as gateway:
        workers = set(gateway.tree())  # no child is there before the first archive
        yield gateway
        assert workers <= set(gateway.tree())


def test_bombs_beside_ordinary_mail(served: Gateway) -> None:
    results, ordinary, taken = at_once(served)
    slow = ordinary[-1 - len(ordinary) // 100]
    print(f"{BOMBS} bombs in {taken:.1f} s; {len(ordinary)} ordinary, 99 % of them within {slow:.2f} s")
    assert set(results) == {(name, "discard") for name in WORST}
    # Nobody waits for the bombs, however long a busy machine takes for them.
    assert slow < max(ORDINARY, taken / 3)
    begin = time.monotonic()
    assert send(served, bombs.mail("a.zip", bombs.SAMPLES["zip"]()))[0] == "accept"
    assert time.monotonic() - begin < ORDINARY


@pytest.mark.parametrize("case", bombs.HELD)
def test_each_is_held(served: Gateway, case: str) -> None:
    name, make = bombs.HELD[case]
    status, _ = send(served, bombs.mail(name, make()))
    assert status in ("discard", "reject")  # clamd knows some bombs by name
    status, seconds = send(served, PLAIN)
    assert status == "accept"
    assert seconds < ORDINARY
