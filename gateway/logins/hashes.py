# SPDX-License-Identifier: GPL-2.0-or-later
"""Hashes of passwords: Argon2id, and what the system's crypt(3) knows of SHA-2, bcrypt, yescrypt and scrypt.

Reads hashes that the administrator wrote, and passwords of strangers, bounded in length. Python has no
crypt(3) any more, so libcrypt is called itself; its cost is that which the hash asks for. Plain and
quickly guessed forms (plain text, DES, MD5, unsalted digests) are no hashes here.
"""

from __future__ import annotations

import ctypes
import hmac
import re
from functools import cache

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

LONGEST = 512  # octets of a password: crypt(3) takes no more
_CRYPT = re.compile(r"\$(?:5|6|7|2[aby]|y|gy)\$[!-9;-~]{8,500}")
_ARGON2 = re.compile(r"\$argon2id\$v=19\$m=(\d{1,8}),t=(\d{1,5}),p=(\d{1,3})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_SCHEME = re.compile(r"\{[A-Za-z0-9.-]+\}")
_ROOM = 262_144  # octets for libcrypt's work: glibc's own takes 131,232
_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2", "libc.musl-x86_64.so.1")


class HashError(ValueError):
    """A hash that cannot be used; the text says why."""


def known(text: str) -> str:
    """The hash in `text`, without Dovecot's "{SCHEME}" in front of it. Raises HashError."""
    hashed = _SCHEME.sub("", text, count=1) if text.startswith("{") else text
    if _ARGON2.fullmatch(hashed):
        return hashed
    if not _CRYPT.fullmatch(hashed):
        raise HashError("no hash that is known here: Argon2id, SHA-512, SHA-256, bcrypt, yescrypt, scrypt")
    if _crypt() is None:
        raise HashError("this system has no libcrypt; use Argon2id")
    return hashed


def is_right(password: bytes, hashed: str) -> bool:
    """Whether `hashed` is the hash of `password`. Takes as long for a wrong one."""
    if not password or len(password) > LONGEST or b"\0" in password:
        return False
    if hashed.startswith("$argon2id$"):
        try:
            Argon2id.verify_phc_encoded(password, hashed)
        except (InvalidKey, ValueError):
            return False
        return True
    crypt = _crypt()
    if crypt is None:
        return False
    found: bytes | None = crypt(password, hashed.encode(), ctypes.create_string_buffer(_ROOM))
    return found is not None and hmac.compare_digest(found, hashed.encode())


@cache
def _crypt() -> ctypes._NamedFuncPointer | None:
    """crypt_r(3), None where there is none. ctypes lets other threads run while it works."""
    for name in _LIBRARIES:
        try:
            function = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_char_p
        function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
        return function
    return None


def new(password: bytes, salt: bytes) -> str:
    """A new Argon2id hash, as RFC 9106 §4 recommends it where memory is short. `salt` has 16 octets."""
    made = Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=65_536)
    return made.derive_phc_encoded(password)
