# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of the pages: all languages have all of them, and pages none of their own; who gets which."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gateway
from gateway.data import data_dir
from gateway.policy import brief
from gateway.policy.patterns import RuleError
from gateway.store import decisions, options, states
from gateway.store.held import DELIVERED_WITHOUT
from gateway.store.states import Actor, Event, Role, State
from gateway.web import app, figures, pages, site
from gateway.web.words import FIRST, load_all, wanted
from tests.stored import execute
from tests.unit.test_web import STRANGE
from tests.websites import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = data_dir("rules")
WORDS = load_all(RULES)
TEMPLATES = sorted((site._HERE / "templates").glob("*.html"))  # the pages themselves
BOB = "bob@example.com"
# What stays as it is in each language: names of ours, of header fields, and of what is typed.
SAME = {"domain", "model", "role-administrator"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def asked() -> set[str]:
    """All words that code and pages ask for."""
    text = "\n".join(path.read_text("utf-8") for path in TEMPLATES)
    found = set(re.findall(r'\bt\("([a-z-]+[a-z])"', text))
    for start in ("state-", "role-", "deed-", "did-", "many-"):
        assert f't("{start}" ~' in text
    found |= {f"state-{word}" for word in (*State, *pages.STATES, *figures._JUDGED)}  # its words
    found |= {f"done-{word}" for word in pages.DONE}
    found |= {f"role-{word}" for word in ("user", "reviewer", "administrator")}
    found |= {f"deed-{word}" for word in ("release", "spam", "login")}
    found |= {f"{start}-{word}" for start in ("did", "many") for word in pages.MANY}
    found |= {f"many-{word}-one" for word in pages.MANY}
    found |= {title for _, title, _ in app._FAILURES.values()}  # as above
    return found


def test_each_language_has_all_words_and_no_other() -> None:
    assert list(WORDS) == ["en", "id"]
    assert len({tuple(words.texts) for words in WORDS.values()}) == 1  # in one order, too
    assert asked() <= WORDS[FIRST].texts.keys()
    alike = {name for name, text in WORDS["en"].texts.items() if WORDS["id"].texts[name] == text}
    assert alike == SAME


def test_no_word_is_left_over() -> None:
    code = "\n".join(path.read_text("utf-8") for path in (*TEMPLATES, *site._HERE.glob("*.py")))  # as above
    for name in WORDS[FIRST].texts.keys() - asked():
        assert f'"{name}"' in code, name


def test_the_pages_have_no_words_of_their_own() -> None:
    for path in TEMPLATES:
        text = re.sub(r"\{[{%#].*?[}%#]\}", "\0", path.read_text("utf-8"), flags=re.DOTALL)
        said = re.sub(r"<[^>]*>", "\n", text)
        own = set(re.findall(r"[A-Za-z]{2,}", said)) - {"Mailwarden", "Id"}
        assert not own, (path.name, own)
        for name in ("aria-label", "placeholder", "title", "alt"):
            for value in re.findall(rf'{name}="([^"\0]*[A-Za-z]{{2,}}[^"]*)"', text):
                assert value == "score, DMARC_REJECT", (path.name, value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('undo = "Urungkan"', ""), "undo: not the keys"),
        (('undo = "Urungkan"', 'undo = "Urungkan"\nmine = "x"'), "mine: not the keys"),
        (("{seconds} detik", "{second} detik"), "they-go-out: not the braces"),
        (("{seconds} detik", "{seconds detik"), "they-go-out"),
        (('undo = "Urungkan"', 'undo = "<b>"'), "undo: one line of text"),
        (('undo = "Urungkan"', 'undo = ""'), "undo: one line of text"),
        (('undo = "Urungkan"', "undo = 1"), "undo: one line of text"),
        (('undo = "Urungkan"', "undo ="), "web.id.toml"),
    ],
)
def test_a_translation_that_does_not_fit_is_refused(
    tmp_path: Path, change: tuple[str, str], why: str
) -> None:
    for code in ("en", "id"):
        shutil.copy(RULES / f"web.{code}.toml", tmp_path)
    text = (tmp_path / "web.id.toml").read_text("utf-8")
    assert change[0] in text
    (tmp_path / "web.id.toml").write_text(text.replace(*change), "utf-8")
    with pytest.raises(RuleError, match=why):
        load_all(tmp_path)


