# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the shipped rules and models are: inside a wheel, or beside the package in a checkout.

Reads no hostile input: the paths follow from where this file is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def data_dir(kind: Literal["rules", "models"]) -> Path:
    """Return the folder of shipped `kind`: `gateway/_data/KIND` in a wheel, `KIND` in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_data" / kind
    return installed if installed.is_dir() else package.parent / kind
