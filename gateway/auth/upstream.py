# SPDX-License-Identifier: GPL-2.0-or-later
"""What a relay of ours in front says about the client that it took the message from.

Reads hostile bytes: Authentication-Results fields, of which only the topmost one by a named relay
counts. No I/O.

Behind such a relay the client's address is the relay's own, and SPF and reverse DNS of it
would tell nothing. DKIM is checked here all the same, unless the relay is said to change messages,
and so are ARC and DMARC, by what is known of SPF and DKIM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from gateway.auth.results import NAME, Result, read_results
from gateway.mail.domains import domain_of, normal
from gateway.mail.headers import printable
from gateway.mail.types import AuthWord, Dkim, Iprev, Spf

if TYPE_CHECKING:
    from gateway.mail.types import Content, Envelope

_WORDS: Final = frozenset({"pass", "fail", "softfail", "neutral", "none", "policy", "temperror", "permerror"})
RELAYED: Final = "as a trusted relay says"  # the reason of a result that is not our own
_MAX_OCTETS: Final = 16_384  # of fields looked at, from the top; the relay's own is the first or nearly so


def relayed_results(content: Content, authserv_ids: tuple[str, ...]) -> tuple[Result, ...]:
    """The results of the topmost field that one of these services wrote; () if there is none.

    Nothing is believed below a field that cannot be read and names one of them: it may be its own.
    """
    wanted = {normal(name).rstrip(".") for name in authserv_ids}
    left = _MAX_OCTETS
    for field in content.all(NAME):
        left -= len(field.raw)
        if left < 0:
            break
        try:
            name, results = read_results(field.value, tolerant=True)
        except ValueError:
            if any(name.encode() in field.value.lower() for name in wanted):
                break
            continue
        if name in wanted:
            return results
    return ()


def relayed_spf(results: tuple[Result, ...], envelope: Envelope) -> tuple[Spf, ...]:
    """SPF as the relay found it, MAIL FROM first, if it speaks of this envelope's sender."""
    found: list[Spf] = []
    sender = domain_of(envelope.mail_from)
    for result in results:
        if result.method != "spf" or result.result not in _WORDS:
            continue
        word = cast("AuthWord", result.result)
        stated, helo = result.get("smtp.mailfrom"), printable(normal(result.get("smtp.helo")), 253)
        if sender and normal(stated.rpartition("@")[2]) == sender:
            found.insert(0, Spf("mailfrom", sender, word, RELAYED))
        elif helo and not stated:
            found.append(Spf("helo", helo, word, RELAYED))
            if not envelope.mail_from:
                found.insert(0, Spf("mailfrom", helo, word, RELAYED))
    return tuple(found[:2])


def relayed_dkim(results: tuple[Result, ...], limit: int) -> tuple[Dkim, ...]:
    """DKIM as the relay found it, at most `limit` signatures; of what each covers it says nothing."""
    found: list[Dkim] = []
    for result in results:
        identity = printable(result.get("header.i"), 253)
        domain = normal(result.get("header.d")) or domain_of(f"x{identity}")
        if result.method == "dkim" and result.result in _WORDS and result.result != "none" and domain:
            found.append(
                Dkim(
                    result=cast("AuthWord", result.result),
                    domain=printable(domain, 253),
                    selector=printable(result.get("header.s"), 253),
                    identity=identity,
                    algorithm=printable(result.get("header.a"), 30),
                    signature=printable(result.get("header.b"), 8),
                    reason=RELAYED,
                )
            )
    return tuple(found[:limit])


def relayed_iprev(results: tuple[Result, ...]) -> Iprev | None:
    """Reverse DNS as the relay found it; the name is not told."""
    for result in results:
        if result.method == "iprev" and result.result in ("pass", "fail", "temperror", "permerror"):
            return Iprev(result.result)  # type: ignore[arg-type]  # checked in the line above
    return None
