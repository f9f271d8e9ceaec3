# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests: who is told what, and what they can do with that; never malware, never anybody else's mail."""

from __future__ import annotations

import email.policy
import re
import time
from datetime import datetime
from email.parser import BytesParser
from typing import TYPE_CHECKING, Literal

import msgspec
import pytest

from gateway.data import data_dir
from gateway.digest import words
from gateway.digest.send import last_slot
from gateway.digest.settings import AdministratorRow, LanguageRow
from gateway.policy.patterns import RuleError
from gateway.store.digests import Digests
from gateway.store.queue import Queue
from gateway.store.queued import Filter
from gateway.store.states import Actor
from tests.digested import BOB, CAROL, DAN, SETTINGS, Hop, bodies, clean, post, sent

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store.quarantine import Quarantine


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
    clean(quarantine, CAROL, reasons=("VIRUS",))  # of which nobody is told
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
    page = f"{SETTINGS.base_url.rstrip('/')}/held?"
    assert f"at once: {page}state=requested&domain=example.com" in text
    assert f'<a href="{page}state=requested&amp;domain=example.com">' in html
    assert f"{page}domain=example.com" in text
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
