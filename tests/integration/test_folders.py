# SPDX-License-Identifier: GPL-2.0-or-later
"""IMAP folders of a real Dovecot: what is learned of them, once, and what becomes of the messages."""

from __future__ import annotations

import imaplib
import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from contrib.lab.dovecot import PASSWORD, Dovecot
from contrib.lab.gateway import Gateway, to_toml
from contrib.lab.process import free_port, wait_for
from gateway.classifier.settings import ClassifierSettings
from gateway.cli.main import cli
from gateway.feedback import folders
from gateway.feedback.folders import FolderError, mailbox, poll
from gateway.feedback.settings import ImapSettings
from gateway.learning import Learner, Outcome
from gateway.store.database import StoreSettings, open_database
from gateway.store.samples import Samples, SampleState
from tests.teaching import crash, message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.lab.certificates import Authority

pytestmark = pytest.mark.server("dovecot")

JUNK, WANTED, DONE = "Junk", 'Kein Spam für & "uns"', "Gelernt"


@pytest.fixture(scope="module")
def dovecot(lab: Path, authority: Authority) -> Iterator[Dovecot]:
    pair = authority.issue("localhost", names=("127.0.0.1",))
    users = [f"user{n}" for n in range(12)]
    with Dovecot(lab / "dovecot", pair, *users) as server:
        yield server


class Account:
    """One account of the server, and a learner of its own."""

    def __init__(self, server: Dovecot, user: str, authority: Authority, directory: Path) -> None:
        self.server, self.user = server, user
        self.password = directory / "password"
        self.password.write_text(PASSWORD + "\n")
        self.password.chmod(0o600)
        self.ca = str(authority.certificate)
        self.store = StoreSettings(database=f"sqlite:///{directory}/store/store.db")
        self.database = open_database(self.store)
        self.learner = Learner(
            Samples(self.database), ClassifierSettings(), None, directory / "store" / "site-model.npy"
        )
        self.client = imaplib.IMAP4("127.0.0.1", server.clear)
        self.client.authenticate("PLAIN", lambda _: f"\0{user}\0{PASSWORD}".encode())
        for folder in (JUNK, WANTED, DONE):
            self.client.create(mailbox(folder))

    def settings(self, **changes: Any) -> ImapSettings:
        facts: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.server.port,
            "ca_file": self.ca,
            "user": self.user,
            "password_file": str(self.password),
            "spam_folders": (JUNK,),
            "ham_folders": (WANTED,),
        }
        return ImapSettings(**facts | changes)

    def put(self, folder: str, *messages: bytes) -> None:
        for one in messages:
            assert self.client.append(mailbox(folder), "", "", one)[0] == "OK"

    def inside(self, folder: str) -> int:
        """How many messages a folder has, unread ones all."""
        status, [count] = self.client.select(mailbox(folder), readonly=True)
        assert status == "OK"
        total = int(count or 0)
        assert len((self.client.search(None, "UNSEEN")[1][0] or b"").split()) == total
        self.client.unselect()
        return total

    def poll(self, **changes: Any) -> Outcome:
        outcome = poll(self.settings(**changes), self.learner)
        assert outcome is not None
        return outcome

    def learned(self) -> tuple[int, int]:
        """Take in what was read; ham and spam in the model."""
        self.learner.take_in()
        live = self.learner.live()
        return live.ham, live.spam


@pytest.fixture
def account(
    dovecot: Dovecot, authority: Authority, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Account]:
    number = getattr(request.module, "_used", 0)
    request.module._used = number + 1  # each test has an account of its own
    made = Account(dovecot, f"user{number}", authority, tmp_path)
    yield made
    made.client.logout()
    made.database.close()


def spam(*numbers: int) -> list[bytes]:
    return [message(n, spam=True) for n in numbers]


def test_new_messages_are_learned_once_and_stay_unread(account: Account) -> None:
    account.put(JUNK, *spam(1, 2, 3))
    account.put(WANTED, message(1, spam=False))
    assert account.poll().waiting == 4
    assert account.learned() == (1, 3)
    assert account.poll() == Outcome()
    account.put(JUNK, *spam(4))
    assert account.poll().waiting == 1
    assert account.learned() == (1, 4)
    assert account.inside(JUNK) == 4
    rows = [(s.origin, s.source) for s in account.learner.samples.read(SampleState.LEARNED)]
    assert set(rows) == {("folder", f"imap:{account.user}@127.0.0.1")}


def test_read_messages_are_moved_if_that_is_wanted(account: Account) -> None:
    account.put(JUNK, *spam(1, 2, 3))
    assert account.poll(move_to=DONE).waiting == 3
    assert (account.inside(JUNK), account.inside(DONE)) == (0, 3)
    account.put(JUNK, *spam(4))
    account.poll(move_to=DONE)
    assert account.learned() == (0, 4)
    assert (account.inside(JUNK), account.inside(DONE)) == (0, 4)


