# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery status notifications (RFC 3461-3464, RFC 6522, RFC 6533): what the sender is told.

Writes hostile text: addresses, replies of next hops, the header section of the message. Every line
of our own is made printable and bounded; no CR or LF of theirs reaches a field. A notice has the null
sender, so that none is ever sent about a notice. Whether one may be sent at all was settled when
the message was queued.
"""

from __future__ import annotations

import quopri
import re
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, Literal

from gateway.delivery.routes import parse_route
from gateway.mail.headers import printable
from gateway.mail.networks import address as ip_address
from gateway.mail.types import new_id
from gateway.store.queued import Addressee, Outgoing
from gateway.tls.wish import REQUIRETLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.queued import Facts, Recipient

Action = Literal["failed", "delayed", "relayed", "delivered"]
MOST_HEADER: Final = 32_768  # octets of the header section that are sent back
MOST_MESSAGE: Final = 1_048_576  # octets up to which RET=FULL is obeyed
LIFETIME: Final = 432_000.0

_STATUS = re.compile(r"^\d{3} ([245]\.\d{1,3}\.\d{1,3})(?: |$)")
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_SUBJECT: Final = {
    "failed": "Undelivered mail returned to sender",
    "delayed": "Delayed mail (still being retried)",
    "relayed": "Successful mail relay report",
    "delivered": "Successful mail delivery report",
}
_WORDS: Final = {
    "failed": "Your message could not be delivered to the recipients below, and will not be tried again.",
    "delayed": "Your message could not be delivered yet to the recipients below. It is still being tried; "
    "you need not send it again.",
    "relayed": "Your message was passed on for the recipients below, to a mail system that sends no such "
    "reports itself.",
    "delivered": "Your message was delivered to the recipients below.",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one recipient, and what the next hop said."""

    recipient: Recipient
    reply: str
    expired: bool = False
    server: str = ""  # which said it


def wanted(recipient: Recipient, action: Action) -> bool:
    """Whether the sender asked to be told (NOTIFY, RFC 3461 §4.1); of failures and delays by default."""
    notify = _option(recipient.options, "NOTIFY").upper().split(",")
    if notify == [""]:
        return action in ("failed", "delayed")
    return {"failed": "FAILURE", "delayed": "DELAY"}.get(action, "SUCCESS") in notify


def notice(
    facts: Facts,
    message: bytes,
    reports: Sequence[Report],
    action: Action,
    *,
    hostname: str,
    hop: str,
    now: float,
) -> Outgoing:
    """The notice to the sender of `facts` about recipients with one fate. `hop` is its next hop."""
    item = new_id(now)
    boundary = f"=_{item}"
    global_form = not facts.sender.isascii()
    parts = [
        (
            "text/plain; charset=utf-8",
            "8bit" if global_form else "7bit",
            _told(facts, reports, action, hostname),
        ),
        ("message/delivery-status", "7bit", _status(facts, reports, action, hostname, now)),
        _returned(facts, message, action),
    ]
    head = [
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{printable(facts.sender, 320)}>",
        f"Subject: {_SUBJECT[action]}",
        f"Date: {formatdate(now, localtime=True)}",
        f"Message-ID: <{item}@{hostname}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
        "",
        "This is a MIME-encapsulated message.",
        "",
    ]
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()
        + text
        + b"\r\n"
        for kind, encoding, text in parts
    )
    options = ("SMTPUTF8",) if global_form else ()
    return Outgoing(
        id=item,
        sender="",
        recipients=(Addressee(facts.sender, hop, ("NOTIFY=NEVER",)),),
        message="\r\n".join(head).encode() + body + f"--{boundary}--\r\n".encode(),
        created=now,
        expires=now + LIFETIME,
        options=options,
        may_bounce=False,
    )


def _told(facts: Facts, reports: Sequence[Report], action: Action, hostname: str) -> bytes:
    """The part for people."""
    wide = not facts.sender.isascii()
    lines = [f"This is the mail system at {hostname}.", "", *_wrapped(_WORDS[action]), ""]
    for report in reports:
        lines.append(f"<{printable(report.recipient.address, 320, ascii_only=not wide)}>:")
        if report.expired:
            lines.append("    given up after the longest time that mail is tried; the last answer was:")
        lines += [f"    {line}" for line in _wrapped(report.reply or "no answer")]
        lines.append("")
    lines.append(f"The message has the id {facts.id} here.")
    return "\r\n".join(lines).encode() + b"\r\n"