@pytest.mark.parametrize(
    ("chosen", "accepted", "code"),
    [
        ("", "", "en"),
        ("", "id", "id"),
        ("", "ID-id,id;q=0.9,en;q=0.8", "id"),
        ("", "de, en;q=0.5, id;q=0.7", "id"),
        ("", "en, id", "en"),
        ("", "id;q=0, fr", "en"),
        ("", "id;q=x", "en"),
        ("", "../id", "en"),
        ("", "x," * 10_000 + "id", "en"),
        ("en", "id", "en"),
        ("id", "en", "id"),
        ("xx", "id", "id"),
        ("../../etc/passwd", "en", "en"),
    ],
)
def test_who_gets_which(chosen: str, accepted: str, code: str) -> None:
    assert wanted(chosen, accepted, WORDS) == code


def test_the_language_is_that_of_the_browser_until_another_is_chosen(place: Place) -> None:
    browser = place.browser("bob")
    browser.client.headers["accept-language"] = "id-ID,id;q=0.9"
    page = browser.get("/held")
    assert '<html lang="id">' in page
    assert "Pesan yang ditahan" in page
    browser.get("/account")
    browser.post("/account/language", language="en")
    assert '<html lang="en">' in browser.get("/held")
    browser.post("/logout")
    assert "Log in" in browser.get("/login")
    other = place.browser("bob")
    other.get("/account")
    other.post("/account/language", language="id")
    assert "Statistik" in other.get("/statistics")
    other.get("/account")
    other.post("/account/language", language="<script>")
    assert '<html lang="en">' in other.get("/held")


def test_every_page_speaks_it(place: Place) -> None:
    mail = place.hold(BOB, raw=STRANGE)
    for name in ("bob", "rosa", "anna"):
        browser = place.browser(name)
        browser.client.headers["accept-language"] = "id"
        for path in ("/held", "/held?state=all", "/statistics", "/account", f"/held/{mail.id}"):
            page = browser.get(path)
            for english in (
                ">Release<",
                "Held mail",
                "points",
                ">Search<",
                "Log out",
                ">held<",
                "Statistics",
            ):
                assert english not in page, (path, english)
        assert "Tidak ada halaman" in browser.get("/held/1M80JFSJGNG4SMAS", 404)
    rosa = place.browser("rosa")
    rosa.client.headers["accept-language"] = "id"
    rosa.get(f"/held/{mail.id}")
    assert "Hapus pesan ini?" in rosa.post(f"/held/{mail.id}/delete", 200)
    assert "Lepaskan 1 pesan?" in rosa.post("/held", 200, what="release", item=mail.id)
    rosa.get(f"/held/{mail.id}")
    rosa.post(f"/held/{mail.id}/deny")
    assert "Pesan ditolak" in rosa.get(f"/held/{mail.id}?done=denied")
    stranger = place.browser()
    stranger.client.headers["accept-language"] = "id"
    stranger.log_in("bob", "wrong", 403)
    assert "Nama atau kata sandi salah." in stranger.page


def test_values_are_escaped_in_each_language() -> None:
    for words in WORDS.values():
        said = words.say("log-in-with", name="<script>{x}</script>")
        assert "&lt;script&gt;{x}" in said


# ---------------------------------------------------------------- what the store says

