# SPDX-License-Identifier: GPL-2.0-or-later
"""SMTP command lines as values. No I/O.

Reads hostile bytes: one command line, already bounded in length. A library's parser is not
used: it reads addresses with the email package's header parser, which takes comments, folding
and much else that no envelope may hold, and it takes lines that end in a bare LF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.mail.networks import address as ip_address
from gateway.mail.types import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_ADDRESS = 254  # octets: RFC 5321 §4.5.3.1.3 without the angle brackets

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# A quoted local part may hold ">" (RFC 5321 §4.1.2); each character is looked at once.
_PATH = re.compile(r'<((?:"(?:[^"\\]|\\.)*"|[^"<>])*)>')
_BARE_ADDRESS = re.compile(r"[A-Za-z0-9._+=-]+@[A-Za-z0-9.-]+")
_LOCAL = re.compile(r'[^\x00-\x20\x7f"(),:;<>@\[\]\\]+|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"')
_LABEL = re.compile(r"(?!-)(?:[A-Za-z0-9_-]|[^\x00-\x7f])+(?<!-)")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=((?:[!-<>-~]|[^\x00-\x7f])+))?")
_CHUNK = re.compile(r"([0-9]{1,20})( +LAST)?", re.IGNORECASE)
_HELO = re.compile(r"[!-~]{1,255}")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")  # RFC 3461 §4
_CODED = re.compile(r"\+([0-9A-F]{2})")
_UTF8_ADDRESS = re.compile(
    r"(?:[!-*,-<>-\[\]-~]|[^\x00-\x7f]|\\x\{[0-9A-F]{2,6}\}|\+[0-9A-F]{2})+"
)  # RFC 6533 §3
_UTF8_CODED = re.compile(r"\\x\{([0-9A-F]+)\}|\+([0-9A-F]{2})")
_NOTIFY = frozenset(("SUCCESS", "FAILURE", "DELAY"))
DSN = frozenset(("RET", "ENVID"))  # the parameters of MAIL that come with DSN (RFC 3461)

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


@dataclass(frozen=True, slots=True)
class RcptCommand:
    """RCPT as it was given: the recipient, not yet checked, and its parameters."""

    recipient: str
    options: tuple[str, ...] = ()


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


def mail_command(
    rest: str, *, extended: bool, size_limit: int, offered: frozenset[str] = frozenset()
) -> MailCommand:
    """MAIL's argument; of RET, ENVID, REQUIRETLS and AUTH those `offered`. Raises CommandError."""
    sender, words = _path(rest, "FROM:")
    found = _parameters(words, extended=extended)
    smtputf8 = "SMTPUTF8" in found
    options = []
    for keyword, value in found.items():
        check = _MAIL_PARAMETERS.get(keyword)
        if check is None or (keyword in _OFFERED and keyword not in offered):
            raise CommandError(555, "5.5.4", f"Parameter {keyword} is not supported")
        if not check(value):
            raise CommandError(501, "5.5.4", f"Bad value of {keyword}")
        if keyword != "AUTH":  # whoever was believed before us is nobody's business behind us
            options.append(f"{keyword}={_canonical(keyword, value)}" if value else keyword)
    size = int(found.get("SIZE") or 0)
    if sender:
        check_address(sender, smtputf8=smtputf8, enhanced="5.1.7")
    if size > size_limit:
        raise CommandError(552, "5.3.4", "Message too big")  # RFC 1870 §6.1
    return MailCommand(sender, tuple(options), size, smtputf8)


def rcpt_command(rest: str, *, extended: bool, dsn: bool = False) -> RcptCommand:
    """RCPT's argument; NOTIFY and ORCPT only with `dsn`. Raises CommandError."""
    recipient, words = _path(rest, "TO:")
    found = _parameters(words, extended=extended)
    for keyword, value in found.items():
        check = _RCPT_PARAMETERS.get(keyword) if dsn else None
        if check is None:
            raise CommandError(555, "5.5.4", f"Parameter {keyword} is not supported")
        if not check(value):
            raise CommandError(501, "5.5.4", f"Bad value of {keyword}")
    if not recipient or not recipient.strip():
        raise CommandError(501, "5.1.3", "No recipient")
    if re.fullmatch(r"[A-Za-z0-9._+=-]+", recipient) and recipient.lower() != "postmaster":
        raise CommandError(501, "5.1.3", "A recipient needs a domain")
    if len(recipient.encode()) > LONGEST_ADDRESS:
        raise CommandError(501, "5.1.3", "Address too long")
    return RcptCommand(recipient, tuple(f"{k}={_canonical(k, v)}" for k, v in found.items()))


def bdat_command(rest: str) -> tuple[int, bool]:
    """BDAT's argument (RFC 3030 §2): octets of the chunk, and whether it is the last. Raises CommandError."""
    found = _CHUNK.fullmatch(rest)
    if found is None:
        raise CommandError(501, "5.5.4", "Syntax: BDAT size [LAST]")
    return int(found[1]), bool(found[2])


def _is_size(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) <= 20  # RFC 1870 §4


def _is_xtext(value: str, longest: int = 100) -> bool:
    """Whether it is xtext that stands for printable ASCII (RFC 3461 §4.4): no line break is hidden there."""
    if len(value) > longest or not _XTEXT.fullmatch(value):
        return False
    return all(" " <= chr(int(code, 16)) <= "~" for code in _CODED.findall(value))


def _is_original(value: str) -> bool:
    """ORCPT: a type, and an address in xtext (RFC 3461 §4.2) or, for "utf-8", as RFC 6533 §3 has it."""
    kind, semicolon, address = value.partition(";")
    if not semicolon or len(value) > 500 or not re.fullmatch(r"[A-Za-z0-9-]+", kind):
        return False
    if kind.lower() != "utf-8":
        return _is_xtext(address, 500)
    codes = [int(wide or short, 16) for wide, short in _UTF8_CODED.findall(address)]
    return bool(_UTF8_ADDRESS.fullmatch(address)) and all(code >= 0x20 and code != 0x7F for code in codes)


def _is_notify(value: str) -> bool:
    words = value.upper().split(",")
    return words == ["NEVER"] or (len(set(words)) == len(words) and _NOTIFY.issuperset(words))


_MAIL_PARAMETERS: dict[str, Callable[[str], bool]] = {
    "SIZE": _is_size,
    "BODY": lambda value: value.upper() in ("7BIT", "8BITMIME"),
    "SMTPUTF8": lambda value: not value,
    "RET": lambda value: value.upper() in ("FULL", "HDRS"),
    "ENVID": _is_xtext,
    "REQUIRETLS": lambda value: not value,  # RFC 8689 §2
    "AUTH": lambda value: value == "<>" or _is_xtext(value, 500),  # RFC 4954 §5
}
_OFFERED = frozenset(("RET", "ENVID", "REQUIRETLS", "AUTH"))
_RCPT_PARAMETERS: dict[str, Callable[[str], bool]] = {"NOTIFY": _is_notify, "ORCPT": _is_original}


def _canonical(keyword: str, value: str) -> str:
    """The value as it is kept and passed on: ASCII, in one case where case means nothing."""
    if keyword == "ORCPT":
        return "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in value)  # RFC 6533 §3
    return value if keyword == "ENVID" else value.upper()


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
