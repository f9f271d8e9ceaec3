# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table from a verdict to an SMTP reply, for both doors.

Senders get a generic text and our id; what exactly was found stays in the journal. Codes are
RFC 5321's, enhanced codes RFC 3463's, 7372's and their registry's.
"""

from __future__ import annotations

from gateway.digest.answers import ANSWER
from gateway.feedback.reported import REPORT
from gateway.mail.types import Action, Reply, Verdict

_REJECT = {
    REPORT: ("5.6.0", "Nothing to learn from, forward the message as an attachment"),
    ANSWER: ("5.7.1", "This address is used up, has expired, or is not yours"),
    "VIRUS": ("5.7.1", "Message rejected, infected"),
    "DMARC_REJECT": ("5.7.1", "Message rejected by the DMARC policy of the author domain"),
    "SPF_FAIL": ("5.7.23", "Message rejected, SPF validation failed"),
    "FROM_SEVERAL": ("5.6.0", "Message rejected, more than one From field"),
    "FROM_MISSING": ("5.6.0", "Message rejected, no author in the From field"),
    "MIME_AMBIGUOUS": ("5.6.0", "Message rejected, malformed"),
    "MIME_LIMIT": ("5.6.0", "Message rejected, malformed"),
    "ATTACHMENT_EXECUTABLE": ("5.7.1", "Message rejected, attachment not allowed"),
    "ATTACHMENT_DOUBLE_EXTENSION": ("5.7.1", "Message rejected, attachment not allowed"),
    "ATTACHMENT_TYPE_MISMATCH": ("5.7.1", "Message rejected, attachment not allowed"),
}
_DMARC = "DMARC cannot be checked now, try again later"
_DEFER = {
    "VIRUS": ("4.7.1", "Message cannot be scanned now, try again later"),
    "SPF_ERROR": ("4.7.24", "SPF cannot be checked now, try again later"),
    "DKIM_ERROR": ("4.7.20", "DKIM cannot be checked now, try again later"),
    "DMARC_ERROR": ("4.7.1", _DMARC),
    "DMARC_REJECT": ("4.7.1", _DMARC),
    "DMARC_QUARANTINE": ("4.7.1", _DMARC),
}


def reply_to(verdict: Verdict) -> Reply:
    """Return the reply at the end of DATA. For RELAY and TAG the next hop has the last word."""
    tail = f"(id {verdict.id})"
    if verdict.action is Action.REJECT:
        enhanced, text = _REJECT.get(verdict.reason, ("5.7.1", "Message rejected as spam"))
        return Reply(550 if verdict.reason in _REJECT else 554, enhanced, f"{text} {tail}")
    if verdict.action is Action.DEFER:
        enhanced, text = _DEFER.get(
            verdict.reason, ("4.7.1", "Message cannot be judged now, try again later")
        )
        return Reply(451, enhanced, f"{text} {tail}")
    if verdict.action is Action.LEARN:
        return Reply(250, "2.0.0", f"Ok: report taken {tail}")
    if verdict.action is Action.QUARANTINE:
        # No hint to the sender that the message was held.
        return Reply(250, "2.0.0", f"Ok: accepted {tail}")
    return Reply(250, "2.0.0", f"Ok: relayed {tail}")


def failure(mail_id: str) -> Reply:
    """The reply where we failed ourselves: always temporary, never "clean"."""
    return Reply(451, "4.3.0", f"Temporary failure in the mail gateway, try again later (id {mail_id})")


def storage_failure(mail_id: str) -> Reply:
    """The reply where the quarantine or journal could not keep its promise."""
    return Reply(452, "4.3.1", f"Insufficient system storage, try again later (id {mail_id})")
