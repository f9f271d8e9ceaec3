# SPDX-License-Identifier: GPL-2.0-or-later
"""One writer of the site's model at a time: on this machine by a lock file, among all nodes by a lease.

The kernel frees the lock of a process that dies; a node that dies lets others in when its lease ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from gateway.classifier.mapping import give_to_owner
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.store.samples import Samples

_LEASE: Final = 120.0  # seconds after which a node that wrote, and said nothing more, is taken for dead


def this_process() -> str:
    """This process among those of all nodes."""
    return f"{os.uname().nodename}:{os.getpid()}"


@contextmanager
def only_writer(path: Path, samples: Samples) -> Iterator[None]:
    """Be the only writer of the model in `path`, as long as it takes. Raises StoreError, OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(
        path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        give_to_owner(lock, path.parent)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _only_node(samples):
            yield
    except ValueError as error:
        raise StoreError(f"a stored sample cannot be read: {error}") from error
    finally:
        os.close(lock)


@contextmanager
def _only_node(samples: Samples) -> Iterator[None]:
    if samples.database.dialect == "sqlite":
        yield
        return
    who = this_process()
    end = time.monotonic() + 2 * _LEASE
    while not samples.claim_writing(who, _LEASE):
        if time.monotonic() > end:
            raise StoreError("another node has been teaching for too long")
        time.sleep(0.1)
    try:
        yield
    finally:
        samples.end_writing(who)
