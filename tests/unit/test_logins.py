# SPDX-License-Identifier: GPL-2.0-or-later
"""Hashes, the file of them, Dovecot's protocol, what slows guessing down, and whose address is whose."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from gateway.ledger import Ledger
from gateway.log import LogSettings, open_log
from gateway.logins.guard import Guard
from gateway.logins.hashes import HashError, is_right, known, new
from gateway.logins.owners import LIMITS, Owners
from gateway.logins.settings import LoginSettings, SenderRow
from gateway.logins.sources import Answer, Credentials, Dovecot, HashFile, Logins, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Of "secret", made by `openssl passwd` and `doveadm pw`.
HASHES = [
    "$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.",
    "$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.",
    (
        "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c54WnfMN6r/3sxsSC2D"
        "D0g$sTwRb/fmGXWk1VIMCBOAbIHOHSVBEKVfPbZhd3FHDEU"
    ),
    "{BLF-CRYPT}$2y$05$sZTRVUsYkVTJozee5g9W3OvvQ4UON6EOt2Faei.EZicbp05jsIEGG",
    (
        "{SHA512-CRYPT}$6$oSzLlSiYp6GYPTea$6C4EtUHVt0I8PpQ8QD4A6V1cCm"
        "PYdTUJ/DzRIOqW7rt4WVZrdK1eLFEhSv/FLMxSr664SI5lZ3V1Uc.MeV8Id."
    ),
    "$y$j9T$abcdefghijklmnopqrstu/$GOBj9MnQX2XXRYb4Fyz9668D5epsKc/lpFQOxVhyXjA",
]

# ---------------------------------------------------------------- hashes


@pytest.mark.parametrize("hashed", HASHES)
def test_hashes_that_others_made(hashed: str) -> None:
    assert is_right(b"secret", known(hashed))
    for wrong in (b"", b"Secret", b"secret\0", b"secret ", b"x" * 10_000):
        assert not is_right(wrong, known(hashed))


def test_our_own_hashes() -> None:
    hashed = new("pässwörd".encode(), b"0123456789abcdef")
    assert known(hashed) == hashed
    assert is_right("pässwörd".encode(), hashed)
    assert not is_right(b"other", hashed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "{PLAIN}secret",
        "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "$1$abcdefgh$6AxfTPPA3cnBIE1ab0rYN.",
        "x1yz2zabcdefg",
        "*",
        "$6$",
        "$argon2i$v=19$m=65536,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
        "$argon2id$v=16$m=65536,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2g",
    ],
)
def test_what_is_no_hash(text: str) -> None:
    with pytest.raises(HashError):
        known(text)


# ---------------------------------------------------------------- the file


def source(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "users"
    path.write_text(text)
    logins = load(LoginSettings(users=f"file:{path}"), LIMITS)
    assert logins is not None
    return logins.source


def test_a_file_of_hashes(tmp_path: Path) -> None:
    checks = source(
        tmp_path,
        f"# ours\n\nAlice@example.com:{HASHES[0]}\nbob:{{SHA512-CRYPT}}{HASHES[0]}:1000:1000::/home\n",
    )
    assert checks.check(Credentials("alice@EXAMPLE.com", "secret")) == Answer("yes", "alice@example.com")
    assert checks.check(Credentials("bob", "secret")) == Answer("yes", "bob")
    assert checks.check(Credentials("bob", "wrong")).status == "no"
    assert checks.check(Credentials("carol", "secret")).status == "no"
    assert "secret" not in repr(Credentials("bob", "secret"))
    assert "$6$" not in repr(checks)
    assert HashFile({}).check(Credentials("x", "y")).status == "no"


@pytest.mark.parametrize(
    ("text", "line"),
    [("alice\n", 1), (f"a:{HASHES[0]}\n\nA:{HASHES[0]}\n", 3), ("#\nbob:{PLAIN}x\n", 2), (":x\n", 1)],
)
def test_a_file_with_a_fault_names_its_line(text: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"users:{line}: "):
        source(tmp_path, text)


def test_an_unknown_name_costs_what_a_known_one_costs(tmp_path: Path) -> None:
    checks = source(tmp_path, f"alice:{new(b'secret', bytes(16))}\n")

    def seconds(name: str) -> float:
        begin = time.thread_time()
        checks.check(Credentials(name, "wrong"))
        return time.thread_time() - begin

    # In turns, so that what else the machine does slows both down, and the least of each is what it costs.
    turns = [(seconds("nobody"), seconds("alice")) for _ in range(4)]
    unknown, known_one = (min(took) for took in zip(*turns, strict=True))
    assert 0.5 < unknown / known_one < 2


# ---------------------------------------------------------------- Dovecot's protocol


@contextlib.contextmanager
def dovecot(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says `answers`, the first at once and each further one after a line with AUTH."""
    listening = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(answers[0])
            for answer in answers[1:]:
                for line in lines:
                    heard.append(line)
                    if line.startswith(b"AUTH"):
                        break
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}", heard
    finally:
        thread.join(10)
        listening.close()


