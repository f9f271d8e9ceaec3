# SPDX-License-Identifier: GPL-2.0-or-later
"""Making the models of domains or recipients from their samples, after the site's has learned them.

Always made whole, from the newest samples of each owner and the site's model as it is: a few seconds
of processor time at the very most, in the housekeeper, and not again for some time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.classifier import own
from gateway.classifier.mapping import ModelError
from gateway.classifier.settings import OWN_FILE
from gateway.classifier.site import acting, learned
from gateway.mail.headers import printable
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.classifier.own import OwnModels
    from gateway.classifier.site import Seen
    from gateway.learning import Learner
    from gateway.log import Log

_PAUSE = 30.0  # seconds between two times that all are made


def make_models(learner: Learner) -> OwnModels:
    """Make and save the models of all owners. Raises StoreError, ModelError, OSError, ValueError."""
    samples, site = learner.samples, learner.live()
    count = learned(site.ham, site.spam)

    def known(seen: Seen) -> float:
        return acting(count, site.score(seen), seen.base) if count else seen.base

    def owners() -> Iterator[tuple[str, list[tuple[Seen, float, bool]]]]:
        for owner in samples.owners(own.LEAST, own.MOST):
            seen = [(learner.seen(one), one.spam) for one in samples.of_owner(owner, own.PER_OWNER)]
            yield owner, [(one, known(one), spam) for one, spam in seen]

    made = own.make(owners())
    made.save(learner.path.with_name(OWN_FILE))
    return made


def follow(learner: Learner, log: Log) -> None:
    """Make the models whenever samples were learned, for ever."""
    done: tuple[int, int] | None = None
    problem = ""
    while True:
        try:
            now = (learner.samples.last(), learner.samples.generation())
            if now != done or not learner.path.with_name(OWN_FILE).exists():
                started = time.process_time()
                made = make_models(learner)
                spent = round(time.process_time() - started, 2)
                log.info("models of owners made", owners=len(made), seconds=spent)
                done = now
            problem = ""
        except (StoreError, ModelError, OSError, ValueError) as error:
            if str(error) != problem:  # once, not every time
                problem = str(error)
                log.error("the models of owners are not up to date", error=printable(problem, 200))
        time.sleep(_PAUSE if done else 1.0)
