# SPDX-License-Identifier: GPL-2.0-or-later
"""Which addresses a login may send from. No I/O.

Reads hostile addresses and From fields. A From that programs may read differently belongs to nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.auth.author import author_domain
from gateway.mail.domains import domain_of, matches, normal
from gateway.mail.mime import MimeLimits, parse

if TYPE_CHECKING:
    from gateway.logins.settings import LoginSettings

LIMITS = MimeLimits()
_SEVERAL = "From has several addresses"  # which is allowed, if all of them are the sender's


class Owners:
    """Whose address is whose."""

    def __init__(self, settings: LoginSettings, limits: MimeLimits = LIMITS) -> None:
        self._limits = limits
        self._checked = settings.check_senders
        self._domain = settings.domain
        self._addresses: dict[str, set[str]] = {}
        self._domains: dict[str, list[str]] = {}
        for row in settings.senders:
            for login in row.logins:
                for text in row.addresses:
                    local, _, domain = text.rpartition("@")
                    if local:
                        self._addresses.setdefault(login.lower(), set()).add(_key(text))
                    else:
                        self._domains.setdefault(login.lower(), []).append(domain)

    def owns(self, login: str, address: str, granted: tuple[str, ...] = ()) -> bool:
        """Whether `login` may send from `address`; the null sender is everybody's, `granted` are its own."""
        if not self._checked or not address:
            return True
        login, key = login.lower(), _key(address)
        own = login if "@" in login else f"{login}@{self._domain}" if self._domain else ""
        if own and _key(own) == key:
            return True
        if key in self._addresses.get(login, ()) or any(key == _key(one) for one in granted):
            return True
        return matches(domain_of(address), tuple(self._domains.get(login, ())))

    def foreign_author(self, login: str, raw: bytes, granted: tuple[str, ...] = ()) -> str:
        """Whom of the authors of `raw` the login may not send as, or why there is none; "" if all is well."""
        if not self._checked:
            return ""
        end = raw.find(b"\r\n\r\n")
        content = parse(raw if end < 0 else raw[: end + 4], self._limits)
        if not content.from_fields:
            return ""
        _, why = author_domain(content)
        if why and why != _SEVERAL:
            return why
        authors = (one for _, one in content.from_addresses)
        return next((one for one in authors if not one or not self.owns(login, one, granted)), "")


def _key(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return f"{local.lower()}@{normal(domain)}"
