# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins of the web page: passwords, sessions, limits, and the table of who may do what."""

from __future__ import annotations

import imaplib
import time
from typing import TYPE_CHECKING, Literal

import pytest

from gateway.config import Config, ConfigError, load
from gateway.logins.sources import Answer, Credentials
from gateway.store.people import Person
from gateway.store.states import Role
from gateway.web import passwords
from gateway.web.attempts import WINDOW, Attempts
from gateway.web.login import LoginError
from gateway.web.may import TABLE, Act, Share, acts, may
from gateway.web.settings import WebSettings
from tests.websites import PASSWORD, Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS, THEIRS = "bob@example.com", "dan@example.org"
USER = Person("u", Role.USER, (OURS,))
REVIEWER = Person("r", Role.REVIEWER, (), ("example.com",))
ALL = Person("ra", Role.REVIEWER)
ADMINISTRATOR = Person("a", Role.ADMINISTRATOR)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


# ---------------------------------------------------------------- may


@pytest.mark.parametrize("act", Act)
def test_nobody_does_anything_with_others_mail(act: Act) -> None:
    for person in (USER, REVIEWER):
        assert not may(person, act, [THEIRS])
        assert not may(person, act, [])


@pytest.mark.parametrize(
    ("person", "mine", "shared"),
    [
        (USER, {"see", "request", "withdraw"}, {"see", "request", "withdraw"}),
        (
            REVIEWER,
            set(Act) - {"rule", "infected", "elsewhere"},
            {"see", "request", "withdraw", "release", "approve", "deny", "undo", "explain", "learn"},
        ),
        (ALL, set(Act) - {"infected"}, set(Act) - {"infected"}),
        (ADMINISTRATOR, set(Act), set(Act)),
    ],
)
def test_may(person: Person, mine: set[str], shared: set[str]) -> None:
    assert acts(person, [OURS]) == mine
    assert acts(person, [OURS, THEIRS]) == shared


def test_the_table_is_whole_and_roles_only_add() -> None:
    assert set(TABLE) == set(Act)
    assert all(share is not Share.ANY for act, (role, share) in TABLE.items() if act in ("delete", "source"))
    assert acts(USER, [OURS]) < acts(REVIEWER, [OURS]) < acts(ALL, [OURS]) < acts(ADMINISTRATOR, [OURS])


# ---------------------------------------------------------------- passwords and sessions


def test_logging_in_and_out(place: Place) -> None:
    browser = place.browser()
    assert browser.get("/held", 303) == ""
    assert browser.log_in(" Bob ") == "/held"
    assert "bob@example.com" in browser.get("/account")
    cookie = browser.client.cookies[place.site.cookie]
    assert len(cookie) >= 43
    browser.post("/logout")
    browser.client.cookies.set(place.site.cookie, cookie)
    browser.get("/held", 303)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("bob", "wrong wrong wrong"),
        ("bob", ""),
        ("nobody", PASSWORD),
        ("", PASSWORD),
        ("bob' OR '1'='1", PASSWORD),
        ("bob\x00", PASSWORD),
        ("bob", PASSWORD + "\x00"),
        ("bob", "x" * 5_000),
        ("../bob", PASSWORD),
    ],
)
def test_wrong_logins_look_alike(place: Place, name: str, password: str) -> None:
    browser = place.browser()
    browser.log_in(name, password, 403)
    assert "Name or password is wrong." in browser.page
    assert place.site.cookie not in browser.client.cookies


def test_the_form_belongs_to_the_browser(place: Place) -> None:
    browser, other = place.browser(), place.browser()
    browser.get("/login")
    other.get("/login")
    browser.csrf = other.csrf
    browser.post("/login", 403, name="bob", password=PASSWORD)
    assert place.site.cookie not in browser.client.cookies


@pytest.mark.parametrize(
    ("following", "there"),
    [
        ("/held?state=all", "/held?state=all"),
        ("//evil.example/", "/held"),
        ("/\\evil.example", "/held"),
        ("https://evil.example", "/held"),
        ("javascript:alert(1)", "/held"),
        ("/held\r\nSet-Cookie: a=b", "/held"),
    ],
)
def test_a_login_leads_to_a_page_of_ours(place: Place, following: str, there: str) -> None:
    browser = place.browser()
    browser.get("/login")
    assert browser.post("/login", name="bob", password=PASSWORD, next=following) == there


