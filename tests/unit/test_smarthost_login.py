# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door: submission, AUTH, and what who has logged in may send."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from gateway.logins.owners import Owners
from gateway.logins.settings import LoginSettings
from gateway.logins.sources import Answer, Credentials, Logins
from gateway.mail.types import Direction
from gateway.smarthost.settings import Listener, SmarthostSettings
from gateway.tls.inbound import server_context
from tests.hop import Hop, running
from tests.smarthost_lab import FAST, Bench, Raw, door, secure

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

SUBMISSION = Listener("submission", submission=True)
MESSAGE = b"From: alice@example.com\r\nSubject: x\r\n\r\nbody\r\n.\r\n"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    pair = Authority(tmp_path_factory.mktemp("tls")).issue("localhost")
    return server_context(str(pair.certificate), str(pair.key))


@dataclass
class Book:
    """Knows alice, whose password is "secret", and cannot tell of bob."""

    def check(self, claim: Credentials) -> Answer:
        if claim.name == "bob":
            raise OSError
        right = (claim.name, claim.password) == ("alice@example.com", "secret")
        return Answer("yes", claim.name, addresses=("sales@example.org",)) if right else Answer("no")


def logins(**settings: Any) -> Logins:
    values = LoginSettings(**{"delay": 0.01, **settings})
    return Logins(values, Book(), Owners(values))


@contextlib.asynccontextmanager
async def client(
    bench: Bench, context: ssl.SSLContext | None, *, clear: bool = False, **settings: Any
) -> AsyncIterator[Raw]:
    listener = settings.pop("listener", SUBMISSION)
    book = settings.pop("logins", None) or logins()
    values = SmarthostSettings(relay=FAST, threads=2, **settings)
    async with running(Hop()) as hop:
        opened = door(bench, hop, settings=values, tls=context, listener=listener, logins=book)
        async with opened as port, Raw.connected(port) as raw:
            if not clear:
                await raw.ask("EHLO c")
                await raw.ask("STARTTLS")
                await secure(raw)
            yield raw


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


ALICE = coded("\0alice@example.com\0secret")


def play(scene: Any, context: ssl.SSLContext | None, bench: Bench | None = None, **settings: Any) -> Bench:
    bench = bench or Bench()

    async def go() -> None:
        async with client(bench, context, **settings) as raw:
            await scene(raw)

    asyncio.run(go())
    return bench


@pytest.mark.parametrize(
    "lines",
    [
        [f"AUTH PLAIN {ALICE}"],
        ["AUTH PLAIN", ALICE],
        [f"auth plain {coded('alice@example.com' + chr(0) + 'alice@example.com' + chr(0) + 'secret')}"],
        ["AUTH LOGIN", coded("alice@example.com"), coded("secret")],
        [f"AUTH LOGIN {coded('alice@example.com')}", coded("secret")],
    ],
)
def test_who_has_logged_in_may_send_anywhere(lines: list[str], context: ssl.SSLContext) -> None:
    async def scene(raw: Raw) -> None:
        assert "250-AUTH PLAIN LOGIN" in await raw.ask("EHLO c")
        replies = await raw.dialogue(*lines)
        assert [one[:4] for one in replies] == ["334 "] * (len(lines) - 1) + ["235 "]
        assert (await raw.ask(f"AUTH PLAIN {ALICE}")).startswith("503 5.5.1")
        assert (await raw.ask("MAIL FROM:<alice@example.com> AUTH=<>")).startswith("250")
        assert (await raw.ask("RCPT TO:<x@foreign.example>")).startswith("250")
        assert (await raw.message(MESSAGE)).startswith("250")

    bench = play(scene, context)
    session = bench.mails[0].session
    assert (session.login, session.direction) == ("alice@example.com", Direction.OUTBOUND)
    assert session.listener == "submission"


def test_nobody_sends_without_a_login(context: ssl.SSLContext) -> None:
    async def in_clear(raw: Raw) -> None:
        assert "AUTH" not in await raw.ask("EHLO c")
        assert (await raw.ask(f"AUTH PLAIN {ALICE}")).startswith("538 5.7.11")
        assert (await raw.ask("MAIL FROM:<alice@example.com>")).startswith("530 5.7.0 Must issue")

    async def over_tls(raw: Raw) -> None:
        assert (await raw.ask(f"AUTH PLAIN {ALICE}")).startswith("503"), "EHLO comes first"
        await raw.ask("EHLO c")
        assert (await raw.ask("MAIL FROM:<alice@example.com> AUTH=<>")).startswith("530 5.7.0 Auth")
        assert (await raw.ask("RCPT TO:<u@example.com>")).startswith("503")

    play(in_clear, context, clear=True)
    play(over_tls, context)


