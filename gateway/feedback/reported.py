# SPDX-License-Identifier: GPL-2.0-or-later
"""Mail to the addresses that take reports: who may report, and what becomes of it.

Reads hostile mail that our own users forward. A report is known by its recipient and by who sends it:
a client with a login, or of our own networks. From anybody else it is mail like any other, so
that a stranger teaches nothing and learns nothing. A report is not judged, since it has spam in it on
purpose, and it goes no further; its messages are on disk before anybody is told so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.feedback.attached import attached
from gateway.learning import Labelled
from gateway.mail.domains import normal
from gateway.mail.networks import same_client
from gateway.mail.types import Direction
from gateway.store import samples

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.feedback.settings import LearningSettings
    from gateway.learning import Learner
    from gateway.mail.types import Mail, Session

REPORT: Final = "REPORT"  # the reason of a verdict about mail that reports other mail
# Feedback-Type (RFC 5965 §7.3, RFC 6430) that a label fits; "" is no abuse report.
_FITS: Final = {
    True: frozenset(("", "abuse", "fraud", "virus", "other")),
    False: frozenset(("", "not-spam")),
}


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a report. `waiting` messages are on disk, to be learned; `why` says why not all."""

    waiting: int
    why: str = ""
    useful: bool = True  # False: whoever sent it should send it in another way
    reason: str = REPORT  # of the verdict


class ReportAddresses:
    """Takes reports for a learner. Thread-safe."""

    def __init__(self, settings: LearningSettings, learner: Learner) -> None:
        self._learner = learner
        self._labels = {_key(one): True for one in settings.spam_addresses}
        self._labels |= {_key(one): False for one in settings.ham_addresses}

    def takes(self, session: Session, recipient: str) -> bool:
        """Whether mail from this client to this recipient is a report."""
        return session.direction is Direction.OUTBOUND and _key(recipient) in self._labels

    def among(self, mail: Mail) -> tuple[str, ...]:
        """The recipients of `mail` for whom it is a report."""
        return tuple(one for one in mail.envelope.recipients if self.takes(mail.session, one))

    def take(self, mail: Mail, recipients: Iterable[str]) -> Taken:
        """Keep what is reported in `mail`, durably. Raises StoreError."""
        labels = {self._labels[_key(one)] for one in recipients}
        if len(labels) != 1:
            return Taken(0, "sent to addresses for spam and for ham", useful=False)
        spam = labels.pop()
        found = attached(mail.raw)
        if not found.messages:
            return Taken(0, found.why, useful=False)
        if found.feedback not in _FITS[spam]:
            return Taken(0, f"an abuse report of the type {found.feedback}", useful=False)
        who = reporter(mail.session)
        owner = who if "@" in who else mail.envelope.mail_from
        outcome = self._learner.receive(
            Labelled(raw, spam, samples.REPORT, who, recipients=(owner,)) for raw in found.messages
        )
        why = [f"{outcome.over_limit} over a daily limit"] if outcome.over_limit else []
        why += [f"{outcome.unfit} not fit to be learned"] if outcome.unfit else []
        return Taken(outcome.waiting, ", ".join(why))


def reporter(session: Session) -> str:
    """Who counts as one reporter: the login, or else the client's address (of IPv6 its /64)."""
    return session.login or same_client(session.client_ip) or "local"


def _key(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return f"{local.lower()}@{normal(domain)}"