def test_a_login_makes_a_new_session_and_hides_it(place: Place) -> None:
    browser = place.browser()
    browser.client.cookies.set(place.site.cookie, "a" * 43)
    browser.get("/login")
    answer = browser.client.post(
        "/login",
        data={"csrf": browser.csrf, "name": "bob", "password": PASSWORD},
        follow_redirects=False,
    )
    cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("mailwarden="))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    assert "a" * 43 not in cookie


def test_behind_tls_cookies_are_bound_to_it(tmp_path: Path) -> None:
    settings = WebSettings(proxies=("127.0.0.0/8",), names=("mail.example.com",))
    place = Place(tmp_path, settings)
    assert place.site.cookie == "__Host-mailwarden"
    browser = place.browser(base="https://mail.example.com")
    browser.get("/login")
    answer = browser.client.post(
        "/login",
        data={"csrf": browser.csrf, "name": "bob", "password": PASSWORD},
        headers={"origin": "https://mail.example.com"},
        follow_redirects=False,
    )
    cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("__Host-"))
    assert "Secure" in cookie
    assert "Path=/;" in cookie
    assert answer.headers["strict-transport-security"]
    place.close()


def test_log_out_everywhere_and_idle_sessions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (place.browser("bob") for _ in "123")
    one.post("/logout", everywhere="1")
    two.get("/held", 303)
    three = place.browser("bob")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3_601.0)
    three.get("/held", 303)


def test_a_new_password_takes_the_old_one(place: Place) -> None:
    browser, other = place.browser("bob"), place.browser("bob")
    browser.post("/account/password", 403, old="wrong wrong", new="a new long one")
    browser.post("/account/password", 403, old=PASSWORD, new="short")
    browser.post("/account/password", old=PASSWORD, new="a new long one")
    browser.get("/held")
    other.get("/held", 303)
    place.browser().log_in("bob", status=403)
    place.browser().log_in("bob", "a new long one")


def test_who_is_removed_is_out_at_once(place: Place) -> None:
    browser = place.browser("bob")
    place.people.remove("bob", "cli:root")
    browser.get("/held", 303)


def test_wrong_passwords_are_limited_by_name_and_by_address(tmp_path: Path) -> None:
    place = Place(tmp_path, WebSettings(login_attempts=3))
    keeper = place.site.doorkeeper
    for n in range(3):
        with pytest.raises(LoginError, match="wrong-login"):
            keeper.let_in("bob", "wrong", f"192.0.2.{n}")
    with pytest.raises(LoginError, match="too-many-logins"):
        keeper.let_in("bob", PASSWORD, "192.0.2.99")
    assert keeper.let_in("rita", PASSWORD, "192.0.2.99").name == "rita"
    for name in ("x", "y", "z"):
        with pytest.raises(LoginError, match="wrong-login"):
            keeper.let_in(name, "wrong", "2001:db8::1")
        # Who can log in does not wash away what failed before from there.
    with pytest.raises(LoginError, match="too-many-logins"):
        keeper.let_in("rita", PASSWORD, "2001:db8::2")
    assert keeper.let_in("rita", PASSWORD, "2001:db8:0:1::2").name == "rita"
    place.close()


@pytest.mark.parametrize(
    ("fields", "client"),
    [
        (["198.51.100.1"], "198.51.100.1"),
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        # A proxy that adds a field of its own, behind the one that the client made up.
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9, 192.0.2.8"], "203.0.113.9"),
        (["203.0.113.9:40001"], "203.0.113.9"),
        (["[2001:db8::9]:40001"], "2001:db8::9"),
        (["2001:db8::9"], "2001:db8::9"),
        ([], "192.0.2.7"),
    ],
)
def test_a_client_does_not_choose_its_address(tmp_path: Path, fields: list[str], client: str) -> None:
    place = Place(tmp_path, WebSettings(proxies=("192.0.2.0/24",), names=("localhost",), login_attempts=1))
    browser = place.browser(base="https://localhost")
    browser.get("/login")
    sent = [("x-forwarded-for", one) for one in fields]
    form = {"csrf": browser.csrf, "name": "bob", "password": "wrong"}
    assert browser.client.post("/login", data=form, headers=sent).status_code == 403
    with pytest.raises(LoginError, match="too-many-logins"):
        place.site.doorkeeper.let_in("rita", PASSWORD, client)
    place.close()


def test_attempts_are_forgotten_in_time_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(2)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    attempts.failed("a", "b")
    assert attempts.wait("a") == 0
    attempts.failed("a")
    assert 0 < attempts.wait("b", "a") <= WINDOW
    attempts.succeeded("a")
    assert attempts.wait("a") == 0
    attempts.failed("a")
    for n in range(11_000):
        attempts.failed(f"k{n}")
    assert attempts.wait("a") == 0, "the oldest go"
    attempts.failed("c")
    attempts.failed("c")
    monkeypatch.setattr(time, "monotonic", lambda: now + WINDOW + 1)
    assert attempts.wait("c") == 0


