# SPDX-License-Identifier: GPL-2.0-or-later
"""What digests let people do: links, answers by mail, and the command that sends them."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
import structlog
from click.testing import CliRunner

from gateway import assembly
from gateway.auth.settings import AuthSettings
from gateway.classifier.settings import ClassifierSettings
from gateway.cli.main import cli
from gateway.config import Config
from gateway.digest.act import Desk, act
from gateway.digest.answers import AnswerAddress
from gateway.mail.types import Direction, Envelope, Mail, Session, new_id
from gateway.metrics import Metrics
from gateway.pipeline import judge_safely
from gateway.scanners.clamd import ClamdSettings
from gateway.store.decisions import RefusedError
from gateway.store.grants import GrantError, Grants
from gateway.store.journal import Filter as JournalFilter
from gateway.store.states import Actor, State
from tests.digested import BOB, CAROL, SETTINGS, Hop, bodies, clean, post, sent, tokens
from tests.stored import POSTGRESQL, RAW, settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store.database import Database
    from gateway.store.quarantine import Quarantine


def grants_of(quarantine: Quarantine, *, users: frozenset[str] = frozenset()) -> tuple[Desk, dict[str, str]]:
    hop = Hop()
    sent(quarantine, post(hop, users=users))
    return Desk(quarantine, users), tokens(hop.got[0][1])


def state(quarantine: Quarantine, item: str) -> list[State]:
    found = quarantine.find(item)
    assert found is not None
    return [copy.state for copy in found.recipients]


def test_a_link_asks_for_ones_own_copy_once(quarantine: Quarantine) -> None:
    item = clean(quarantine, BOB, CAROL)
    desk, found = grants_of(quarantine)
    grant, done = act(desk, found["R"], "web")
    assert (grant.who, done) == (BOB, "requested")
    assert state(quarantine, item) == [State.REQUESTED, State.HELD]
    quarantine.decisions.deny(item, [BOB], Actor("cli:eve"))
    with pytest.raises(GrantError, match="used"):
        act(desk, found["R"], "web")
    assert [e.who for e in quarantine.history(item) if e.action == "requested"] == [f"web:{BOB}"]


def test_a_link_releases_what_users_may_answer(quarantine: Quarantine) -> None:
    item = clean(quarantine, BOB, CAROL)
    desk, found = grants_of(quarantine, users=frozenset(("CLASSIFIER", "score")))
    assert act(desk, found["R"], "web")[1] == "released"
    assert state(quarantine, item) == [State.SCHEDULED, State.HELD]


def test_a_link_asks_where_recipients_answer_nothing(quarantine: Quarantine) -> None:
    """Also for what a reviewer has answered all reasons of: it is still not the recipient's to release."""
    item = clean(quarantine)
    desk, found = grants_of(quarantine)
    quarantine.decisions.answer(item, ["CLASSIFIER", "score"], Actor("cli:eve"))
    assert act(desk, found["R"], "web")[1] == "requested"
    assert state(quarantine, item) == [State.REQUESTED]


def test_malware_found_later_is_not_released_by_an_old_link(quarantine: Quarantine) -> None:
    item = clean(quarantine)
    desk, found = grants_of(quarantine, users=frozenset(("CLASSIFIER", "score", "VIRUS")))
    quarantine.decisions.convict(item, "VIRUS", "mailwarden", "Test.Name")
    with pytest.raises(RefusedError, match="infected"):
        act(desk, found["R"], "web")
    assert state(quarantine, item) == [State.HELD]


def test_a_refusal_does_not_use_the_link_up(quarantine: Quarantine) -> None:
    item = clean(quarantine)
    desk, found = grants_of(quarantine)
    quarantine.decisions.request(item, None, Actor("cli:eve"))
    with pytest.raises(RefusedError):
        act(desk, found["R"], "web")
    quarantine.decisions.withdraw(item, None, Actor("cli:eve"))
    assert act(desk, found["R"], "web")[1] == "requested"


def test_a_report_of_spam_is_noted(quarantine: Quarantine) -> None:
    item = clean(quarantine)
    desk, found = grants_of(quarantine)
    assert act(desk, found["S"], "mail")[1] == "reported"
    assert state(quarantine, item) == [State.HELD]
    with pytest.raises(GrantError):
        act(desk, found["S"], "mail")
    assert [e.action for e in quarantine.history(item)][-1] == "reported"


def test_the_link_to_all_of_them_does_nothing(quarantine: Quarantine) -> None:
    clean(quarantine)
    desk, found = grants_of(quarantine)
    assert Grants(quarantine.database).look(found["L"]).who == BOB
    with pytest.raises(RefusedError):
        act(desk, found["L"], "web")


def test_a_deleted_message_is_not_asked_for(quarantine: Quarantine) -> None:
    item = clean(quarantine)
    desk, found = grants_of(quarantine)
    quarantine.delete(item, Actor("cli:eve"))
    with pytest.raises(RefusedError, match="no more"):
        act(desk, found["R"], "web")


OURS = Session("192.0.2.1", direction=Direction.OUTBOUND)


