# SPDX-License-Identifier: GPL-2.0-or-later
"""A digest as mail: plain text and HTML, with no script, no picture and nothing that is loaded.

Writes hostile text that `compose` has taken apart; here it is escaped for HTML, and nothing of it comes near
a header field. Text goes as quoted-printable, so that no line of it is anything else.
"""

from __future__ import annotations

import hashlib
import quopri
import time
from email.header import Header
from email.utils import formatdate
from html import escape
from typing import TYPE_CHECKING, Final

from gateway.mail.headers import printable
from gateway.store.grants import Deed

if TYPE_CHECKING:
    from gateway.digest.compose import Digest, Line, Overview
    from gateway.digest.words import Language, Words

_STYLE: Final = "font-family:sans-serif;line-height:1.4;max-width:44em;overflow-wrap:anywhere"
_PAGE: Final = (
    '<!DOCTYPE html>\n<html lang="{code}"><head><meta charset="utf-8"><title>{title}</title></head>\n'
    '<body style="{style}">\n{body}\n</body></html>\n'
)


def subject(digest: Digest | Overview, words: Words) -> str:
    """The subject of a digest: figures and names of ours."""
    lines = getattr(digest, "lines", None)
    if lines is None:
        return words.admin_subject.replace("{domain}", printable(getattr(digest, "domain", ""), 255))
    return words.subject.replace("{count}", str(getattr(digest, "count", 0)))


def text_of(digest: Digest, language: Language) -> str:
    """The digest of a recipient as plain text."""
    words = language.words
    lines = [
        words.greeting.replace("{address}", digest.address),
        "",
        words.intro.replace("{count}", str(digest.count)),
        "",
    ]
    for line in digest.lines:
        lines += [f"{name}: {value}" for name, value in _facts(line, words)]
        for deed, label in _deeds(line, words):
            lines += [f"{label}: {line.links[deed]}"] if deed in line.links else []
            lines += [f"{label}: {line.addresses[deed]}"] if deed in line.addresses else []
        lines.append("")
    lines += _end(digest, words)
    return "\n".join(lines) + "\n"


def html_of(digest: Digest, language: Language) -> str:
    """The digest of a recipient as HTML."""
    words = language.words
    body = [
        f'<h1 style="font-size:1.2em">{escape(subject(digest, words))}</h1>',
        f"<p>{escape(words.greeting.replace('{address}', digest.address))}</p>",
        f"<p>{escape(words.intro.replace('{count}', str(digest.count)))}</p>",
    ]
    for line in digest.lines:
        rows = "<br>\n".join(f"<b>{escape(name)}:</b> {escape(value)}" for name, value in _facts(line, words))
        acts = []
        for deed, label in _deeds(line, words):
            if deed in line.links:
                acts.append(f'<a href="{escape(line.links[deed])}">{escape(label)}</a>')
            if deed in line.addresses:
                target = f"mailto:{line.addresses[deed]}"
                acts.append(f'<a href="{escape(target)}">{escape(label)} &#9993;</a>')
        body.append(f"<hr>\n<p>{rows}</p>\n<p>{' &nbsp; '.join(acts)}</p>")
    body.append("<hr>")
    body += [f"<p>{_linked(one)}</p>" for one in _end(digest, words) if one]
    return _PAGE.format(
        code=language.code, title=escape(subject(digest, words)), style=_STYLE, body="\n".join(body)
    )


def overview_text(told: Overview, language: Language) -> str:
    """The digest of an administrator as plain text."""
    return "\n".join(_overview(told, language.words)) + "\n"


def overview_html(told: Overview, language: Language) -> str:
    """The digest of an administrator as HTML."""
    title = escape(subject(told, language.words))
    body = [f'<h1 style="font-size:1.2em">{title}</h1>']
    body += [f"<p>{_linked(one)}</p>" for one in _overview(told, language.words) if one]
    return _PAGE.format(code=language.code, title=title, style=_STYLE, body="\n".join(body))