HELLO = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t00\nDONE\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"OK\t1\tuser=Alice@example.com\tx\n", Answer("yes", "alice@example.com")),
        (b"OK\t2\tuser=eve\nFAIL\t1\tuser=alice\n", Answer("no")),
        (b"FAIL\t1\tuser=alice\ttemp\n", Answer("later", why="Dovecot cannot tell now")),
        (b"FAIL\t1\tcode=temp_fail\n", Answer("later", why="Dovecot cannot tell now")),
        (b"CONT\t1\tx\n", Answer("no")),
    ],
)
def test_what_dovecot_says(answer: bytes, expected: Answer) -> None:
    with dovecot(HELLO, answer) as (place, heard):
        assert Dovecot(place, 5).check(Credentials("alice", "pass\tword", "192.0.2.1")) == expected
    (asked,) = [line for line in heard if line.startswith(b"AUTH")]
    words = asked.decode().rstrip("\n").split("\t")
    assert words[:4] == ["AUTH", "1", "PLAIN", "service=smtp"]
    assert "rip=192.0.2.1" in words
    assert base64.b64decode(words[-1].removeprefix("resp=")) == b"\0alice\0pass\tword"


@pytest.mark.parametrize(
    "answers", [(b"",), (b"VERSION\t2\t0\nDONE\n",), (b"x" * 20_000,), (b"X\n" * 500,), (HELLO, b"")]
)
def test_a_dovecot_that_lies_lets_nobody_in(answers: tuple[bytes, ...]) -> None:
    with dovecot(*answers) as (place, _), pytest.raises((OSError, ValueError)):
        Dovecot(place, 1).check(Credentials("alice", "secret"))


# ---------------------------------------------------------------- the guard


@dataclass
class Scripted:
    """Says "yes" to the password "right", waits or fails for others as they say."""

    asked: list[str] = field(default_factory=list)

    def check(self, claim: Credentials) -> Answer:
        self.asked.append(claim.name)
        if claim.password == "wait":
            time.sleep(0.5)
        if claim.password.startswith("slow"):
            time.sleep(0.2)
        if claim.password == "fail":
            raise OSError("the password was fail")
        return Answer("yes", claim.name) if claim.password == "right" else Answer("no")


@dataclass
class Lines:
    """Stands for the log."""

    said: list[str] = field(default_factory=list)

    def info(self, *words: object, **facts: object) -> None:
        self.said.append(f"{words} {facts}")

    warning = error = info