def _status(facts: Facts, reports: Sequence[Report], action: Action, hostname: str, now: float) -> bytes:
    """The part for programs (RFC 3464 §2)."""
    lines = [f"Reporting-MTA: dns; {hostname}"]
    envelope = _option(facts.options, "ENVID")
    if envelope:
        lines.append(f"Original-Envelope-Id: {_xtext(envelope)}")
    lines.append(f"Arrival-Date: {formatdate(facts.created, localtime=True)}")
    for report in reports:
        recipient = report.recipient
        lines.append("")
        original = _option(recipient.options, "ORCPT")
        if original:
            kind, _, address = original.partition(";")
            lines.append(f"Original-Recipient: {printable(kind, 40, ascii_only=True)}; {_xtext(address)}")
        lines += [
            f"Final-Recipient: {_address(recipient.address)}",
            f"Action: {action}",
            f"Status: {_code(report, action)}",
        ]
        remote = _host(report.server or recipient.hop)
        if remote:
            lines.append(f"Remote-MTA: dns; {printable(remote, 255, ascii_only=True)}")
        if report.reply:
            # RFC 3464 §2.3.6: "smtp" is what a server said, and not what we found ourselves.
            kind = "smtp" if report.server else "X-Mailwarden"
            lines.append(f"Diagnostic-Code: {kind}; {printable(report.reply, 500, ascii_only=True)}")
        lines.append(f"Last-Attempt-Date: {formatdate(now, localtime=True)}")
        if action == "delayed":
            lines.append(f"Will-Retry-Until: {formatdate(facts.expires, localtime=True)}")
    return "\r\n".join(lines).encode() + b"\r\n"


def _host(hop: str) -> str:
    """The one server that a route names, as RFC 3464 §2.1.1 writes a host; "" of several, or of none."""
    try:
        ((one,),) = parse_route(hop).tiers
    except ValueError:
        return ""
    if one.mx or ip_address(one.host) is None:
        return "" if one.mx else one.host
    return f"[IPv6:{one.host}]" if ":" in one.host else f"[{one.host}]"


def _returned(facts: Facts, message: bytes, action: Action) -> tuple[str, str, bytes]:
    """The message, where its sender asked for all of it, or its header section (RFC 6522 §4)."""
    # RFC 8689 §5: the notice may go over less TLS than the message had to.
    full = _option(facts.options, "RET").upper() == "FULL" and REQUIRETLS not in facts.options
    if full and action == "failed" and len(message) <= MOST_MESSAGE and message.isascii():
        return "message/rfc822", "7bit", message
    end = message.find(b"\r\n\r\n")
    head = message[: end + 2 if end >= 0 else len(message)]
    if len(head) > MOST_HEADER:
        head = head[: head.rfind(b"\r\n", 0, MOST_HEADER) + 2]
    if head.isascii() and max(map(len, head.split(b"\r\n"))) <= 998:
        return "text/rfc822-headers", "7bit", head
    # A next hop may take no 8-bit message, and this part, unlike a message, may be encoded.
    encoded = quopri.encodestring(head.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
    return "text/rfc822-headers; charset=utf-8", "quoted-printable", encoded


def _code(report: Report, action: Action) -> str:
    found = _STATUS.match(report.reply)
    if report.expired:
        policy = found is not None and found[1].startswith("4.7.")  # no TLS that would do, until now
        return f"5{found[1][1:]}" if found and policy else "4.4.7"  # RFC 3463 §3.5: delivery time expired
    wanted_class = {"failed": "5", "delayed": "4"}.get(action, "2")
    if found and found[1][0] == wanted_class:
        return found[1]
    return f"{wanted_class}.0.0"


def _address(address: str) -> str:
    """An address as RFC 3464 §2.1.2 types it, or RFC 6533 §3 if it is not ASCII."""
    text = printable(address, 320)
    if text.isascii():
        return f"rfc822; {text}"
    return "utf-8; " + "".join(
        c if "!" <= c <= "~" and c not in "\\+=" else f"\\x{{{ord(c):X}}}" for c in text
    )


def _xtext(text: str) -> str:
    """What xtext stands for (RFC 3461 §4), printable: encoded line breaks come out as spaces."""
    return printable(_XTEXT.sub(lambda found: chr(int(found[1], 16)), text), 500, ascii_only=True)


def _option(options: Sequence[str], keyword: str) -> str:
    prefix = f"{keyword}="
    return next((option[len(prefix) :] for option in options if option.upper().startswith(prefix)), "")


def _wrapped(text: str, width: int = 72) -> list[str]:
    """The text in lines; a word that is too long gets a line of its own."""
    lines = [""]
    for word in printable(text, 600, ascii_only=True).split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
