# SPDX-License-Identifier: GPL-2.0-or-later
"""Many runs of each parser of sender authentication: `python -m tests.fuzz.mass [RUNS] [PROPERTY ...]`.

hypothesis takes two hours for 200,000 runs of each property in `test_auth_fuzz.py`, and this takes minutes:
the same properties, on sequences of words and on good input that was damaged. The random numbers are
those of `SEED`, so that a failure comes again.
"""

from __future__ import annotations

import base64
import random
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fuzz import test_auth_fuzz as fuzz

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 200_000
SEED = 7208
LIMIT = 0.05  # seconds of processor time for one input
SIGNATURE = (
    b" v=1; a=rsa-sha256; c=relaxed/simple; d=example.com; s=sel; t=1700000000; x=1900000000; l=12;"
    b" q=dns/txt;\r\n\th=From:To:Subject : date; i=@mail.example.com; z=From:a|To:b; bh=AAAA; b=AA\r\n AA"
)
SEEDS = {
    "tags": [SIGNATURE, fuzz.KEY, b"i=1; a=ed25519-sha256; cv=none; d=example.com; s=s; b=AAAA"],
    "policies": [
        b"include:_spf.example.com ip4:192.0.2.0/24 ip6:2001:db8::/32 a:mail.%{d2r}/24//64 mx -all",
        b"exists:%{ir}.%{v}._spf.%{l1r+-}.example.com ptr:example.com exp=why.%{o} m=%{p} redirect=_spf.%{h}",
    ],
    "records": [
        b"p=quarantine; sp=none; np=reject; adkim=s; aspf=r; pct=50; fo=1:d; rua=mailto:a@example.com!9m"
    ],
    "authors": [
        b'"Doe, A" (x) <a@example.com>, friends: b@example.net, <@x,@y:c@example.org>;',
        b"=?utf-8?q?a=40b?= <a@b\xc3\xbccher.example>\r\nFrom: b@[192.0.2.1]",
    ],
    "results": [
        b' mx.example.org 1; spf=pass (x (y) \\) z) smtp.mailfrom=a@b; dkim/1=fail reason="a\\"b" header.d=c',
        b" spf=pass (sender IP) smtp.mailfrom=a; dkim=pass header.d=mx.example.org; compauth=pass reason=100",
        b" =?utf-8?q?mx=2Eexample?= =?us-ascii?b?Lm9yZw==?=; none",
    ],
}
WORDS = {
    "tags": fuzz.TAG_WORDS,
    "policies": fuzz.POLICY_WORDS,
    "records": fuzz.RECORD_WORDS,
    "authors": fuzz.AUTHOR_WORDS,
    "results": fuzz.RESULT_WORDS + " " + fuzz.STATEMENT_WORDS,
}
ODD = [
    b"",
    b" ",
    b"\t",
    b"\r\n ",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xe2\x80\x8b",
    b"\xef\xbc\x8e",
    b"%",
    b"\\",
    b'"',
]


PUBLIC = rsa.RSAPublicNumbers(65_537, (1 << 1_023) | 1).public_key()
KEYS = [
    (b"ed25519", bytes(range(32))),
    (b"rsa", PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    (b"rsa", PUBLIC.public_bytes(Encoding.DER, PublicFormat.PKCS1)),
]


def soup(rng: random.Random, kind: str) -> bytes:
    """Words in a row, or good input that was damaged in some places."""
    words = [word.encode() for word in WORDS[kind].split()] + ODD
    if rng.random() < 0.5:
        return b"".join(rng.choices(words, k=rng.randrange(24)))
    text = bytearray(rng.choice(SEEDS[kind]))
    for _ in range(rng.randrange(6)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 0, 1, 1, 4, 20)))
        text[start:end] = rng.choice(
            (rng.choice(words), rng.randbytes(rng.randrange(3)), bytes(text[start:end]) * 2, b"")
        )
    return bytes(text)


def words(rng: random.Random) -> str:
    """A text of any kind."""
    return soup(rng, rng.choice(list(WORDS))).decode("utf-8", rng.choice(("replace", "surrogateescape")))


