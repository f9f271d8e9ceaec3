# SPDX-License-Identifier: GPL-2.0-or-later
"""Held messages that a reviewer labelled: a release as ham, a confirmation as spam.

Reads hostile mail that somebody has looked at. Test strings are never learned, in whatever they were
wrapped: what the scanner said when the message was held counts beside what can be seen in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.classifier.stored import trace
from gateway.learning import Labelled
from gateway.store import audit
from gateway.store.samples import REVIEW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.learning import Learner, Outcome
    from gateway.store.quarantine import Quarantine

_TEST_SIGNAL = "GTUBE"
_TEST_FILE = re.compile(r"eicar", re.IGNORECASE)  # in all names that scanners have for it


def learn_reviewed(
    learner: Learner,
    quarantine: Quarantine,
    items: Sequence[str],
    *,
    spam: bool,
    who: str,
    later: bool = False,
) -> Outcome:
    """Learn held (or released) messages as `who` labels them, and note that in their history.

    With `later` the samples are kept for the service to learn, and the model is not touched here.

    Raises StoreError, before anything is learned, for a message whose content is gone.
    """
    fit = [item for item in items if not is_test(quarantine, item)]
    known = quarantine.known(fit)
    messages = [
        Labelled(
            quarantine.raw(item),
            spam,
            REVIEW,
            who,
            trace(known[item].helo, "", known[item].client_ip),
            tuple(recipient.address for recipient in known[item].recipients),
        )
        for item in fit
    ]
    outcome = learner.receive(messages) if later else learner.learn(messages)
    outcome.unfit += len(items) - len(fit)

    def note(item: str) -> None:
        label = "as spam" if spam else "as ham"
        learner.samples.database.write(lambda c: audit.append(c, item, who, "labelled", label))

    for item in fit:
        note(item)
    return outcome


def is_test(quarantine: Quarantine, item: str) -> bool:
    """Tell whether a message was held for a test string."""
    for judgement in quarantine.judgements(item):
        signals = {signal.name for signal in judgement.signals}
        if _TEST_SIGNAL in signals or _TEST_FILE.search(judgement.evidence.antivirus.name):
            return True
    return False
