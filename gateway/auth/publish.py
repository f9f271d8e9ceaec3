# SPDX-License-Identifier: GPL-2.0-or-later
"""The public halves of our signing keys in the DNS: what to publish, and whether that is published.

Reads key records, as they come from the DNS. Asks through a `Lookup`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from gateway.auth.sign import key_record
from gateway.auth.signature import BadSignatureError, key_name, read_key
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from gateway.auth.sign import SigningKey
    from gateway.dns import Lookup

TTL: Final = 3_600  # seconds; a key that must go in a hurry is then gone within the hour
_STRING: Final = 250  # octets of one string of a TXT record, which holds 255
State = Literal["good", "missing", "different", "broken", "unknown"]


@dataclass(frozen=True, slots=True)
class Published:
    """What the DNS has of a key. "unknown" is a DNS that did not answer."""

    state: State
    why: str = ""
    testing: bool = False  # t=y: receivers may take the signatures for none


def zone_record(key: SigningKey) -> str:
    """The record of a key in the form of a zone file (RFC 1035 §5.1), its text split into strings."""
    text = key_record(key.private)
    strings = [f'"{text[start : start + _STRING]}"' for start in range(0, len(text), _STRING)]
    data = strings[0] if len(strings) == 1 else "(\n    " + "\n    ".join(strings) + " )"
    return f"{key_name(key.selector, key.domain)}. {TTL} IN TXT {data}"


def check_published(key: SigningKey, lookup: Lookup) -> Published:
    """Compare what is published with a key, as a receiver of its signatures would read it."""
    answer = lookup.txt(key_name(key.selector, key.domain))
    if answer.status == "temperror":
        return Published("unknown", printable(answer.reason))
    if not answer:
        return Published("missing", "there is no TXT record")
    if len(answer.values) > 1:  # RFC 6376 §3.6.2.2: what a receiver does then is undefined
        return Published("broken", f"there are {len(answer.values)} TXT records, and one is allowed")
    try:
        found, own = read_key(answer.values[0]), read_key(key_record(key.private).encode())
    except BadSignatureError as error:
        return Published("broken", str(error))
    if found.public != own.public:
        return Published("different", "the record is that of another key")
    if found.hashes and b"sha256" not in found.hashes:
        return Published("broken", "h= leaves out sha256")
    if not found.services & {b"*", b"email"}:
        return Published("broken", "s= leaves out email")
    return Published("good", "testing (t=y)" if found.testing else "", found.testing)
