# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests: who is told what, and what they can do with that; never malware, never anybody else's mail."""

from __future__ import annotations

import email.policy
import re
import time
from dataclasses import replace
from datetime import datetime
from email.parser import BytesParser
from typing import TYPE_CHECKING, Literal

import msgspec
import pytest
import structlog
from click.testing import CliRunner

from gateway import assembly
from gateway.auth.outgoing import Signing
from gateway.auth.settings import AuthSettings
from gateway.classifier.settings import ClassifierSettings
from gateway.cli.main import cli
from gateway.config import Config
from gateway.data import data_dir
from gateway.delivery.relay import RecipientResult
from gateway.delivery.routes import routes
from gateway.digest import words
from gateway.digest.act import Desk, act
from gateway.digest.answers import AnswerAddress
from gateway.digest.send import Post, last_slot, send_all
from gateway.digest.settings import AdministratorRow, DigestSettings, LanguageRow
from gateway.mail.mime import parse
from gateway.mail.types import Direction, Envelope, Mail, Session, new_id
from gateway.metrics import Metrics
from gateway.pipeline import judge_safely
from gateway.policy.patterns import RuleError
from gateway.scanners.clamd import ClamdSettings
from gateway.store.decisions import RefusedError
from gateway.store.digests import Digests
from gateway.store.grants import GrantError, Grants
from gateway.store.journal import Filter as JournalFilter
from gateway.store.queue import Queue
from gateway.store.queued import Filter
from gateway.store.states import Actor, State
from tests.stored import EVIDENCE, POSTGRESQL, RAW, SIGNALS, mail_for, settings_for, verdict_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.store.database import Database
    from gateway.store.quarantine import Quarantine

BOB, CAROL, DAN = "bob@example.com", "carol@example.com", "dan@example.org"
SETTINGS = DigestSettings(
    enabled=True,
    domains=("example.com",),
    email="held@gw.example.com",
    base_url="https://mail.example.com/held/",
    reply_address="held@example.com",
)


