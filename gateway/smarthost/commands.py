# SPDX-License-Identifier: GPL-2.0-or-later
"""SMTP command lines as values. No I/O.

Reads hostile bytes: one command line, already bounded in length. aiosmtpd's own parser is not
used: it reads addresses with the email package's header parser, which takes comments, folding
and much else that no envelope may hold, and it takes lines that end in a bare LF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.mail.networks import address as ip_address
from gateway.mail.types import Reply

LONGEST_ADDRESS = 254  # octets: RFC 5321 §4.5.3.1.3 without the angle brackets

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# A quoted local part may hold ">" (RFC 5321 §4.1.2); each character is looked at once.
_PATH = re.compile(r'<((?:"(?:[^"\\]|\\.)*"|[^"<>])*)>')
_BARE_ADDRESS = re.compile(r"[A-Za-z0-9._+=-]+@[A-Za-z0-9.-]+")
_LOCAL = re.compile(r'[^\x00-\x20\x7f"(),:;<>@\[\]\\]+|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"')
_LABEL = re.compile(r"(?!-)(?:[A-Za-z0-9_-]|[^\x00-\x7f])+(?<!-)")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")
_HELO = re.compile(r"[!-~]{1,255}")

_HTTP = frozenset(("GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS", "DELETE", "PATCH", "TRACE", "PRI"))


class CommandError(Exception):
    """A command that cannot be obeyed; `reply` says why."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, enhanced, text)


@dataclass(frozen=True, slots=True)
class MailCommand:
    """MAIL as it was given: the sender ("" is null) and its parameters."""

    sender: str
    options: tuple[str, ...]
    size: int  # announced, 0 if not
    smtputf8: bool


def split_line(line: bytes) -> tuple[str, str]:
    """The verb, upper case, and the rest of a command line without its CRLF. Raises CommandError."""
    if _CONTROL.search(line):
        raise CommandError(500, "5.5.2", "Control character in a command")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise CommandError(500, "5.5.2", "A command that is not UTF-8") from None
    verb, _, rest = text.partition(" ")
    return verb.upper(), rest.strip(" ")


def is_http(verb: str, rest: str) -> bool:
    """Whether this is the first line of a web request (a cross-protocol attack)."""
    return verb in _HTTP or rest.upper().endswith(("HTTP/1.0", "HTTP/1.1", "HTTP/2.0"))


def helo_name(rest: str) -> str:
    """The argument of HELO and EHLO. Raises CommandError."""
    if not _HELO.fullmatch(rest):
        raise CommandError(501, "5.5.4", "Syntax: EHLO hostname")
    return rest


def mail_command(rest: str, *, extended: bool, size_limit: int) -> MailCommand:
    """MAIL's argument. Raises CommandError."""
    sender, words = _path(rest, "FROM:")
    found = _parameters(words, extended=extended)
    smtputf8 = "SMTPUTF8" in found
    size = 0
    options = []
    for keyword, value in found.items():
        if keyword == "SIZE":
            if not value.isdecimal() or len(value) > 20:  # RFC 1870 §4
                raise CommandError(501, "5.5.4", "Bad value of SIZE")
            size = int(value)
        elif keyword == "BODY":
            if value.upper() not in ("7BIT", "8BITMIME"):
                raise CommandError(501, "5.5.4", "BODY is 7BIT or 8BITMIME")
        elif keyword != "SMTPUTF8":
            raise CommandError(555, "5.5.4", f"Parameter {keyword} is not supported")
        elif value:
            raise CommandError(501, "5.5.4", "SMTPUTF8 has no value")
        options.append(f"{keyword}={value.upper()}" if value else keyword)
    if sender:
        check_address(sender, smtputf8=smtputf8, enhanced="5.1.7")
    if size > size_limit:
        raise CommandError(552, "5.3.4", "Message too big")  # RFC 1870 §6.1
    return MailCommand(sender, tuple(options), size, smtputf8)


def rcpt_command(rest: str, *, extended: bool) -> str:
    """RCPT's argument: the recipient, not yet checked. Raises CommandError."""
    recipient, words = _path(rest, "TO:")
    found = _parameters(words, extended=extended)
    if found:
        raise CommandError(555, "5.5.4", f"Parameter {next(iter(found))} is not supported")
    if not recipient or not recipient.strip():
        raise CommandError(501, "5.1.3", "No recipient")
    if re.fullmatch(r"[A-Za-z0-9._+=-]+", recipient) and recipient.lower() != "postmaster":
        raise CommandError(501, "5.1.3", "A recipient needs a domain")
    return recipient


def check_address(address: str, *, smtputf8: bool, enhanced: str) -> None:
    """Raise CommandError, with this enhanced code, unless `address` is a Mailbox of RFC 5321 §4.1.2.

    More lenient only in dots and lengths within the local part, which real senders get wrong.
    """
    if not address.isascii() and not smtputf8:
        raise CommandError(553, "5.6.7", "Address needs SMTPUTF8")  # RFC 6531 §3.5
    if len(address.encode()) > LONGEST_ADDRESS:
        raise CommandError(501, enhanced, "Address too long")
    local, at, domain = address.rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or not _is_domain(domain):
        raise CommandError(501, enhanced, "Malformed address")


def _is_domain(domain: str) -> bool:
    if domain.startswith("[") and domain.endswith("]"):
        literal = domain[1:-1]
        bare = literal[5:] if literal[:5].upper() == "IPV6:" else literal
        return ip_address(bare) is not None and (":" in bare) == (bare != literal)
    return all(_is_label(label) for label in domain.split("."))


def _is_label(label: str) -> bool:
    if len(label.encode()) > 63 or not _LABEL.fullmatch(label):
        return False
    if label[:4].lower() != "xn--":
        return True
    try:
        return not label[4:].encode("ascii").decode("punycode").isascii()
    except UnicodeError:
        return False


def _path(rest: str, keyword: str) -> tuple[str, str]:
    """The address, without angle brackets, and what follows it."""
    if rest[: len(keyword)].upper() != keyword:
        raise CommandError(500, "5.5.2", "Command not recognized")
    text = rest[len(keyword) :].lstrip(" ")
    if not text:
        raise CommandError(500, "5.5.2", f"Syntax: {keyword}<address>")
    found = _PATH.match(text)
    if found is not None:
        after = text[found.end() :]
        if after and not after.startswith(" "):
            raise CommandError(501, "5.5.4", f"Syntax: {keyword}<address>")
        return found[1], after
    # Without angle brackets only what cannot be misread.
    bare, _, after = text.partition(" ")
    if _BARE_ADDRESS.fullmatch(bare) is None:
        raise CommandError(501, "5.5.4", f"Syntax: {keyword}<address>")
    return bare, after


def _parameters(words: str, *, extended: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words.split():
        match = _PARAMETER.fullmatch(word)
        if match is None or match[1].upper() in found:
            raise CommandError(501, "5.5.4", "Syntax error in parameters")
        found[match[1].upper()] = match[2] or ""
    if found and not extended:
        raise CommandError(555, "5.5.4", "Parameters need EHLO")
    return found