def test_a_server_without_move_copies_and_deletes(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = folders._Bounded.ask_again

    def less(self: Any) -> None:
        plain(self)
        self.capabilities = tuple(word for word in self.capabilities if word != "MOVE")

    monkeypatch.setattr(folders._Bounded, "ask_again", less)
    account.put(JUNK, *spam(1, 2))
    account.poll(move_to=DONE)
    assert (account.inside(JUNK), account.inside(DONE)) == (0, 2)


def test_a_round_and_a_day_are_bounded_and_nothing_is_left_out(account: Account) -> None:
    account.put(JUNK, *spam(*range(7)))
    account.put(WANTED, message(1, spam=False))
    assert account.poll(batch=3).waiting == 3
    assert account.poll(batch=3, per_day=5).waiting == 2
    assert account.poll(per_day=5) == Outcome()
    assert account.poll(per_day=50).waiting == 3
    assert account.learned() == (1, 7)


def test_a_crash_before_the_commit_and_one_before_the_move(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.put(JUNK, *spam(1, 2))
    with monkeypatch.context() as patched:
        patched.setattr(account.learner.samples, "add", crash)
        with pytest.raises(RuntimeError):
            account.poll(move_to=DONE)
    assert (account.inside(JUNK), account.learned()) == (2, (0, 0))
    with monkeypatch.context() as patched:
        patched.setattr(folders._Round, "_move", crash)
        with pytest.raises(RuntimeError):
            account.poll(move_to=DONE)
    assert (account.inside(JUNK), account.learned()) == (2, (0, 2))
    assert account.poll(move_to=DONE).waiting == 0
    assert (account.inside(JUNK), account.inside(DONE)) == (0, 2)
    assert account.learned() == (0, 2)


def test_a_folder_made_anew_is_read_anew(account: Account) -> None:
    account.put(JUNK, *spam(1, 2))
    account.poll()
    account.client.delete(mailbox(JUNK))
    account.client.create(mailbox(JUNK))
    account.put(JUNK, *spam(2, 3))
    assert account.poll().waiting == 2
    assert account.learned() == (0, 3)


def test_deleted_messages_are_left_alone(account: Account) -> None:
    account.put(JUNK, *spam(1, 2))
    account.client.select(mailbox(JUNK))
    account.client.store("1", "+FLAGS", r"(\Deleted)")
    account.client.unselect()
    assert account.poll().waiting == 1


def test_starttls_and_a_certificate_of_nobody(account: Account) -> None:
    account.put(JUNK, *spam(1))
    with pytest.raises(FolderError, match="certificate verify failed"):
        account.poll(ca_file="")
    with pytest.raises(FolderError, match="certificate verify failed"):
        account.poll(ca_file="", tls="starttls", port=account.server.clear)
    assert account.poll(tls="starttls", port=account.server.clear).waiting == 1


def test_errors_say_what_is_wrong_and_no_password(account: Account) -> None:
    with pytest.raises(FolderError, match=r"SELECT Nowhere: .*exist"):
        account.poll(spam_folders=("Nowhere",))
    account.put(WANTED, message(1, spam=False))
    with pytest.raises(FolderError, match="Nowhere"):
        account.poll(spam_folders=("Nowhere",))
    assert account.learned() == (1, 0)  # the others are read nevertheless
    account.password.write_text("wrong-secret")
    with pytest.raises(FolderError, match=f"{account.user}@127.0.0.1: .*failed") as error:
        account.poll()
    assert "wrong-secret" not in str(error.value)
    with pytest.raises(FolderError, match="refused"):
        account.poll(port=free_port())


def test_one_process_reads_an_account_at_a_time(account: Account) -> None:
    settings, samples = account.settings(), account.learner.samples
    lease = folders._name("imap-lease", f"{settings.user}@{settings.host}")
    assert samples.claim_writing("other:1", 60, lease)
    assert poll(settings, account.learner) is None
    samples.end_writing("other:1", lease)
    assert poll(settings, account.learner) == Outcome()


def test_the_command_and_the_service(account: Account, tmp_path: Path) -> None:
    account.put(JUNK, *spam(1, 2))
    config: dict[str, Any] = {
        "hostname": "mx.example.com",
        "next_hop": "smtp:127.0.0.1:9",
        "smarthost": {"listen": [f"127.0.0.1:{free_port()}"], "workers": 1},
        "antivirus": {"enabled": False},
        "http": {"listen": ""},
        "store": {"database": account.store.database},
        "learning": {
            "imap": [
                {
                    "host": "127.0.0.1",
                    "port": account.server.port,
                    "ca_file": account.ca,
                    "user": account.user,
                    "password_file": str(account.password),
                    "spam_folders": [JUNK],
                    "interval": 0.5,
                }
            ]
        },
        "log": {"format": "json"},
    }
    path = tmp_path / "one.toml"
    path.write_text(to_toml(config))
    done = CliRunner().invoke(cli, ["--config", str(path), "model", "folders", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["learned"] == 2
    account.password.chmod(0o644)
    done = CliRunner().invoke(cli, ["--config", str(path), "model", "folders"])
    assert done.exit_code == 75
    assert "chmod" in done.stderr
    account.password.chmod(0o600)
    account.put(JUNK, *spam(3))
    with Gateway(tmp_path / "gateway", config):
        wait_for(lambda: account.learner.live().spam == 3, 60, "the third message")
