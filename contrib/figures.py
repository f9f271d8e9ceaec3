# SPDX-License-Identifier: GPL-2.0-or-later
"""Write measured figures to build/NAME.json: a flat object, for those who compare runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[1]


def written_to(name: str) -> Path:
    """Say where the figures of a name are written."""
    return ROOT / "build" / f"{name}.json"


def write_figures(name: str, figures: Mapping[str, object]) -> Path:
    """Write `build/NAME.json`, owned like the checkout, and return its path."""
    path = written_to(name)
    folder = path.parent
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(figures), indent=2) + "\n", "utf-8")
    if os.geteuid() == 0:
        owner = ROOT.stat()
        for made in (folder, path):
            os.chown(made, owner.st_uid, owner.st_gid)
    return path