class Hop:
    """A next hop that takes, or defers, and remembers."""

    def __init__(self) -> None:
        self.status = "delivered"
        self.got: list[tuple[str, bytes]] = []

    def __call__(self, envelope: Envelope, raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
        assert envelope.mail_from == ""
        (recipient,) = envelope.recipients
        if self.status == "delivered":
            self.got.append((recipient, raw))
        return {recipient: RecipientResult(self.status, 250, "2.0.0", "as told")}  # type: ignore[arg-type]


def clean(
    quarantine: Quarantine,
    *people: str,
    reasons: tuple[str, ...] = ("CLASSIFIER", "score"),
    status: Literal["clean", "infected", "error"] = "clean",
    subject: str = "A chance",
) -> str:
    """Hold a message in which no scanner found anything."""
    raw = RAW.replace(b"A chance", subject.encode())
    mail = mail_for(*(people or (BOB,)), raw=raw)
    evidence = replace(EVIDENCE, antivirus=replace(EVIDENCE.antivirus, status=status))
    verdict = verdict_for(mail)
    return quarantine.hold(mail, verdict, evidence, SIGNALS, content=parse(mail.raw), reasons=reasons)


def post(
    hop: Hop, settings: DigestSettings = SETTINGS, *, users: frozenset[str] = frozenset(), **more: float
) -> Post:
    table = routes((), "smtp:mail.example.com:25")
    languages = words.load_all(data_dir("rules"), settings)
    return Post(settings, languages, users, Signing(()), table, hop, **more)


def sent(quarantine: Quarantine, sender: Post, **how: object) -> list[tuple[str, int, str]]:
    slot = how.pop("slot", time.time())
    return [(s.address, s.count, s.status) for s in send_all(quarantine, sender, slot, **how)]  # type: ignore[arg-type]


def bodies(raw: bytes) -> tuple[str, str]:
    """Text and HTML of a digest, read by another program."""
    message = BytesParser(policy=email.policy.default).parsebytes(raw)
    plain, html = message.iter_parts()
    return plain.get_content(), html.get_content()


def tokens(raw: bytes) -> dict[str, str]:
    """The tokens of the links in a digest, by the first letter."""
    text, _ = bodies(raw)
    return {found[0]: found for found in re.findall(r"/act/([0-9A-Z]+)", text)}


# ---------------------------------------------------------------- who is told what


def test_each_recipient_is_told_of_their_own_mail_once(quarantine: Quarantine) -> None:
    shared, own = clean(quarantine, BOB, CAROL), clean(quarantine, CAROL)
    clean(quarantine, DAN)  # of a domain that gets none
    hop = Hop()
    assert sent(quarantine, post(hop)) == [(BOB, 1, "sent"), (CAROL, 2, "sent")]
    text = {who: bodies(raw)[0] for who, raw in hop.got}
    links = {who: set(re.findall("/act/R([0-9A-Z]{16})", one)) for who, one in text.items()}
    assert links == {BOB: {shared}, CAROL: {shared, own}}
    assert sent(quarantine, post(hop)) == []  # nothing is new
    later = clean(quarantine)
    assert sent(quarantine, post(hop)) == [(BOB, 1, "sent")]
    assert later in hop.got[-1][1].decode()


@pytest.mark.parametrize(
    ("reasons", "status"),
    [
        (("VIRUS", "score"), "clean"),
        (("VIRUS:error",), "error"),
        (("score",), "infected"),  # held for something else
    ],
)
def test_malware_is_never_in_them(
    quarantine: Quarantine, reasons: tuple[str, ...], status: Literal["clean", "infected", "error"]
) -> None:
    bad = clean(quarantine, reasons=reasons, status=status)
    hop = Hop()
    assert sent(quarantine, post(hop)) == [(BOB, 0, "nothing")]
    good = clean(quarantine)
    assert sent(quarantine, post(hop)) == [(BOB, 1, "sent")]
    assert bad not in hop.got[0][1].decode()
    assert good in hop.got[0][1].decode()


def test_what_a_later_scan_convicts_is_not_in_them(quarantine: Quarantine) -> None:
    item = clean(quarantine)
    quarantine.decisions.convict(item, "VIRUS", "mailwarden", "Test.Name")
    assert sent(quarantine, post(Hop())) == [(BOB, 0, "nothing")]


def test_what_is_settled_is_not_in_them(quarantine: Quarantine) -> None:
    gone, denied, asked = clean(quarantine), clean(quarantine), clean(quarantine)
    quarantine.delete(gone, Actor("cli:eve"))
    quarantine.decisions.deny(denied, None, Actor("cli:eve"))
    quarantine.decisions.request(asked, None, Actor("cli:eve"))
    hop = Hop()
    assert sent(quarantine, post(hop)) == [(BOB, 1, "sent")]
    text, _ = bodies(hop.got[0][1])
    assert "You have asked for this message" in text
    assert f"/act/R{asked}" not in text


def test_long_lists_are_cut_and_say_so(quarantine: Quarantine) -> None:
    for _ in range(5):
        newest = clean(quarantine)
    hop = Hop()
    sender = post(hop, msgspec.structs.replace(SETTINGS, most=2))
    assert sent(quarantine, sender) == [(BOB, 5, "sent")]
    text, _ = bodies(hop.got[0][1])
    assert "and 3 more" in text
    assert text.count("Subject:") == 2
    assert newest in text


def test_those_who_want_none_get_none(quarantine: Quarantine) -> None:
    for who in (BOB, "bob smith@example.com", "<x>@example.com", "b\u00f6b@example.com", "@example.com"):
        clean(quarantine, who)
    settings = msgspec.structs.replace(SETTINGS, without=("Bob@example.com",))
    assert sent(quarantine, post(Hop(), settings)) == []


def test_what_cannot_be_sent_is_sent_later(quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    clean(quarantine)
    hop = Hop()
    hop.status = "deferred"
    assert sent(quarantine, post(hop)) == [(BOB, 1, "deferred")]
    hop.status = "delivered"
    assert sent(quarantine, post(hop)) == []  # not at once again
    later = time.time() + 400
    monkeypatch.setattr("gateway.store.digests.time.time", lambda: later)
    assert sent(quarantine, post(hop)) == [(BOB, 1, "sent")]


def test_one_that_died_between_claim_and_end_leaves_it_to_the_next(
    quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(quarantine)
    assert Digests(quarantine.database).claim(BOB, time.time()) is not None  # and dies
    hop = Hop()
    assert sent(quarantine, post(hop)) == []
    later = time.time() + 700
    monkeypatch.setattr("gateway.store.digests.time.time", lambda: later)
    assert sent(quarantine, post(hop)) == [(BOB, 1, "sent")]


def test_with_a_queue_they_are_queued_with_the_note(quarantine: Quarantine) -> None:
    clean(quarantine)
    hop = Hop()
    assert sent(quarantine, post(hop, lifetime=3_600.0)) == [(BOB, 1, "queued")]
    assert sent(quarantine, post(hop, lifetime=3_600.0)) == []
    (entry,) = Queue(quarantine.database).search(Filter())
    assert (entry.facts.sender, entry.facts.may_bounce) == ("", False)
    assert entry.recipients[0].address == BOB
    assert hop.got == []


def test_a_dry_run_changes_nothing(quarantine: Quarantine) -> None:
    clean(quarantine)
    assert sent(quarantine, post(Hop()), dry=True) == [(BOB, 1, "due")]
    assert Digests(quarantine.database).all() == {}


def test_one_is_named(quarantine: Quarantine) -> None:
    clean(quarantine, BOB, CAROL)
    assert sent(quarantine, post(Hop()), only=("CAROL@example.com",)) == [(CAROL, 1, "sent")]


# ---------------------------------------------------------------- what stands in them


HOSTILE = (
    "=?utf-8?q?=0D=0ABcc:_x=1B[31m_=E2=80=AE?= <script>alert(1)</script> "
    "http://evil.example/x www.evil.example"
)


def test_hostile_subjects_are_text(quarantine: Quarantine) -> None:
    clean(quarantine, subject=HOSTILE)
    hop = Hop()
    sent(quarantine, post(hop))
    raw = hop.got[0][1]
    head = raw.partition(b"\r\n\r\n")[0]
    assert b"Bcc" not in head
    assert b"evil" not in head
    assert raw.replace(b"\r\n", b"").count(b"\n") == raw.replace(b"\r\n", b"").count(b"\r") == 0
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    for body in bodies(raw):
        assert "\x1b" not in body
        assert "\u202e" not in body
        assert "evil.example" not in body  # nothing that a program makes a link of
        assert "http://evil" not in body
    html = bodies(raw)[1]
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_html_loads_nothing_and_its_links_are_ours(quarantine: Quarantine) -> None:
    clean(quarantine, subject='"><img src=x onerror=alert(1)>')
    hop = Hop()
    sent(quarantine, post(hop))
    html = bodies(hop.got[0][1])[1]
    assert not re.search(r"<(?:img|script|link|iframe|object|style|svg|form)\b", html)
    assert not re.search(r"<[^>]*\son\w+\s*=", html)
    links = re.findall(r'href="([^"]*)"', html)
    assert links
    assert all(link.startswith(("https://mail.example.com/held/act/", "mailto:held+")) for link in links)


def test_the_message_is_ours_and_nobody_answers_it(quarantine: Quarantine) -> None:
    clean(quarantine)
    hop = Hop()
    sent(quarantine, post(hop))
    message = BytesParser(policy=email.policy.default).parsebytes(hop.got[0][1])
    assert message["From"] == "Mail quarantine <held@gw.example.com>"
    assert message["To"] == BOB
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Subject"] == "Messages held for you: 1"
    assert message.get_content_type() == "multipart/alternative"


def test_a_digest_in_indonesian(quarantine: Quarantine) -> None:
    clean(quarantine)
    settings = msgspec.structs.replace(
        SETTINGS, languages=(LanguageRow(domain="example.com", language="id"),)
    )
    hop = Hop()
    sent(quarantine, post(hop, settings))
    text, html = bodies(hop.got[0][1])
    assert "Pesan-pesan berikut tidak diantarkan" in text
    assert "tidak terbukti berasal dari domain" in text or "teksnya terbaca seperti spam" in text
    assert '<html lang="id">' in html
    for english in ("Subject:", "Held:", "Deliver", "Ask for it"):
        assert english not in text


def test_languages_have_the_same_words() -> None:
    rules = data_dir("rules")
    known = words.known(rules)
    assert known == ["en", "id"]
    holes = {}
    for code in known:
        language = words.load(rules, code)
        texts = msgspec.structs.asdict(language.words)
        holes[code] = {name: sorted(re.findall(r"\{\w+\}", text)) for name, text in texts.items()}
        holes[code]["phrases"] = sorted(language.reasons.phrases)
        holes[code]["sentences"] = [
            sorted(re.findall(r"\{\w+\}", " ".join(pair)))
            for pair in msgspec.structs.asdict(language.reasons.sentences).values()
        ]
    assert holes["en"] == holes["id"]


def test_words_of_the_site_come_first(tmp_path: Path) -> None:
    rules = data_dir("rules")
    text = (rules / "digest.en.toml").read_text("utf-8")
    (tmp_path / "digest.en.toml").write_text(text.replace("Mail quarantine", "Example mail"), "utf-8")
    assert words.load(rules, "en", str(tmp_path)).words.from_name == "Example mail"
    (tmp_path / "digest.en.toml").write_text(text.replace("Mail quarantine", "a<b>"), "utf-8")
    with pytest.raises(RuleError, match="from_name"):
        words.load(rules, "en", str(tmp_path))


def test_administrators_get_figures_and_requests_and_no_links_that_act(quarantine: Quarantine) -> None:
    asked = clean(quarantine, subject="An invoice http://evil.example/")
    clean(quarantine, reasons=("VIRUS",), subject="poison")
    clean(quarantine, DAN)
    quarantine.decisions.request(asked, [BOB], Actor("web:bob"))
    settings = msgspec.structs.replace(
        SETTINGS,
        domains=(),
        administrators=(AdministratorRow(domain="example.com", address="eve@example.com"),),
    )
    hop = Hop()
    assert sent(quarantine, post(hop, settings)) == [("eve@example.com", 2, "sent")]
    text, html = bodies(hop.got[0][1])
    assert "Waiting for a decision: 2" in text
    assert "infected, not listed: 1" in text
    assert f"{asked} <{BOB}>" in text
    assert "poison" not in text
    assert "evil.example" not in text + html
    assert "/act/" not in text + html
    assert "mailto:" not in html
    assert sent(quarantine, post(hop, settings), slot=time.time() - 60) == []


# ---------------------------------------------------------------- when


def at(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").astimezone().timestamp()


@pytest.mark.parametrize(
    ("now", "slot"),
    [
        ("2026-01-07 07:00", "2026-01-07 07:00"),
        ("2026-01-07 06:59", "2026-01-06 16:30"),
        ("2026-01-07 23:59", "2026-01-07 16:30"),
        ("2026-01-11 12:00", "2026-01-09 16:30"),  # a Sunday
    ],
)
def test_the_last_time_of_the_schedule(now: str, slot: str) -> None:
    weekdays = ("mon", "tue", "wed", "thu", "fri")
    settings = msgspec.structs.replace(SETTINGS, at=("16:30", "07:00"), days=weekdays)
    assert last_slot(settings, at(now)) == at(slot)


# ---------------------------------------------------------------- what they let people do


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
