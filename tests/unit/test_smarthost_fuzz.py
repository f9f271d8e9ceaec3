# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door under random dialogues: no fault of ours, and nothing unsound sent on."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
import uvloop

from gateway.delivery.protocol import is_sound
from gateway.mail.types import Action
from gateway.smarthost.settings import SmarthostSettings
from tests import smarthost_lab
from tests.hop import Hop, running
from tests.smarthost_lab import FAST, Bench, Raw, door

PIECES = [
    b"EHLO c\r\n",
    b"HELO c\r\n",
    b"MAIL FROM:<a@example.net>\r\n",
    b"MAIL FROM:<> SIZE=10 BODY=8BITMIME\r\n",
    b"MAIL FROM:<\xc3\xbc@example.net> SMTPUTF8\r\n",
    b"RCPT TO:<u@example.com>\r\n",
    b"RCPT TO:<v@example.com>\r\n",
    b"RCPT TO:<no@example.com>\r\n",
    b"RCPT TO:<u@foreign.example>\r\n",
    b'RCPT TO:<"u@foreign"@example.com>\r\n',
    b"DATA\r\n",
    b"BDAT 17 LAST\r\nSubject: x\r\n\r\nabc",
    b"BDAT 3\r\na\r\n",
    b"BDAT 1\r\n\n",
    b"BDAT 0 LAST\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"Subject: x\r\n\r\nbody\r\n.\r\n",
    b".\r\n",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r.\r",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
    b"STARTTLS\r\n",
    b"XCLIENT ADDR=192.0.2.1\r\n",
    b"XFORWARD ADDR=192.0.2.1 HELO=h\r\n",
    b"GET / HTTP/1.1\r\n",
    b"\xff\xfe\x00\r\n",
    b"\r\n",
    b"\n",
    b"x" * 3000 + b"\r\n",
    b"x" * 70_000,
]
MESSAGES = [
    b"Subject: x\r\n\r\nbody\r\n.\r\n",
    b".\r\n",
    b"..\r\n.x\r\n\r\n.\r\n",
    b"Subject: \xe9\r\n\r\n" + b"y" * 50_000 + b"\r\n.\r\n",
    b"x" * 61_000 + b"\r\n.\r\n",
    b"Received: x\r\n" * 60 + b"\r\n.\r\n",
    b"Subject: x\r\n\r\nbody\n.\nMAIL FROM:<evil@example.net>\r\n.\r\n",
    b"Subject: x\r\n\r\nbody\r\n.\rx\r\n.\r\n",
    b"\0\r\n.\r\n",
]


class Recorder:
    """Stands for the log; errors are faults of ours."""

    def __init__(self) -> None:
        self.errors: list[Any] = []

    def info(self, *_: object, **__: object) -> None: ...

    def warning(self, *_: object, **__: object) -> None: ...

    def error(self, *words: object, **facts: object) -> None:
        self.errors.append((words, facts))


def moves(chance: random.Random) -> list[bytes]:
    """A session: transactions that could succeed, with something else thrown in here and there."""
    found = [PIECES[0]]
    for _ in range(chance.randint(1, 5)):
        found.append(chance.choice([p for p in PIECES if p.startswith(b"MAIL")]))
        found += chance.choices([p for p in PIECES if p.startswith(b"RCPT")], k=chance.randint(1, 4))
        found.append(b"DATA\r\n")
        found.append(chance.choice(MESSAGES + MESSAGES[:4] * 2))
    for _ in range(chance.choice((0, 0, 1, 2))):
        found.insert(chance.randint(0, len(found)), chance.choice(PIECES))
    return found


async def one_client(port: int, chance: random.Random) -> None:
    # Its own surprises (a closed connection, no reply in time) end the client, not the test.
    with contextlib.suppress(OSError, TimeoutError):
        await talk(port, chance)


async def talk(port: int, chance: random.Random) -> None:
    async with Raw.connected(port) as client:
        pipelines = chance.random() < 0.3
        for piece in moves(chance):
            cut = chance.randint(0, len(piece))
            client.send(piece[:cut])
            if chance.random() < 0.2:
                await asyncio.sleep(0)
            client.send(piece[cut:])
            if piece[:4] in (b"EHLO", b"HELO", b"DATA") or not pipelines:
                await client.reply(0.3)
        if chance.random() < 0.3:
            client.writer.transport.abort()
        elif chance.random() < 0.5 and not client.writer.is_closing():  # the gateway may have hung up
            client.writer.write_eof()
            await client.rest(0.3)


@pytest.mark.parametrize("seed", range(4))
def test_random_dialogues(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    recorder = Recorder()
    monkeypatch.setattr(smarthost_lab, "open_log", lambda _settings: recorder)
    hop = Hop(
        answers={b"RCPT TO:<no@": b"550 5.1.1 no\r\n"}, final=[b"451 4.3.0 no\r\n", None, b"554 no\r\n"]
    )
    bench = Bench(actions={"v@example.com": Action.QUARANTINE})
    settings = SmarthostSettings(
        relay=FAST, xclient_networks=("127.0.0.1/32",), xforward_networks=("127.0.0.1/32",), size_limit=60_000
    )
    faults: list[dict[str, Any]] = []

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
        async with running(hop), door(bench, hop, settings=settings) as port:
            for _ in range(8):
                await asyncio.gather(*(one_client(port, chance) for _ in range(8)))
            async with Raw.connected(port) as client:
                await client.envelope()
                hop.final.clear()
                assert (await client.message(b"Subject: fresh\r\n\r\n.\r\n")).startswith("250")

    uvloop.run(go())
    assert not recorder.errors
    assert not faults
    assert is_sound(bytes(hop.octets))
    assert any(b"Subject: fresh" in taken.message for taken in hop.taken)
    assert all(b"foreign" not in command for command in hop.commands)
    assert 5 < len(hop.taken) <= len(bench.mails)
    assert all(is_sound(mail.raw) for mail in bench.mails)