INDONESIAN = brief.load(RULES, "id")
HERE = Path(gateway.__file__).parent
SPEAKERS = (
    *(HERE / "store").glob("*.py"),
    HERE / "delivery/release.py",
    HERE / "digest/act.py",
    *(HERE / "web" / f"{name}.py" for name in ("door", "held", "pages", "passwords", "site")),
)
TOLD = {"RefusedError", "GrantError", "AskedError", "ReleaseError"}  # which people read
VALUES = {options.__file__, pages.__file__, str(HERE / "web/passwords.py")}  # ValueErrors of these, too


def sentences(path: Path) -> Iterator[str]:
    """What a module tells people, with "7" for each value."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=kind), args=[ast.Constant() | ast.JoinedStr(), *_])):
                if kind in TOLD or (kind == "ValueError" and str(path) in VALUES):
                    yield _text(node.exc.args[0])  # type: ignore[union-attr]  # matched
            case ast.FunctionDef(name="_absent" | "refusal"):
                found = (one for one in ast.walk(node) if isinstance(one, ast.Constant | ast.JoinedStr))
                yield from (
                    text for one in found if " " in (text := _text(one)) and not text.startswith("Why ")
                )


def _text(node: ast.expr) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(one.value) if isinstance(one, ast.Constant) else "7" for one in parts)


def test_what_the_store_says_is_said_in_indonesian() -> None:
    said = {text for path in SPEAKERS for text in sentences(path)}
    assert len(said) > 35
    parts = {" may not do this: it takes the role "}  # of one that is asked for below
    said |= {states.refusal(Event.DELETE, Actor("web:bob", Role.USER)), "12 or more", "no such message"}
    said |= {DELIVERED_WITHOUT, *Event, "held", "answered", "convicted", "judged", "reported"}
    for text in said - parts:
        assert INDONESIAN.say(text) != text, text
    english = brief.load(RULES, "en")
    assert [english.say(text) for text in said] == list(said)
    assert decisions.RefusedError.__name__ in TOLD


def test_values_in_a_sentence_stay_as_they_are() -> None:
    who = states.refusal(Event.DELETE, Actor("web:{role}", Role.USER))
    assert INDONESIAN.say(who) == "web:{role} tidak boleh melakukannya: perlu peran reviewer"
    assert INDONESIAN.say("'<b>' is no range; write 8..15, 8.. or ..100k").startswith("'<b>' bukan rentang")
    for other in ("", "it", "is no range", "write one of", "longer than", "550 5.1.1 no such user"):
        assert INDONESIAN.say(other) == other


def test_a_sentence_with_other_values_is_refused(tmp_path: Path) -> None:
    text = (RULES / "words.id.toml").read_text("utf-8")
    (tmp_path / "words.id.toml").write_text(
        text.replace('"{text} bukan waktu', '"{kata} bukan waktu'), "utf-8"
    )
    with pytest.raises(RuleError, match="not the braces"):
        brief.load(tmp_path, "id")


def test_refusals_are_told_in_indonesian(place: Place) -> None:
    rosa = place.browser("rosa")
    rosa.client.headers["accept-language"] = "id"
    mail, infected = place.hold(BOB), place.hold(BOB, reasons=("VIRUS",))
    rosa.get(f"/held/{mail.id}")
    rosa.post(f"/held/{mail.id}/deny")
    rosa.get(f"/held/{mail.id}")
    page = rosa.post(f"/held/{mail.id}/request", 409)
    assert "Tidak dilakukan: peninjau sudah menolaknya." in page
    assert "mailwarden: ditahan" in page
    page = rosa.post("/held", 200, what="release", item=[infected.id, "0" * 16], sure="1")
    assert "hanya dilepaskan oleh administrator" in page
    assert "tidak ada pesan seperti itu" in page
    assert "bukan rentang" in rosa.get("/held?score=x", 400)
    execute(place.database, f"UPDATE quarantine_recipients SET note = '{DELIVERED_WITHOUT}'")
    assert "diantarkan tanpa yang dipangkas" in rosa.get(f"/held/{mail.id}")
    assert "tidak lengkap" in rosa.get("/act/x", 410)
