# SPDX-License-Identifier: GPL-2.0-or-later
"""The edits that a verdict asks for: fields of strangers in our name go, ours come.

Edits are values; `mail/edits.py` or the MTA applies them. One set serves all recipients of a
message, since both doors pass on one copy: it is tagged when any of them asks for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.auth import received_spf
from gateway.auth.results import authentication_results, forged
from gateway.mail.headers import printable
from gateway.mail.types import (
    ON_ITS_WAY,
    Action,
    Content,
    Direction,
    Edit,
    EditOp,
    Evidence,
    Mail,
    Verdict,
)
from gateway.policy import strip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.policy.rules import Policy

RELEASE_FIELD = "X-Mailwarden-Release"
KEPT_FIELD = "X-Quarantine-ID"
# Everything that we write, or that a mail client may take for ours.
OURS = (
    "X-Spam-Flag",
    "X-Spam-Score",
    "X-Spam-Level",
    "X-Spam-Status",
    "X-Spam-Report",
    "X-Virus-Scanned",
    "X-Virus-Status",
    KEPT_FIELD,
    RELEASE_FIELD,
)
_OURS_LOWER = {name.lower(): name for name in OURS}
_STARS = 50


def annotate(
    mail: Mail, content: Content, evidence: Evidence, verdict: Verdict, policy: Policy, authserv_id: str
) -> tuple[Edit, ...]:
    """Return the edits of a message that goes on, deletions first; () for one that does not."""
    if not verdict.relayed or verdict.action not in ON_ITS_WAY:
        return ()
    inbound = mail.session.direction is Direction.INBOUND
    edits = [*_removed(content, authserv_id, inbound=inbound), *strip.fields(content, verdict)]
    spf = ""
    if inbound and policy.received_spf:
        # Readers do not look who wrote one, so that of anybody else may be taken for ours.
        count = len(content.all(received_spf.NAME))
        edits += [Edit(EditOp.DELETE, received_spf.NAME, index=index) for index in range(count, 0, -1)]
        spf = received_spf.received_spf(authserv_id, evidence, mail)
    tagged = _tagged(verdict)
    if inbound and tagged and policy.subject_tag:
        edits += _subject(content, policy.subject_tag)
    if inbound and verdict.stripped:
        edits.append(Edit(EditOp.INSERT, KEPT_FIELD, f"<{verdict.id}>"))
    if evidence.antivirus.status == "clean":
        edits.append(Edit(EditOp.INSERT, "X-Virus-Scanned", f"Mailwarden at {authserv_id}"))
    if inbound and (policy.spam_headers == "all" or (policy.spam_headers == "tagged" and tagged)):
        edits += _spam_fields(verdict, tagged=tagged)
    if spf:
        edits.append(Edit(EditOp.INSERT, received_spf.NAME, spf))
    if inbound:
        edits.append(
            Edit(EditOp.INSERT, "Authentication-Results", authentication_results(authserv_id, evidence, mail))
        )
    return tuple(edits)


def _tagged(verdict: Verdict) -> bool:
    """Whether a recipient's threshold or a signal asks for the mark; what is stripped may have it, too."""
    going = [o for o in verdict.outcomes if o.action in ON_ITS_WAY]
    return any(o.action is Action.TAG or o.score >= o.thresholds.tag for o in going) or any(
        c.decides is Action.TAG for c in verdict.contributions
    )


def _removed(content: Content, authserv_id: str, *, inbound: bool) -> Iterator[Edit]:
    """Delete what claims to be ours, from the highest index, so that lower ones keep theirs."""
    counts: dict[str, int] = {}
    for field in content.fields:
        name = _OURS_LOWER.get(field.name.lower())
        if name and (inbound or name == RELEASE_FIELD):
            counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        for index in range(count, 0, -1):
            yield Edit(EditOp.DELETE, name, index=index)
    # RFC 8601 §5: a field with our authserv-id that we did not write must go.
    for index in sorted(forged(content.fields, authserv_id), reverse=True):
        yield Edit(EditOp.DELETE, "Authentication-Results", index=index)


def _subject(content: Content, tag: str) -> Iterator[Edit]:
    fields = content.all("Subject")
    if not fields:
        yield Edit(EditOp.ADD, "Subject", tag.rstrip())
        return
    # The field is passed on as it was written; only ASCII may be rewritten without reading it anew.
    old = fields[0].value.replace(b"\r\n", b"\n").strip()
    # A line of white space alone may not be written again (RFC 5322 §3.2.2, §4.2).
    old = b"\n".join(line for line in old.split(b"\n") if line.strip(b" \t"))
    if old.isascii() and b"\0" not in old and b"\r" not in old and not old.startswith(tag.rstrip().encode()):
        yield Edit(EditOp.REPLACE, "Subject", f"{tag}{old.decode('ascii')}", index=1)


def _spam_fields(verdict: Verdict, *, tagged: bool) -> Iterator[Edit]:
    # Of those who get this copy: who does not is none of their business.
    required = min(o.thresholds.tag for o in verdict.outcomes if o.action in ON_ITS_WAY)
    tests = [f"{c.name}={c.points:g}" for c in verdict.contributions if c.points or c.decides]
    status = f"{'Yes' if tagged else 'No'}, score={verdict.score:g} required={required:g} tests=["
    yield Edit(EditOp.INSERT, "X-Spam-Status", _folded(status, tests) + "]")
    stars = "*" * max(0, min(_STARS, int(verdict.score)))
    if stars:
        yield Edit(EditOp.INSERT, "X-Spam-Level", stars)
    yield Edit(EditOp.INSERT, "X-Spam-Score", f"{verdict.score:g}")
    yield Edit(EditOp.INSERT, "X-Spam-Flag", "YES" if tagged else "NO")


def _folded(start: str, words: list[str]) -> str:
    """Join words by commas, folded so that no line is longer than 76 characters."""
    lines = [start]
    for number, word in enumerate(words):
        part = printable(word, 60) + ("," if number + 1 < len(words) else "")
        if len(lines[-1]) + len(part) > 75:
            lines.append(part)
        else:
            lines[-1] += part if lines[-1].endswith("[") else f" {part}"
    return "\n\t".join(lines)