def key_record(rng: random.Random) -> bytes:
    """A key record, good but for some octets of the key."""
    kind, data = rng.choice(KEYS)
    octets = bytearray(data)
    for _ in range(rng.randrange(4)):
        octets[rng.randrange(min(40, len(octets)))] = rng.randrange(256)
    cut = bytes(octets[: rng.randrange(len(octets))] if rng.random() < 0.1 else octets)
    return rng.choice((b"v=DKIM1; k=%b; p=%b" % (kind, base64.b64encode(cut)), soup(rng, "tags")))


def answer(rng: random.Random) -> tuple[Any, ...]:
    """What `test_dns_answers` takes."""
    data = b"".join(
        rng.choices([b"@", b"\0", b"\xc0\x0c", b"\7example", b"\0\x10", *ODD], k=rng.randrange(20))
    )
    return data, rng.randrange(6), rng.randrange(4), rng.choice(["A", "TXT", "MX", "TLSA", "PTR"])


TARGETS: dict[str, tuple[Any, Callable[[random.Random], tuple[Any, ...]]]] = {
    "tag lists": (fuzz.test_tag_lists, lambda rng: (soup(rng, "tags"),)),
    "DKIM keys": (fuzz.test_keys, lambda rng: (key_record(rng),)),
    "DKIM signatures": (fuzz.test_dkim, lambda rng: (soup(rng, "tags"), key_record(rng))),
    "ARC sets": (fuzz.test_arc, lambda rng: (soup(rng, "tags"), soup(rng, "tags"), soup(rng, "results"))),
    "SPF": (fuzz.test_spf, lambda rng: (soup(rng, "policies"),)),
    "DMARC records": (fuzz.test_dmarc_records, lambda rng: (soup(rng, "records"),)),
    "From": (fuzz.test_author_domains, lambda rng: (soup(rng, "authors"),)),
    "Authentication-Results": (fuzz.test_authentication_results, lambda rng: (soup(rng, "results"),)),
    "trusted relays": (fuzz.test_what_relays_state, lambda rng: (soup(rng, "results"),)),
    "sealer statements": (
        fuzz.test_what_sealers_state,
        lambda rng: (soup(rng, "results"), soup(rng, "records")),
    ),
    "Received-SPF": (fuzz.test_received_spf, lambda rng: (words(rng), words(rng), words(rng), words(rng))),
    "DNS answers": (fuzz.test_dns_answers, answer),
}


def run(
    check: Callable[..., None],
    make: Callable[[random.Random], tuple[Any, ...]],
    runs: int,
    limit: float = LIMIT,
) -> str:
    """Try one property; the time it took, or the input that broke it."""
    rng = random.Random(SEED)
    slowest, start = 0.0, time.thread_time()
    check(*make(rng))  # loads what is loaded once
    for number in range(runs):
        given = make(rng)
        try:
            took = cost(check, given)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            return f"FAILED in run {number + 1}: {type(error).__name__}: {error}\n  {given!r}"
        if took > slowest:  # by itself, or because this machine did something else
            took = min(took, cost(check, given))
        if took > limit:
            return f"FAILED in run {number + 1}: {took * 1000:.0f} ms\n  {given!r}"
        slowest = max(slowest, took)
    return f"{runs:,} runs, 0 uncaught, {time.thread_time() - start:.0f} s, slowest {slowest * 1000:.1f} ms"


def cost(check: Callable[..., None], given: tuple[Any, ...]) -> float:
    """Seconds of processor time."""
    before = time.thread_time()
    check(*given)
    return time.thread_time() - before


def main(arguments: list[str]) -> int:
    """Run the properties named, or all; 1 if one of them failed."""
    runs = int(arguments[0]) if arguments else RUNS
    failed = False
    for name, (prop, make) in TARGETS.items():
        if len(arguments) > 1 and name not in arguments[1:]:
            continue
        report = run(partial(prop.hypothesis.inner_test), make, runs)
        failed |= report.startswith("FAILED")
        print(f"{name:24} {report}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