def test_where_mail_comes_in_nobody_logs_in(context: ssl.SSLContext) -> None:
    async def scene(raw: Raw) -> None:
        assert "AUTH" not in await raw.ask("EHLO c")
        assert (await raw.ask(f"AUTH PLAIN {ALICE}")).startswith("502 5.5.1")
        assert (await raw.ask("MAIL FROM:<a@example.net> AUTH=<>")).startswith("555")

    play(scene, context, listener=Listener("smarthost"))


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        ([f"AUTH PLAIN {coded(chr(0) + 'alice@example.com' + chr(0) + 'wrong')}"], "535 5.7.8"),
        ([f"AUTH PLAIN {coded('root' + chr(0) + 'alice@example.com' + chr(0) + 'secret')}"], "535 5.7.8"),
        ([f"AUTH PLAIN {coded(chr(0) + 'bob' + chr(0) + 'secret')}"], "454 4.7.0"),
        ([f"AUTH PLAIN {coded(chr(0) + 'alice@example.com' + chr(0))}"], "501 5.5.2"),
        ([f"AUTH PLAIN {coded('alice@example.com' + chr(0) + 'secret')}"], "501 5.5.2"),
        (["AUTH PLAIN something"], "501 5.5.2"),
        (["AUTH PLAIN ="], "501 5.5.2"),
        (["AUTH PLAIN a b"], "501 5.5.4"),
        (["AUTH"], "501 5.5.4"),
        (["AUTH CRAM-MD5"], "504 5.5.4"),
        (["AUTH PLAIN", "*"], "501 5.7.0"),
        (["AUTH PLAIN", "dXNlcg"], "501 5.5.2"),
        (["AUTH PLAIN", "/////w=="], "501 5.5.2"),
        (["AUTH LOGIN", coded("alice@example.com"), "*"], "501 5.7.0"),
        (["AUTH LOGIN", coded("alice\r\nMAIL FROM:<x>"), coded("secret")], "535 5.7.8"),
        (["AUTH LOGIN", coded("alice@example.com\0"), coded("secret\0")], "535 5.7.8"),
        (["AUTH PLAIN " + "A" * 12_000], "501 5.5.2"),
        (["AUTH PLAIN", "A" * 12_400], "500 5.5.6"),
        (["AUTH PLAIN", "A" * 20_000], "500 5.5.2"),
    ],
)
def test_what_is_no_login(lines: list[str], reply: str, context: ssl.SSLContext) -> None:
    async def scene(raw: Raw) -> None:
        await raw.ask("EHLO c")
        replies = await raw.dialogue(*lines)
        assert replies[-1].startswith(reply), replies
        if len(lines[-1]) < 20_000:
            assert (await raw.ask("MAIL FROM:<alice@example.com>")).startswith("530")

    play(scene, context)


def test_three_wrong_ones_end_the_session(context: ssl.SSLContext) -> None:
    async def scene(raw: Raw) -> None:
        await raw.ask("EHLO c")
        replies = await raw.dialogue("AUTH PLAIN something", "AUTH LOGIN", "*", "AUTH PLAIN eHg=")
        assert [one[:3] for one in replies] == ["501", "334", "501", "421"]
        assert await raw.rest() == ""

    play(scene, context)


def test_no_command_is_taken_for_an_answer(context: ssl.SSLContext) -> None:
    async def scene(raw: Raw) -> None:
        await raw.ask("EHLO c")
        raw.send(f"AUTH PLAIN\r\n{ALICE}\r\nMAIL FROM:<alice@example.com>\r\n".encode())
        assert (await raw.rest()).startswith("554 5.5.0")

    play(scene, context)


def test_a_login_sends_from_its_own_addresses_alone(context: ssl.SSLContext) -> None:
    async def scene(raw: Raw) -> None:
        await raw.ask("EHLO c")
        await raw.ask(f"AUTH PLAIN {ALICE}")
        assert (await raw.ask("MAIL FROM:<bob@example.com>")).startswith("550 5.7.1")
        assert (await raw.ask("MAIL FROM:<>")).startswith("250")
        await raw.ask("RCPT TO:<u@example.com>")
        foreign = MESSAGE.replace(b"alice", b"bob")
        assert (await raw.message(foreign)).startswith("550 5.7.1 From is not")
        assert (await raw.ask("MAIL FROM:<Alice@Example.com>")).startswith("250")
        await raw.ask("RCPT TO:<u@example.com>")
        assert (await raw.message(MESSAGE)).startswith("250")
        assert (await raw.ask("MAIL FROM:<sales@example.org>")).startswith("250"), "whoever checks it says so"
        await raw.ask("RCPT TO:<u@example.com>")
        assert (await raw.message(MESSAGE.replace(b"alice@example.com", b"sales@example.org"))).startswith(
            "250"
        )

    assert len(play(scene, context).mails) == 2

    async def free(raw: Raw) -> None:
        await raw.ask("EHLO c")
        await raw.ask(f"AUTH PLAIN {ALICE}")
        assert (await raw.ask("MAIL FROM:<bob@example.com>")).startswith("250")

    play(free, context, logins=logins(check_senders=False))
