# SPDX-License-Identifier: GPL-2.0-or-later
"""MTA-STS (RFC 8461): the record, the policy file, and which MX hosts a policy allows.

Reads hostile text: a TXT record and a file, both bounded before they come here; linear. No network.
No library is used: those that there are do not parse as the grammar says, or fetch and parse in one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from gateway.mail.domains import normal

if TYPE_CHECKING:
    from collections.abc import Sequence

Mode = Literal["enforce", "testing", "none"]

LONGEST: Final = 65_536  # octets of a policy file (RFC 8461 §3.3)
LONGEST_AGE: Final = 31_557_600  # seconds, about a year (RFC 8461 §3.2)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")
_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_VALUE = re.compile(r"[\x21-\x3a\x3c\x3e-\x7e]+\Z")  # of an extension of the record
_BEGIN = re.compile(rb"v=STSv1[ \t]*(?:;|\Z)")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MX = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\Z")
_AGE = re.compile(r"[0-9]{1,10}\Z")
_MOST_MX = 1_000


class PolicyError(Exception):
    """A record or policy file that is not valid; the text says why."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy file. `mx` are host names in lower case, or "*." and one."""

    mode: Mode
    max_age: int
    mx: tuple[str, ...] = ()

    def told(self) -> tuple[str, ...]:
        """The policy in lines, as reports tell it (RFC 8460 §4.4)."""
        hosts = (f"mx: {host}" for host in self.mx)
        return ("version: STSv1", f"mode: {self.mode}", *hosts, f"max_age: {self.max_age}")

    def allows(self, host: str) -> bool:
        """Whether `host` may be an MX of the domain; "*." stands for one label (RFC 8461 §4.1)."""
        name = normal(host)
        return name in self.mx or f"*.{name.partition('.')[2]}" in self.mx


def record_of(values: Sequence[bytes]) -> str | None:
    """The id in the one record among the TXT `values` of _mta-sts, None if the domain has no policy.

    Several records, or one that is not valid, are none (RFC 8461 §3.1).
    """
    ours = [value for value in values if _BEGIN.match(value)]
    if len(ours) != 1:
        return None
    try:
        return read_record(ours[0].decode("ascii"))
    except (PolicyError, UnicodeDecodeError):
        return None


def read_record(text: str) -> str:
    """The id of a record. Raises PolicyError."""
    fields = [one.strip(" \t") for one in text.split(";")]
    if len(fields) > 1 and not fields[-1]:
        fields.pop()
    if fields[0] != "v=STSv1":
        raise PolicyError("does not begin with v=STSv1")
    ident = ""
    for field in fields[1:]:
        name, equals, value = field.partition("=")
        if not equals or not _NAME.match(name):
            raise PolicyError(f"not a field: {field[:40]!r}")
        if name == "id" and not ident:
            if not _ID.match(value):
                raise PolicyError("id is not 1 to 32 letters and digits")
            ident = value
        elif not _VALUE.match(value):
            raise PolicyError(f"bad value of {name}")
    if not ident:
        raise PolicyError("no id")
    return ident


def read_policy(data: bytes) -> Policy:
    """Read a policy file (RFC 8461 §3.2). Raises PolicyError.

    Of a key that is there twice the first counts, but for mx. Unknown keys are looked at, and no more.
    """
    if len(data) > LONGEST:
        raise PolicyError(f"larger than {LONGEST} octets")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise PolicyError("not UTF-8") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    found: dict[str, str] = {}
    hosts: list[str] = []
    for line in lines:
        name, colon, rest = line.partition(":")
        value = rest.strip(" \t")
        if not colon or not _NAME.match(name):
            raise PolicyError(f"not a field: {line[:40]!r}")
        if not value or any(ord(c) < 0x20 or ord(c) == 0x7F for c in value):
            raise PolicyError(f"bad value of {name}")
        if name == "mx":
            if not _MX.match(value) or len(hosts) >= _MOST_MX:
                raise PolicyError(f"bad mx: {value[:80]!r}")
            hosts.append(value.lower())
        else:
            found.setdefault(name, value)
    return _checked(found, tuple(dict.fromkeys(hosts)))


def _checked(found: dict[str, str], hosts: tuple[str, ...]) -> Policy:
    """The policy of these keys. Raises PolicyError."""
    if found.get("version") != "STSv1":
        raise PolicyError("version is not STSv1")
    age = found.get("max_age", "")
    if not _AGE.match(age) or int(age) > LONGEST_AGE:
        raise PolicyError(f"max_age is not a number up to {LONGEST_AGE}")
    modes: dict[str, Mode] = {"enforce": "enforce", "testing": "testing", "none": "none"}
    mode = modes.get(found.get("mode", ""))
    if mode is None:
        raise PolicyError("mode is not enforce, testing or none")
    if mode != "none" and not hosts:
        raise PolicyError("no mx")
    return Policy(mode, int(age), hosts)