def message(
    to: str, title: str, text: str, html: str, *, sender: str, name: str, stamp: str, now: float
) -> bytes:
    """The mail with both forms, CRLF line ends. `stamp` makes its Message-ID, the same for each attempt."""
    mark = hashlib.sha256(f"{stamp}\0{to}".encode()).hexdigest()[:32]
    head = (
        f"From: {Header(name, 'utf-8' if not name.isascii() else 'us-ascii').encode()} <{sender}>\n"
        f"To: <{to}>\n"
        f"Subject: {Header(title, 'utf-8' if not title.isascii() else 'us-ascii').encode()}\n"
        f"Date: {formatdate(now, localtime=True)}\n"
        f"Message-ID: <{mark}.digest@{sender.rpartition('@')[2]}>\n"
        "Auto-Submitted: auto-generated\n"
        "X-Auto-Response-Suppress: All\n"
        "MIME-Version: 1.0\n"
        f'Content-Type: multipart/alternative; boundary="=_{mark}"\n\n'
    )
    parts = "".join(
        f"--=_{mark}\nContent-Type: {kind}; charset=utf-8\n"
        f"Content-Transfer-Encoding: quoted-printable\n\n{_encoded(body)}\n"
        for kind, body in (("text/plain", text), ("text/html", html))
    )
    return (head + parts + f"--=_{mark}--\n").replace("\n", "\r\n").encode("ascii")


# ---------------------------------------------------------------- pieces


def _facts(line: Line, words: Words) -> list[tuple[str, str]]:
    rows = [
        (words.sender, line.sender),
        (words.subject_label, line.subject or words.no_subject),
        (words.held, _moment(line.held_at, words)),
        (words.size, _size(line.size)),
        (words.why, line.why),
    ]
    return [*rows, ("", words.requested)] if line.requested else rows


def _deeds(line: Line, words: Words) -> list[tuple[Deed, str]]:
    wanted = {**line.links, **line.addresses}
    labels = {Deed.RELEASE: words.release if line.at_once else words.ask, Deed.SPAM: words.spam}
    return [(deed, label) for deed, label in labels.items() if deed in wanted]


def _end(digest: Digest, words: Words) -> list[str]:
    left = digest.count - len(digest.lines)
    lines = [words.more.replace("{count}", str(left)), ""] if left else []
    if any(line.addresses for line in digest.lines):
        lines.append(words.by_mail)
    if digest.overview:
        lines.append(f"{words.overview}: {digest.overview}")
    if digest.overview or any(line.addresses for line in digest.lines):
        lines.append(words.expires.replace("{date}", _moment(digest.expires, words)))
    return [*lines, words.ending]


def _overview(told: Overview, words: Words) -> list[str]:
    lines = [
        words.admin_intro.replace("{domain}", told.domain),
        "",
        f"{words.admin_waiting}: {told.waiting}",
        f"{words.admin_new}: {told.new}",
        f"{words.admin_malware}: {told.malware}",
        "",
        f"{words.admin_requests}: {len(told.requests) or words.admin_none}",
    ]
    for one in told.requests:
        recipient = printable(one.recipient, 100)
        lines.append(
            f"{one.id} <{recipient}> {words.sender} <{one.sender}>: {one.subject or words.no_subject}"
        )
    if told.requests and told.asked:
        lines.append(f"{words.admin_all}: {told.asked}")
    if told.requests:
        lines.append(words.admin_how.replace("{id}", told.requests[0].id))
    for label, groups in ((words.admin_reasons, told.reasons), (words.admin_senders, told.senders)):
        if groups:
            lines += ["", f"{label}:", *(f"{count}  {name}" for name, count in groups)]
    return [*lines, "", told.link] if told.link else lines


def _linked(line: str) -> str:
    """A line of ours in HTML; the link of ours at its end is one."""
    before, colon, link = line.rpartition(" ")
    if not link.startswith(("https://", "http://")):
        return escape(line)
    return f'{escape(before)}{colon}<a href="{escape(link)}">{escape(link)}</a>'


def _moment(seconds: float, words: Words) -> str:
    return time.strftime(words.date, time.localtime(seconds))


def _size(count: int) -> str:
    return f"{max(1, round(count / 1_000))} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def _encoded(body: str) -> str:
    return quopri.encodestring(body.encode("utf-8", "replace")).decode("ascii")