def guarded(scene: Any, **settings: Any) -> tuple[Scripted, str]:
    scripted, lines = Scripted(), Lines()
    values = LoginSettings(**{"delay": 0.05, **settings})

    async def go() -> None:
        guard = Guard(Logins(values, scripted, Owners(values)), lines, Ledger())  # type: ignore[arg-type]  # a log of sorts
        try:
            await scene(guard)
        finally:
            guard.close()

    asyncio.run(go())
    return scripted, "\n".join(lines.said)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long answers were kept back."""
    noted: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        noted.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", slept)
    return noted


def test_a_wrong_password_is_answered_late_and_later(waits: list[float]) -> None:
    async def scene(guard: Guard) -> None:
        took = []
        for _ in range(3):
            begin = time.monotonic()
            assert (await guard.check(Credentials("alice", "Wr0ng"), "192.0.2.1")).status == "no"
            took.append(time.monotonic() - begin)
        assert took[0] >= 0.05
        assert took[1] >= 0.1
        assert took[2] >= 0.2
        assert (await guard.check(Credentials("alice", "right"), "192.0.2.1")).status == "yes"
        assert len(waits) == 3, "who is right does not wait"
        # All of it but what the check took.
        assert all(0.0 <= one <= whole for one, whole in zip(waits, (0.05, 0.1, 0.2), strict=True))

    _, log = guarded(scene)
    assert "Wr0ng" not in log
    assert "right" not in log.replace("wrong name", "")
    assert log.count("alice") == 4


def test_the_time_of_a_wrong_answer_tells_nothing_of_the_check(waits: list[float]) -> None:
    """Whether a name is known may show in how long it takes to find that out: so much less is waited."""

    async def scene(guard: Guard) -> None:
        took: list[float] = []
        for name in ("quick", "slow"):
            begin = time.monotonic()
            claim = Credentials(name, f"{name} and wrong")
            assert (await guard.check(claim, f"192.0.2.{len(took)}")).status == "no"
            took.append(time.monotonic() - begin)
        assert all(one >= 0.5 for one in took), took
        quick, slow = waits
        assert 0.0 <= slow <= 0.3, "the check took 0.2 of the 0.5 seconds"
        assert quick <= 0.5

    guarded(scene, delay=0.5, timeout=2.0)


@pytest.mark.parametrize(
    "name", ["a\x1b[31mb", "a\u2028b", "a\u202eb", "a\r\nb", "a\0b", "b" * 300, 'a" status="yes']
)
def test_a_name_is_one_word_of_a_log_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log(LogSettings(format="text"))
    values = LoginSettings(delay=0.01)

    async def go() -> None:
        guard = Guard(Logins(values, Scripted(), Owners(values)), log, Ledger())
        try:
            await guard.check(Credentials(name, "wrong"), "192.0.2.1")
        finally:
            guard.close()

    asyncio.run(go())
    (line,) = capfd.readouterr().err.splitlines()
    assert line.isprintable()
    assert "login failed" in line
    assert ' status="yes' not in line.replace('\\"', "")
    assert len(line) < 400


def test_a_client_that_guesses_is_not_tried_for_a_while_and_others_are() -> None:
    async def scene(guard: Guard) -> None:
        for n in range(4):
            await guard.check(Credentials(f"user{n}", "wrong"), "192.0.2.1")
        assert (await guard.check(Credentials("alice", "right"), "192.0.2.1")).status == "later"
        assert (await guard.check(Credentials("alice", "right"), "192.0.2.2")).status == "yes"
        await asyncio.sleep(2.1)
        assert (await guard.check(Credentials("alice", "right"), "192.0.2.1")).status == "yes"

    scripted, _ = guarded(scene, client_failures=4, forget_seconds=2, delay=0.01)
    assert scripted.asked.count("alice") == 2


def test_what_cannot_be_checked_is_neither_right_nor_wrong() -> None:
    async def scene(guard: Guard) -> None:
        for password in ("wait", "fail"):
            assert (await guard.check(Credentials("alice", password), "192.0.2.1")).status == "later"

    _, log = guarded(scene, timeout=0.2)
    assert "the password was" not in log


def test_checks_at_a_time_are_bounded() -> None:
    async def scene(guard: Guard) -> None:
        claims = [guard.check(Credentials(f"u{n}", "wait"), f"192.0.2.{n}") for n in range(30)]
        answers = await asyncio.gather(*claims)
        assert {answer.status for answer in answers} == {"later"}
        assert sum(answer.why == "too many checks at a time" for answer in answers) == 14

    scripted, _ = guarded(scene, threads=1, timeout=0.2)
    assert len(scripted.asked) <= 2


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("", "x"),
        ("x", ""),
        ("a\tb", "x"),
        ("a\nb", "x"),
        ("a\0b", "x"),
        ("x", "a\0b"),
        ("x" * 256, "x"),
        ("x", "ü" * 257),
    ],
)
def test_what_is_not_fit_is_not_asked_for(name: str, password: str) -> None:
    async def scene(guard: Guard) -> None:
        assert (await guard.check(Credentials(name, password), "192.0.2.1")).status == "no"

    scripted, log = guarded(scene)
    assert not scripted.asked
    assert "\n" not in log
    assert "\t" not in log


# ---------------------------------------------------------------- whose address is whose

ROWS = (
    SenderRow(logins=("Alice@example.com", "bob"), addresses=("sales@example.com", "@lists.example.com")),
    SenderRow(logins=("carol",), addresses=("@.example.net",)),
)
OWNERS = Owners(LoginSettings(domain="example.com", senders=ROWS))


@pytest.mark.parametrize(
    ("login", "address", "owned"),
    [
        ("alice@example.com", "", True),
        ("alice@example.com", "alice@example.com", True),
        ("alice@example.com", "ALICE@Example.COM", True),
        ("alice@example.com", "sales@example.com", True),
        ("alice@example.com", "x@lists.example.com", True),
        ("alice@example.com", "x@a.lists.example.com", False),
        ("alice@example.com", "bob@example.com", False),
        ("alice@example.com", "alice@example.org", False),
        ("alice@example.com", "alice@example.com@example.org", False),
        ("alice@example.com", "alice", False),
        ("bob", "bob@example.com", True),
        ("bob", "bob@example.org", False),
        ("carol", "x@a.example.net", True),
        ("carol", "x@example.net", False),
    ],
)
def test_who_may_send_from_an_address(login: str, address: str, owned: bool) -> None:
    assert OWNERS.owns(login, address) is owned
    assert Owners(LoginSettings(check_senders=False)).owns(login, address)


@pytest.mark.parametrize(
    ("head", "fine"),
    [
        (b"From: alice@example.com", True),
        (b"From: Alice <alice@example.com>", True),
        (b"From: alice@example.com, Sales <sales@example.com>", True),
        (b"Subject: x", True),
        (b"From: alice@example.com, bob@example.com", False),
        (b"From: bob@example.com", False),
        (b"From: alice@example.com\r\nFrom: bob@example.com", False),
        (b"From: <alice@example.com> <bob@example.com>", False),
        (b"From: bob@example.com (<alice@example.com>)", False),
        (b"From: friends: alice@example.com;", False),
        (b"From: =?utf-8?q?bob=40example.com?= <bob@example.com>", False),
        (b"From: nobody", False),
    ],
)
def test_whom_a_message_may_be_from(head: bytes, fine: bool) -> None:
    raw = head + b"\r\nTo: x@example.org\r\n\r\nFrom: bob@example.com\r\n"
    assert (OWNERS.foreign_author("alice@example.com", raw) == "") is fine
    assert Owners(LoginSettings(check_senders=False)).foreign_author("alice@example.com", raw) == ""


@pytest.mark.parametrize("text", ["alice", "a@b@c", ""])
def test_a_row_wants_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        SenderRow(logins=("alice",), addresses=(text,))


@pytest.mark.parametrize("text", ["file", "file:", "nis:x", "/etc/users"])
def test_users_wants_a_place(text: str) -> None:
    with pytest.raises(ValueError, match="is not file:/path"):
        LoginSettings(users=text)
