# SPDX-License-Identifier: GPL-2.0-or-later
"""An IMAP server that misbehaves: it may not take our time, our memory or our patience."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import Config, ConfigError, load
from gateway.feedback import folders
from gateway.feedback.folders import FolderError, mailbox, poll, read_password
from gateway.feedback.settings import ImapSettings
from tests.teaching import message

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.learning import Learner, Outcome


RAW = message(1, spam=True)
IMAP = '[[learning.imap]]\nhost = "h"\nuser = "u"\npassword_file = "/p"\n'
# What a sound server answers, by the command; %s is the command's tag.
SOUND: dict[str, bytes] = {
    "CAPABILITY": b"* CAPABILITY IMAP4REV1\r\n%s OK x\r\n",
    "LOGIN": b"%s OK x\r\n",
    "SELECT": b"* 1 EXISTS\r\n* OK [UIDVALIDITY 5] x\r\n* OK [UIDNEXT 8] x\r\n%s OK x\r\n",
    "EXAMINE": b"* 1 EXISTS\r\n* OK [UIDVALIDITY 5] x\r\n* OK [UIDNEXT 8] x\r\n%s OK x\r\n",
    "UID SEARCH": b"* SEARCH 7\r\n%s OK x\r\n",
    "UID FETCH": b"* 1 FETCH (UID 7 BODY[]<0> {%d}\r\n%s)\r\n" % (len(RAW), RAW) + b"%s OK x\r\n",
    "LOGOUT": b"* BYE x\r\n%s OK x\r\n",
}


class FakeImap:
    """Answers each command as it is told; remembers what it was asked."""

    def __init__(self, **answers: bytes | Callable[[socket.socket], None]) -> None:
        self.answers: dict[str, Any] = {**SOUND, **{k.replace("_", " "): v for k, v in answers.items()}}
        self.asked: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                peer, _ = self.listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), peer:
                self.talk(peer)

    def talk(self, peer: socket.socket) -> None:
        greeting = self.answers.get("greeting", b"* OK hello\r\n")
        greeting(peer) if callable(greeting) else peer.sendall(greeting)
        with peer.makefile("rb") as lines:
            for line in lines:
                self.asked.append(line)
                tag, _, rest = line.decode().partition(" ")
                found = re.match(r"(UID )?[A-Z]+", rest)
                answer = self.answers.get(found[0] if found else "", b"%s BAD x\r\n")
                if callable(answer):
                    answer(peer)
                else:
                    peer.sendall(answer.replace(b"%s", tag.encode()))


@pytest.fixture
def look(learner: Learner, tmp_path: Path) -> Callable[..., Outcome | None]:
    secret = tmp_path / "password"
    secret.write_text("secret\n")
    secret.chmod(0o600)

    def looked(server: FakeImap, **changes: Any) -> Outcome | None:
        port = server.listening.getsockname()[1]
        facts = {"host": "127.0.0.1", "port": port, "tls": "none", "timeout": 5.0, "deadline": 15.0}
        named = {"user": 'b"bob', "password_file": str(secret), "spam_folders": ("Junk",)}
        return poll(ImapSettings(**facts | named | changes), learner)

    return looked


def trickle(peer: socket.socket) -> None:
    while True:
        peer.sendall(b"x")
        time.sleep(0.05)


def flood(peer: socket.socket) -> None:
    while True:
        peer.sendall(b"* OK nothing to say, at length: " + b"x" * 60_000 + b"\r\n")


def test_a_server_without_extensions_serves(look: Callable[..., Outcome | None]) -> None:
    server = FakeImap()
    outcome = look(server)
    assert outcome is not None
    assert outcome.waiting == 1
    assert any(b'LOGIN "b\\"bob" "secret"' in line for line in server.asked)
    assert any(b"BODY.PEEK[]<0.262144>" in line for line in server.asked)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"UID_FETCH": b"* 1 FETCH (UID 7 BODY[] {999999999}\r\n"}, "too much"),
        ({"UID_SEARCH": b"* SEARCH " + b"1 " * 600_000 + b"\r\n%s OK x\r\n"}, "more than"),
        ({"UID_SEARCH": flood}, "too much"),
        ({"greeting": trickle}, "bob@"),
        ({"UID_SEARCH": trickle}, "bob@"),
        ({"LOGIN": b"%s NO \x1b[31mwrong\r\n"}, r"wrong"),
        ({"EXAMINE": b"%s OK x\r\n"}, "no UIDVALIDITY"),
        ({"EXAMINE": b"%s NO not there\r\n"}, "SELECT Junk: not there"),
        ({"UID_SEARCH": b"* SEARCH -1 x 99999999999999999999\r\n%s NO x\r\n"}, "SEARCH"),
        ({"greeting": b"220 smtp.example.com ESMTP\r\n"}, "unexpected"),
        ({"greeting": b"\xff\xfe\r\n"}, "unexpected"),
    ],
)
def test_a_server_that_misbehaves_is_left_in_time(
    look: Callable[..., Outcome | None], answers: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_ALL", 4 << 20)
    trickles = trickle in answers.values()
    started = time.monotonic()
    with pytest.raises(FolderError, match=words) as error:
        look(FakeImap(**answers), **({"deadline": 1.0} if trickles else {}))
    assert time.monotonic() - started < 10
    assert str(error.value).isprintable()


def test_an_answer_about_another_message_is_not_taken_for_this_one(
    look: Callable[..., Outcome | None],
) -> None:
    other = SOUND["UID FETCH"].replace(b"UID 7", b"UID 8")
    outcome = look(FakeImap(UID_FETCH=other))
    assert outcome is not None
    assert (outcome.waiting, outcome.unfit) == (0, 1)


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("INBOX", '"INBOX"'),
        ("Entwürfe", '"Entw&APw-rfe"'),
        ("A & B", '"A &- B"'),
        ("迷惑メール", '"&j,dg0TDhMPww6w-"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("📁x", '"&2D3cwQ-x"'),
    ],
)
def test_names_of_folders_are_sent_in_modified_utf_7(name: str, sent: str) -> None:
    assert mailbox(name) == sent


def test_a_password_file_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("one\r\ntwo\n")
    path.chmod(0o640)
    assert read_password(path) == b"one"
    path.chmod(0o604)
    with pytest.raises(FolderError, match="chmod"):
        read_password(path)
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(FolderError, match="empty"):
        read_password(path)
    with pytest.raises(FolderError, match="No such file"):
        read_password(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (IMAP + "spam_folders = []\n", "name folders"),
        (IMAP.replace('"u"', '"u\\r\\nA DELETE INBOX"') + 'spam_folders = ["J"]\n', "user"),
        (IMAP + 'spam_folders = ["J"]\nmove_to = "J"\n', "one use"),
        ('[learning]\nspam_addresses = ["spam"]\n', "no address"),
        (
            '[learning]\nspam_addresses = ["a@example.com"]\nham_addresses = ["A@example.com"]\n',
            "for spam and",
        ),
        ('[learning]\nspam_addresses = ["a@example.com"]\n[classifier]\nsite = "off"\n', "site's model"),
    ],
)
def test_settings_that_could_not_work_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mailwarden.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(path)
    assert Config().learning.imap == ()
