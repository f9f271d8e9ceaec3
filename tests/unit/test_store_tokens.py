# SPDX-License-Identifier: GPL-2.0-or-later
"""Release tokens: good for one message, its recipients and a while, and for nothing else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from gateway.mail.types import Release
from gateway.store import schema, tokens
from gateway.store.database import Database, StoreError, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.states import Actor, Role
from tests.stored import RAW, claim, execute, hold, mail_for, settings_for

if TYPE_CHECKING:
    from pathlib import Path

BOB, CAROL = "bob@example.com", "carol@example.com"
TRACE = (
    b"Received: from a by b\r\n\tfor c; today\r\nReturn-Path: <x@example.net>\r\n"
    b"Delivered-To: bob@example.com\r\n"
)


@pytest.fixture
def token(quarantine: Quarantine) -> str:
    mail = hold(quarantine, mail_for(BOB, CAROL), reasons=["CLASSIFIER", "SPF_FAIL"])
    claim(quarantine, mail.id, BOB)
    return quarantine.issue_token(mail.id, [BOB])


@pytest.mark.parametrize(
    ("raw", "recipients"),
    [(RAW, [BOB]), (RAW, [BOB.upper()]), (RAW, [BOB, BOB]), (TRACE + RAW, [BOB])],
    ids=["as it was", "other case", "named twice", "trace fields on top"],
)
def test_a_token_lets_its_message_in(
    quarantine: Quarantine, token: str, raw: bytes, recipients: list[str]
) -> None:
    expected = Release(token.split(".", maxsplit=1)[0], ("CLASSIFIER", "SPF_FAIL"))
    assert quarantine.check_token(token, raw, recipients) == expected
    assert quarantine.check_token(f" {token}\r\n ", raw, recipients) == expected


def test_a_token_lifts_no_infection_that_was_found_since(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL), reasons=["CLASSIFIER"])
    claim(quarantine, mail.id, BOB)
    token = quarantine.issue_token(mail.id, [BOB])
    assert quarantine.decisions.convict(mail.id, "VIRUS", "mailwarden", "Test.Name")
    assert quarantine.check_token(token, RAW, [BOB]) == Release(mail.id, ("CLASSIFIER",))
    administrator = Actor("root", Role.ADMINISTRATOR)
    quarantine.decisions.answer(mail.id, ["VIRUS"], administrator, aloud=True)
    assert quarantine.check_token(token, RAW, [BOB]) == Release(mail.id, ("CLASSIFIER", "VIRUS"))


@pytest.mark.parametrize(
    ("raw", "recipients"),
    [
        (RAW, [CAROL]),
        (RAW, [BOB, CAROL]),
        (RAW, []),
        (RAW + b"x", [BOB]),
        (RAW[:-1], [BOB]),
        (RAW.replace(b"chance", b"chamce"), [BOB]),
        (b"", [BOB]),
        (b"Subject: other\r\n" + RAW, [BOB]),
        (b"From: other\r\nReceived: x\r\n" + RAW, [BOB]),
        (b"Received: x\r\n\r\n" + RAW, [BOB]),
        (b"Received: x" + RAW, [BOB]),
        (b"X" + RAW, [BOB]),
    ],
)
def test_it_lets_nothing_else_in(
    quarantine: Quarantine, token: str, raw: bytes, recipients: list[str]
) -> None:
    assert quarantine.check_token(token, raw, recipients) is None


def test_any_changed_character_spoils_it(quarantine: Quarantine, token: str) -> None:
    assert quarantine.check_token(token, RAW, [BOB]) is not None
    for place, char in enumerate(token[:-1]):  # the last carries two bits that mean nothing
        changed = token[:place] + ("0" if char != "0" else "1") + token[place + 1 :]
        assert quarantine.check_token(changed, RAW, [BOB]) is None, place


def test_a_token_of_another_item_is_worth_nothing(quarantine: Quarantine, token: str) -> None:
    other = hold(quarantine, mail_for(BOB))
    claim(quarantine, other.id)
    item, nonce, mac = token.split(".")
    theirs = quarantine.issue_token(other.id, [BOB]).split(".")
    assert quarantine.check_token(f"{other.id}.{nonce}.{mac}", RAW, [BOB]) is None
    assert quarantine.check_token(".".join((item, theirs[1], mac)), RAW, [BOB]) is None
    assert quarantine.check_token(".".join((item, nonce, theirs[2])), RAW, [BOB]) is None


def test_a_row_that_was_tampered_with_is_worth_nothing(
    quarantine: Quarantine, database: Database, token: str
) -> None:
    for values in ({"recipients": f'["{CAROL}"]'}, {"expires": time.time() + 1e9}):
        execute(database, update(schema.release_tokens).values(**values))
        assert quarantine.check_token(token, RAW, [CAROL]) is None
        assert quarantine.check_token(token, RAW, [BOB]) is None


def test_it_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(tmp_path, token_seconds=60.0)
    database = open_database(settings)
    quarantine = Quarantine(database, settings)
    mail = hold(quarantine)
    claim(quarantine, mail.id)
    token = quarantine.issue_token(mail.id, [BOB])
    assert quarantine.check_token(token, RAW, [BOB]) is not None
    later = time.time() + 60.5
    monkeypatch.setattr(time, "time", lambda: later)
    assert quarantine.check_token(token, RAW, [BOB]) is None
    database.close()


def test_the_key_is_made_once_and_kept(database: Database, token: str) -> None:
    again = Quarantine(database)
    assert again.check_token(token, RAW, [BOB]) is not None
    database.write(
        lambda c: c.execute(
            update(schema.secrets).where(schema.secrets.c.name == "release").values(value=b"0" * 32)
        )
    )
    assert Quarantine(database).check_token(token, RAW, [BOB]) is None


def test_only_what_is_being_released_gets_one(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    with pytest.raises(StoreError, match="not being released"):
        quarantine.issue_token(mail.id, [BOB])
    with pytest.raises(StoreError, match="not being released"):
        quarantine.issue_token("0" * 16, [BOB])


def test_it_dies_with_the_release(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    taken = claim(quarantine, mail.id)
    assert taken is not None
    token = quarantine.issue_token(mail.id, [BOB])
    quarantine.settle(taken, who="me", failed={BOB: "550 no"})
    assert quarantine.check_token(token, RAW, [BOB]) is None
    again = claim(quarantine, mail.id)
    assert again is not None
    token = quarantine.issue_token(mail.id, [BOB])
    quarantine.settle(again, who="me", delivered={BOB: BOB})
    assert quarantine.check_token(token, RAW, [BOB]) is not None
    quarantine.delete(mail.id, Actor("me"))
    assert quarantine.check_token(token, RAW, [BOB]) is None


@given(
    st.one_of(st.text(max_size=300), st.from_regex(r"[0-9A-Z]{16}\.[0-9a-f]{32}\.[\w-]{43}", fullmatch=True))
)
def test_reading_a_token_never_fails(text: str) -> None:
    found = tokens.parse(text)
    assert found is None or text.strip() == f"{found.item}.{found.nonce}.{found.mac}"


@given(st.binary(max_size=200), st.integers(0, 250))
def test_trace_fields_are_told_in_linear_time(head: bytes, size: int) -> None:
    assert tokens.same_message(head, size, "0" * 64) is False


def test_a_long_head_is_read_quickly() -> None:
    head = b"Received: a\r\n" + b" b\r\n" * 500_000
    started = time.process_time()
    assert tokens.same_message(head + b"X", 1, "0" * 64) is False
    assert time.process_time() - started < 1.0
