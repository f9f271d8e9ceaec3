# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that are full, cannot sync or cannot be written; clocks that leap. See `faults.c`."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.torture.trial import Result, Stage, started

if TYPE_CHECKING:
    from contextlib import ExitStack

_WELL, _ILL = 2.0, 4.0  # seconds for which the disk works, and does not: longer than any write is tried
_LEAPS = (86_400, -3_600, 864_000, 0)  # seconds by which the clock is wrong, one after the other


def shim(directory: Path) -> dict[str, str]:
    """Build what stands between the gateway and the disk; the environment that loads it."""
    faults = directory / "faults"
    faults.mkdir()
    library = directory / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "MAILWARDEN_FAULTS": str(faults)}


def disk(stage: Stage, stack: ExitStack) -> Result:
    """The disk is full, fails to sync, is read-only, by turns."""
    environment = shim(stage.directory)
    gateway = started(stage, stack, "gateway", stage.settings(), environment)
    with stage.senders(gateway) as senders:
        for name in ("full", "sync", "readonly") * 2:
            switch = Path(environment["MAILWARDEN_FAULTS"]) / name
            time.sleep(_WELL)
            switch.touch()
            time.sleep(_ILL)
            switch.unlink()
        time.sleep(_WELL)
    return Result(gateway, [senders], 0)


def clock(stage: Stage, stack: ExitStack) -> Result:
    """The clock leaps forward, back, and further than mail lives, while mail waits."""
    environment = shim(stage.directory)
    gateway = started(stage, stack, "gateway", stage.settings(), environment)
    switch = Path(environment["MAILWARDEN_FAULTS"]) / "clock"
    with stage.senders(gateway) as senders:
        for leap in _LEAPS:
            stage.sink.on("body", "451 4.3.0 not now", times=40)
            time.sleep(_WELL)
            switch.write_text(f"{leap}\n")
            time.sleep(_ILL)
    return Result(gateway, [senders], 0)
