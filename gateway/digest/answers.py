# SPDX-License-Identifier: GPL-2.0-or-later
"""Mail that answers a digest: sent to the address of one of its deeds, it does that deed.

Reads hostile addresses: the token in the local part proves all, and nothing in the message is read. Only
from our own users (by login or network), like reports about mail: from anybody else it is mail like any
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.digest.act import act
from gateway.feedback.reported import Taken
from gateway.mail.domains import normal
from gateway.mail.headers import printable
from gateway.mail.types import Direction
from gateway.store.decisions import RefusedError
from gateway.store.grants import GrantError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.digest.act import Desk
    from gateway.feedback.reported import ReportAddresses
    from gateway.mail.types import Mail, Session

ANSWER: Final = "ANSWER"  # the reason of a verdict about mail that answers a digest
MOST: Final = 50  # deeds that one message may do


class AnswerAddress:
    """The address for answers, with a token behind a "+". Thread-safe."""

    def __init__(self, address: str, desk: Desk) -> None:
        local, _, domain = address.rpartition("@")
        self._before = f"{local.lower()}+"
        self._domain = normal(domain)
        self._desk = desk

    def takes(self, session: Session, recipient: str) -> bool:
        """Whether mail from this client to this recipient is an answer."""
        local, _, domain = recipient.rpartition("@")
        plain = local.lower().startswith(self._before) and normal(domain) == self._domain
        return plain and session.direction is Direction.OUTBOUND

    def take(self, recipients: Iterable[str]) -> Taken:
        """Do what each of the recipients stands for. Raises StoreError."""
        done, why = [], []
        for recipient in list(recipients)[:MOST]:
            token = recipient.rpartition("@")[0][len(self._before) :]
            try:
                grant, what = act(self._desk, token, "mail")
            except (GrantError, RefusedError) as error:
                why.append(printable(str(error), 200))
            else:
                done.append(f"{what} {grant.item}")
        return Taken(0, "; ".join(done or why), bool(done), ANSWER)


@dataclass(frozen=True, slots=True)
class Inbox:
    """All addresses of ours whose mail is not judged."""

    reports: ReportAddresses | None = None
    answers: AnswerAddress | None = None

    def takes(self, session: Session, recipient: str) -> bool:
        """Whether mail from this client to this recipient is for us."""
        reported = self.reports is not None and self.reports.takes(session, recipient)
        return reported or (self.answers is not None and self.answers.takes(session, recipient))

    def among(self, mail: Mail) -> tuple[str, ...]:
        """The recipients of `mail` for whom it is for us."""
        return tuple(one for one in mail.envelope.recipients if self.takes(mail.session, one))

    def take(self, mail: Mail, recipients: Iterable[str]) -> Taken:
        """Do what the message is for, durably. Raises StoreError."""
        answered = [r for r in recipients if self.answers and self.answers.takes(mail.session, r)]
        taken = self.answers.take(answered) if self.answers and answered else None
        rest = [r for r in recipients if r not in answered]
        if rest and self.reports is not None:
            report = self.reports.take(mail, rest)
            if taken is None or report.useful:
                return report
        return taken or Taken(0, "nobody takes this", useful=False)