def test_passwords_are_argon2id() -> None:
    made = passwords.made(PASSWORD)
    assert made.startswith("$argon2id$")
    assert passwords.fits(PASSWORD, made)
    assert not passwords.fits(PASSWORD, "")
    assert not passwords.fits(PASSWORD, "$argon2id$broken")
    assert not passwords.fits("\ud800", made)
    for wrong in ("short", "x" * 513, "a long one\0"):
        with pytest.raises(ValueError, match="characters"):
            passwords.made(wrong)


# ---------------------------------------------------------------- the users' mail server


IMAP = WebSettings(users="imaps:127.0.0.1:1", user_domains=("example.com",), users_timeout=2.0)


class Asked:
    """A source that knows one password, and what it was asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def check(self, claim: Credentials) -> Answer:
        self.seen.append(claim.name)
        if claim.password == "broken":
            raise imaplib.IMAP4.abort("gone")
        status: Literal["yes", "no", "later"] = "later" if claim.password == "later" else "no"
        return Answer("yes" if claim.password == "right" else status, claim.name)


def test_the_mail_server_says_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, IMAP)
    keeper, asked = place.site.doorkeeper, Asked()
    monkeypatch.setattr(keeper, "_source", asked)
    found = keeper.let_in("Erin@example.com", "right", "192.0.2.1")
    assert (found.role, found.addresses) == (Role.USER, ("erin@example.com",))
    for name in ("erin@example.com", "erin@example.org", "erin", 'a"b@example.com', "a\r\nb@example.com"):
        with pytest.raises(LoginError, match="wrong-login"):
            keeper.let_in(name, "wrong", "192.0.2.2")
    with pytest.raises(LoginError, match="wrong-login"):
        keeper.let_in("bob", "right", "192.0.2.3")
    for password in ("", "a\r\nb", "x" * 600):
        with pytest.raises(LoginError, match="wrong-login"):
            keeper.let_in("frank@example.com", password, "192.0.2.4")
    assert asked.seen == ["erin@example.com", "erin@example.com"], "no other domain, no local login"
    for password in ("later", "broken"):
        with pytest.raises(LoginError, match="logins-later"):
            keeper.let_in("erin@example.com", password, "192.0.2.5")
    place.close()


def test_a_mail_server_that_does_not_answer_lets_nobody_in(tmp_path: Path) -> None:
    place = Place(tmp_path, IMAP)
    with pytest.raises(LoginError, match="logins-later"):
        place.site.doorkeeper.let_in("erin@example.com", "password", "192.0.2.1")
    place.close()


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('[web]\nlisten = "0.0.0.0:8895"\n', "in clear"),
        ('[web]\nlisten = "nowhere"\n', "host:port"),
        ('[web]\ncertificate = "a.pem"\n', "together"),
        ('[web]\nproxies = ["all"]\n', "all"),
        ('[web]\nusers = "imaps:imap.example.com"\n', "user_domains"),
        ('[web]\nusers = "ldap:x"\nuser_domains = ["example.com"]\n', "ldap"),
        ('[milter]\nlisten = ["inet:127.0.0.1:8895"]\n[web]\nenabled = true\n', "twice"),
    ],
)
def test_settings_that_would_be_dangerous(tmp_path: Path, text: str, wrong: str) -> None:
    file = tmp_path / "mailwarden.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=wrong):
        load(file)


def test_it_is_off_and_on_loopback_unless_told_otherwise() -> None:
    assert not Config().web.enabled
    assert Config().web.listen.startswith("127.0.0.1:")


def test_a_page_with_a_filter_is_gone_on_with(place: Place) -> None:
    browser = place.browser()
    answer = browser.client.get("/held?state=requested&domain=example.com", follow_redirects=False)
    to = answer.headers["location"]
    assert to == "/login?next=/held%3Fstate%3Drequested%26domain%3Dexample.com"
    page = browser.get(to)
    assert 'name="next" value="/held?state=requested&amp;domain=example.com"' in page
    for evil in ("/held?x=<script>", "/held?x=%0d%0aSet-Cookie:%20a=b", "//example.org/"):
        answer = browser.client.get(evil, follow_redirects=False)
        assert "<script>" not in browser.get(answer.headers.get("location", "/login"))
        assert "set-cookie: a" not in str(answer.headers).lower()
