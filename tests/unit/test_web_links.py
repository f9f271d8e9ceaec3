# SPDX-License-Identifier: GPL-2.0-or-later
"""Links of digests on the web page: what a look, a press and a second press do; what users do alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn

import pytest
from click.testing import CliRunner

from gateway.cli.main import cli
from gateway.delivery.release import ReleaseError, Sender, release_item
from gateway.delivery.settings import ReleaseSettings
from gateway.digest.act import Desk
from gateway.digest.answers import AnswerAddress
from gateway.store.grants import Deed, Grant, Grants
from gateway.store.people import Person
from gateway.store.states import Actor, Role, State
from gateway.web.settings import WebSettings
from tests.websites import HASH, Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.mail.types import Mail

BOB, CAROL = "bob@example.com", "carol@example.com"
SCORE = ReleaseSettings(users=("score",))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, WebSettings(undo_seconds=30.0), SCORE)
    yield made
    made.close()


def link(place: Place, deed: Deed, mail: Mail | None = None, position: int = 0, *, who: str = BOB) -> str:
    expires = time.time() + 86_400
    grant = Grant(deed, who, expires, mail.id if mail else "", position)
    return f"/act/{Grants(place.database).seal(grant)}"


def never(*_what: object) -> NoReturn:
    """What a release goes out with, where none may."""
    raise AssertionError


def states(place: Place, mail: Mail) -> list[State]:
    found = place.quarantine.find(mail.id)
    assert found is not None
    return [one.state for one in found.recipients]


def test_who_follows_a_link_changes_nothing(place: Place) -> None:
    mail = place.hold(BOB)
    for path in (link(place, Deed.RELEASE, mail), link(place, Deed.SPAM, mail), link(place, Deed.LOGIN)):
        browser = place.browser()
        for _ in range(3):
            browser.get(path)
            assert browser.client.head(path).status_code == 200
        assert place.site.cookie not in browser.client.cookies
        # To our own pages alone: with "no-referrer" browsers would hide where the form comes from as well.
        assert browser.client.get(path).headers["referrer-policy"] == "same-origin"
    assert states(place, mail) == [State.HELD]
    assert len(place.quarantine.history(mail.id)) == 1


def test_a_press_releases_ones_own_copy_once(place: Place) -> None:
    mail = place.hold(BOB, CAROL)
    path = link(place, Deed.RELEASE, mail)
    browser = place.browser()
    page = browser.get(path)
    assert "A chance" in page
    assert CAROL not in page
    assert "is released" in browser.post(path, 200)
    assert states(place, mail) == [State.SCHEDULED, State.HELD]
    browser.get(path, 410)
    browser.post(path, 410)


def test_what_takes_a_reviewer_is_asked_for(place: Place) -> None:
    mail = place.hold(BOB, reasons=("score", "DMARC_QUARANTINE"))
    path = link(place, Deed.RELEASE, mail)
    browser = place.browser()
    browser.get(path)
    assert "was requested" in browser.post(path, 200)
    assert states(place, mail) == [State.REQUESTED]


@pytest.mark.parametrize("reason", ["VIRUS", "VIRUS:error"])
def test_malware_is_neither_released_nor_asked_for(place: Place, reason: str) -> None:
    mail = place.hold(BOB, reasons=("score", reason))
    path = link(place, Deed.RELEASE, mail)
    browser = place.browser()
    browser.get(path)
    browser.post(path, 409)
    assert states(place, mail) == [State.HELD]


def test_what_was_denied_stays_denied_at_every_door(place: Place) -> None:
    """Users may answer the score here; a reviewer's no stands until a reviewer thinks otherwise."""
    mail = place.hold(BOB)
    place.browser("rita").post(f"/held/{mail.id}/deny")
    bob = place.browser("bob")
    for act in ("release", "request", "approve"):
        bob.post(f"/held/{mail.id}/{act}", 409)
    bob.post("/held", 200, what="release", item=[mail.id], sure="1")
    assert "a reviewer has denied it" in bob.page
    path = link(place, Deed.RELEASE, mail)
    bob.get(path)
    bob.post(path, 409)
    token = {"authorization": f"Bearer {place.people.log_in('bob', 'token', seconds=600)}"}
    for act in ("release", "request", "approve"):
        answer = bob.client.post(f"/api/v1/messages/{mail.id}/{act}", headers=token, json={})
        assert answer.status_code == 409, answer.text
    many = {"action": "release", "items": [mail.id]}
    assert bob.client.post("/api/v1/decisions", headers=token, json=many).json()["done"] == []
    answers = AnswerAddress("held@example.com", Desk(place.quarantine, frozenset({"score"})))
    taken = answers.take([f"held+{path.rpartition('/')[2]}@example.com"])
    assert (taken.useful, taken.why) == (False, "a reviewer has denied it")
    user = Actor("cli:bob", Role.USER, frozenset({"score"}))
    with pytest.raises(ReleaseError, match="denied"):
        release_item(place.quarantine, Sender(never, never), mail.id, user)
    assert states(place, mail) == [State.DENIED]
    config = place.directory / "mailwarden.toml"
    config.write_text(f'next_hop = "smtp:192.0.2.9:25"\n[store]\ndatabase = "{place.parts.store.database}"\n')

    def run(*words: str) -> int:
        """The exit status of `mailwarden quarantine`."""
        return CliRunner().invoke(cli, ["--config", str(config), "quarantine", *words, mail.id]).exit_code

    assert run("approve", "--no-wait") == 1
    assert states(place, mail) == [State.DENIED]
    assert run("release", "--no-wait") == 0  # whoever has the database is a reviewer
    assert states(place, mail) == [State.SCHEDULED]


