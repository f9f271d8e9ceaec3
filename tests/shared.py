# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the shared test data is, if it is there; it is no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

_FOUND = Path(os.environ.get("MAILWARDEN_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SHARED: Path | None = _FOUND if _FOUND.is_dir() else None