def test_mail_to_the_address_does_what_the_link_does(quarantine: Quarantine) -> None:
    item = clean(quarantine)
    hop = Hop()
    sent(quarantine, post(hop))
    addresses = re.findall(r"held\+R[0-9A-Z]+@example\.com", bodies(hop.got[0][1])[0])
    door = AnswerAddress("held@example.com", Desk(quarantine))
    (address,) = addresses
    assert door.takes(OURS, address.lower())
    assert not door.takes(Session("192.0.2.1"), address)  # a stranger's mail is mail
    assert not door.takes(OURS, "held@example.com")
    assert not door.takes(OURS, address.replace("example.com", "example.org"))
    taken = door.take([address.lower()])
    assert (taken.useful, taken.reason) == (True, "ANSWER")
    assert state(quarantine, item) == [State.REQUESTED]
    again = door.take([address])
    assert (again.useful, again.why) == (False, "this was used already")
    assert not door.take(["held+\x1b[31m@example.com"]).useful


# ---------------------------------------------------------------- the command


@pytest.fixture
def config(tmp_path: Path, database: Database) -> Path:
    path = tmp_path / "mailwarden.toml"
    url = POSTGRESQL or f"sqlite:///{database.path}"
    path.write_text(
        f'next_hop = "smtp:192.0.2.9:25"\n[store]\ndatabase = "{url}"\n'
        '[digest]\nenabled = true\nemail = "held@example.com"\ndomains = ["example.com"]\n'
        'base_url = "https://mail.example.com"\n',
        "utf-8",
    )
    return path


def run(config: Path, *arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(cli, ["--config", str(config), "digest", *arguments])
    assert done.exit_code == status, done.output
    return done.output


def test_the_command(config: Path, quarantine: Quarantine) -> None:
    run(config, "preview", "--recipient", BOB, status=66)
    clean(quarantine)
    assert "Messages held" in run(config, "preview", "--recipient", BOB, "--html")
    assert "/act/TOKEN" in run(config, "preview", "--recipient", BOB)
    assert "Perihal" in run(config, "preview", "--recipient", BOB, "--language", "id")
    run(config, "preview", "--recipient", BOB, "--language", "xx", status=65)
    assert '"count": 1' in run(config, "preview", "--recipient", BOB, "--json")
    assert "due" in run(config, "send", "--dry-run")
    assert "Nobody" in run(config, "show")


@pytest.mark.parametrize(
    "wrong",
    [
        {"enabled": True},
        {"at": ["25:00"]},
        {"days": []},
        {"base_url": "javascript:alert(1)"},
        {"base_url": 'https://mail.example.com/"onload='},
        {"reply_address": "a+b@example.com"},
        {"reply_address": "a-name-too-long@example.com"},
        {"email": "a@b\r\nBcc: x"},
        {"domains": ["no domain"]},
        {"language": "../../etc/passwd"},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"digest": wrong}, Config)


def test_users_may_not_be_given_malware() -> None:
    with pytest.raises(msgspec.ValidationError, match="malware"):
        msgspec.convert({"release": {"users": ["score", "virus"]}}, Config)


# ---------------------------------------------------------------- the door


def test_an_answer_is_not_judged_and_goes_no_further(tmp_path: Path) -> None:
    """Through the pipeline, as both doors send it: taken, or refused; strangers' mail is judged."""
    config = Config(
        hostname="gw.example.com",
        next_hop="smtp:192.0.2.9:25",
        auth=AuthSettings(spf=False, dkim=False, dmarc=False, arc=False, iprev=False),
        antivirus=ClamdSettings(enabled=False),
        classifier=ClassifierSettings(enabled=False),
        store=settings_for(tmp_path),
        digest=SETTINGS,
    )
    log = structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
    opened = assembly.assemble(assembly.load(config), Metrics(1).slot(0), log, threads=4)
    try:
        gateway = opened.gateway
        quarantine = gateway.quarantine
        assert quarantine is not None
        item = clean(quarantine)
        hop = Hop()
        sent(quarantine, post(hop))
        (address,) = re.findall(r"held\+R[0-9A-Z]+@example\.com", bodies(hop.got[0][1])[0])

        def send(session: Session, *recipients: str) -> tuple[str, int, str]:
            envelope = Envelope(BOB, recipients)
            verdict, reply = judge_safely(
                Mail(new_id(), session, envelope, RAW, time.time()), gateway, "milter"
            )
            return verdict.action.value, reply.code, reply.enhanced

        assert send(Session("203.0.113.9"), address)[0] != "learn"
        assert state(quarantine, item) == [State.HELD]
        assert send(OURS, address.lower()) == ("learn", 250, "2.0.0")
        assert state(quarantine, item) == [State.REQUESTED]
        assert send(OURS, address) == ("reject", 550, "5.7.1")
        assert gateway.journal is not None
        assert gateway.journal.flush()
        reasons = {record.verdict.reason for record in gateway.journal.search(JournalFilter())}
        assert "ANSWER" in reasons
    finally:
        opened.close()
