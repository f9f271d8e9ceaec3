# SPDX-License-Identifier: GPL-2.0-or-later
"""What the web page is made of: the settings of several rooms, without its libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.classifier.settings import ClassifierSettings
    from gateway.delivery.settings import ReleaseSettings
    from gateway.store.database import StoreSettings
    from gateway.web.settings import WebSettings


@dataclass(frozen=True, slots=True)
class Parts:
    """Settings; `grace` are the seconds that requests under way get at the end."""

    web: WebSettings
    store: StoreSettings
    classifier: ClassifierSettings
    release: ReleaseSettings
    grace: float