def test_spam_is_reported(place: Place) -> None:
    mail = place.hold(BOB)
    path = link(place, Deed.SPAM, mail)
    browser = place.browser()
    browser.get(path)
    assert "counts as spam" in browser.post(path, 200)
    assert (f"web:{BOB}", "reported") in [(e.who, e.action) for e in place.quarantine.history(mail.id)]


def test_a_login_link_opens_that_mailbox_and_no_more(place: Place) -> None:
    mine, other = place.hold(BOB, CAROL), place.hold(CAROL)
    # Somebody of the same name may do more, by their password.
    place.people.put(Person(BOB, Role.ADMINISTRATOR, (), (), HASH), "cli:root")
    path = link(place, Deed.LOGIN)
    browser = place.browser()
    browser.get(path)
    assert browser.post(path) == "/held"
    page = browser.get("/held?state=all")
    assert mine.id in page
    assert other.id not in page
    browser.get(f"/held/{other.id}", 404)
    assert "user" in browser.get("/account")
    browser.post("/logout", everywhere="1")
    browser.get("/held", 303)
    again = place.browser()
    again.get(path, 410)


@pytest.mark.parametrize("change", ["cut", "longer", "other", "lower", "nul", "empty"])
def test_a_link_is_not_guessed(place: Place, change: str) -> None:
    mail = place.hold(BOB, CAROL)
    path = link(place, Deed.RELEASE, mail)
    wrong = {
        "cut": path[:-1],
        "longer": path + "0",
        "other": path[:21] + ("1" if path[21] != "1" else "2") + path[22:],
        "lower": path[:-24] + "0" * 24,
        "nul": path + "%00",
        "empty": "/act/" + "A" * 700,
    }[change]
    browser = place.browser()
    browser.get(wrong, 410)
    browser.get("/login")
    browser.post(wrong, 410)
    assert states(place, mail) == [State.HELD, State.HELD]


def test_a_link_of_one_copy_is_none_for_another(place: Place) -> None:
    mail = place.hold(BOB, CAROL)
    bobs = link(place, Deed.RELEASE, mail, 0)
    carols = link(place, Deed.RELEASE, mail, 1, who=CAROL)
    start = len("/act/") + 17
    mixed = bobs[:start] + carols[start : start + 3] + bobs[start + 3 :]
    place.browser().get(mixed, 410)


def test_a_link_expires(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = link(place, Deed.LOGIN)
    browser = place.browser()
    browser.get(path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 86_400.0)
    browser.post(path, 410)


def test_a_press_comes_from_our_page(place: Place) -> None:
    mail = place.hold(BOB)
    path = link(place, Deed.RELEASE, mail)
    browser = place.browser()
    browser.get(path)
    browser.csrf = "0" * 64
    browser.post(path, 403)
    assert browser.client.post(path).status_code == 400
    assert states(place, mail) == [State.HELD]


def test_users_release_by_themselves_what_the_settings_let_them(place: Place) -> None:
    mail = place.hold(BOB, CAROL)
    strict = place.hold(BOB, reasons=("score", "DMARC_QUARANTINE"))
    bob = place.browser("bob")
    assert f'action="/held/{mail.id}/release"' in bob.get(f"/held/{mail.id}")
    assert f'action="/held/{strict.id}/release"' not in bob.get(f"/held/{strict.id}")
    # Nothing is offered that would be refused.
    assert not [one for one in ("to", "attached", "learn") if f'name="{one}"' in bob.get(f"/held/{mail.id}")]
    bob.post(f"/held/{strict.id}/release", 409)
    bob.post(f"/held/{mail.id}/release", 409, to="eve@example.net")
    bob.post(f"/held/{mail.id}/release", 409, infected="1")
    bob.post(f"/held/{mail.id}/release")
    assert states(place, mail) == [State.SCHEDULED, State.HELD]
    bob.post(f"/held/{mail.id}/undo", 409)


@pytest.mark.parametrize("reasons", [("ATTACHMENT_EXECUTABLE",), ("score", "ATTACHMENT_EXECUTABLE")])
def test_a_reviewers_answer_for_others_copies_opens_nothing(place: Place, reasons: tuple[str, ...]) -> None:
    """Otto reviews example.org: that he releases a copy there is no yes to the copy of Bob, at no door."""
    mail = place.hold(BOB, "dan@example.org", reasons=reasons)
    place.browser("otto").post(f"/held/{mail.id}/release")
    assert states(place, mail) == [State.HELD, State.SCHEDULED]
    bob = place.browser("bob")
    bob.post(f"/held/{mail.id}/release", 409)
    user = Actor("cli:bob", Role.USER, frozenset({"score"}))
    with pytest.raises(ReleaseError, match="reviewer"):
        release_item(place.quarantine, Sender(never, never), mail.id, user, only=[BOB])
    path = link(place, Deed.RELEASE, mail)
    bob.get(path)
    bob.post(path, 200)
    assert states(place, mail) == [State.REQUESTED, State.SCHEDULED]


def test_two_recipients_release_their_copies_each(place: Place) -> None:
    """That one has answered the score is no reason for the other to ask a reviewer."""
    mail = place.hold(BOB, CAROL)
    place.browser("bob").post(f"/held/{mail.id}/release")
    place.browser("carol").post(f"/held/{mail.id}/release")
    assert states(place, mail) == [State.SCHEDULED, State.SCHEDULED]
