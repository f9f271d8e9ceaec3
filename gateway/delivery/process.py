# SPDX-License-Identifier: GPL-2.0-or-later
"""Which process this is, and whether another one of this machine still lives.

Lets a delivery agent that starts take over at once what its killed predecessor had begun. Reads
/proc; where there is none, leases simply run out.
"""

from __future__ import annotations

import os
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """The machine since its last start, its name space of processes, our number, when we began."""
    return f"{_place()} {os.getpid()} {_began(os.getpid())}"


def is_dead(process: str) -> bool:
    """Whether `process` ran on this machine and is certainly gone; False where nobody can tell."""
    place, _, rest = process.rpartition(" ")[0].rpartition(" ")
    began = process.rpartition(" ")[2]
    if not place or place != _place() or not rest.isdecimal() or not began:
        return False
    return _began(int(rest)) != began


def is_alive(process: str) -> bool:
    """Whether `process` is certainly at work on this machine."""
    place, _, rest = process.rpartition(" ")[0].rpartition(" ")
    return bool(place) and place == _place() and rest.isdecimal() and not is_dead(process)


def _place() -> str:
    try:
        return f"{_BOOT.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process began (proc(5), field 22), "" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
