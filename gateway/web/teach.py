# SPDX-License-Identifier: GPL-2.0-or-later
"""What people say about mail on the page, kept as samples that the service learns, so that no page waits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.classifier.mapping import ModelError
from gateway.classifier.model import Model
from gateway.data import data_dir
from gateway.feedback.held import learn_reviewed
from gateway.learning import Learner
from gateway.store.database import state_directory
from gateway.store.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.log import Log
    from gateway.store.quarantine import Quarantine
    from gateway.web.parts import Parts


class Teacher:
    """Keeps labelled mail. Thread-safe; the model is loaded when first wanted, since it costs memory."""

    def __init__(self, parts: Parts, quarantine: Quarantine, path: Path, log: Log) -> None:
        self._parts = parts
        self._quarantine = quarantine
        self._path = path
        self._log = log
        self._lock = threading.Lock()
        self._made: Learner | None = None

    @property
    def learner(self) -> Learner:
        """What keeps samples."""
        with self._lock:
            if self._made is None:
                named = self._parts.classifier.model
                try:
                    base: Model | None = Model.load(Path(named) if named else data_dir("models") / "base")
                except ModelError as error:
                    self._log.error("the base model is unavailable", error=str(error))
                    base = None
                samples = Samples(self._quarantine.database)
                self._made = Learner(samples, self._parts.classifier, base, self._path)
            return self._made

    def learn(self, items: Sequence[str], spam: bool, who: str) -> Mapping[str, int]:
        """Keep what a reviewer says; what became of it, counted."""
        return learn_reviewed(self.learner, self._quarantine, items, spam=spam, who=who, later=True).told()


def teacher(parts: Parts, quarantine: Quarantine, log: Log) -> Teacher | None:
    """What the settings want; None if the site's model is switched off."""
    path = parts.classifier.site_path(state_directory(parts.store))
    return Teacher(parts, quarantine, path, log) if parts.classifier.enabled and path is not None else None
