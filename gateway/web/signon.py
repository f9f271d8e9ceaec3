# SPDX-License-Identifier: GPL-2.0-or-later
"""One login at another server, from its beginning in a browser to its answer: all of it is in a cookie.

Reads a cookie that its owner may have changed. State, nonce and verifier are derived from the cookie's
secret, the time and the page to go on with, so that nothing is kept here until somebody is logged in, an
answer fits the browser alone in which the login began, and a changed cookie fits no answer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import Final

WINDOW: Final = 600  # seconds in which a login is finished
LEEWAY: Final = 60  # seconds that clocks may differ


class OidcError(Exception):
    """Nobody was logged in. The text is for the log: it may quote the server."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One login that has begun in one browser; all of it is in the browser's cookie."""

    began: int
    following: str  # the page to go on with
    secret: str = field(repr=False)

    @classmethod
    def begin(cls, following: str) -> Attempt:
        """A new one."""
        return cls(int(time.time()), following, secrets.token_urlsafe(32))

    @classmethod
    def read(cls, cookie: str) -> Attempt | None:
        """That of a cookie, None if it is none or too old."""
        began, _, rest = cookie[:1_000].partition(".")
        secret, _, following = rest.partition(".")
        if not (began.isascii() and began.isdecimal() and len(began) <= 12 and len(secret) >= 40):
            return None
        age = time.time() - int(began)
        return cls(int(began), following, secret) if -LEEWAY <= age <= WINDOW else None

    def __str__(self) -> str:
        """As the cookie has it."""
        return f"{self.began}.{self.secret}.{self.following}"

    @property
    def state(self) -> str:
        """What the server gives back with its answer."""
        return self._derived("state")

    @property
    def nonce(self) -> str:
        """What the ID token must have in it."""
        return self._derived("nonce")

    @property
    def challenge(self) -> str:
        """The verifier's SHA-256, which goes ahead of it."""
        return _base64(hashlib.sha256(self.verifier.encode()).digest())

    @property
    def verifier(self) -> str:
        """What proves that who brings the code is who began (RFC 7636)."""
        return self._derived("verifier")

    def _derived(self, what: str) -> str:
        about = f"mailwarden oidc {what} {self.began} {self.following}".encode("utf-8", "replace")
        return _base64(hmac.digest(self.secret.encode("utf-8", "replace"), about, "sha256"))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
