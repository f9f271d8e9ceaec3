# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins by OpenID Connect: who is let in, and all that must not let anybody in."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry

from gateway.store.people import Person
from gateway.store.states import Role
from gateway.web import attempts
from gateway.web.oidc import Provider as Ours
from gateway.web.signon import WINDOW, Attempt, OidcError
from tests.provider import CLIENT, Provider, come_back, providing, settings_for
from tests.websites import Browser, Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANY = JWSRegistry(algorithms=["RS256"], strict_check_header=False)
CALLBACK = "http://localhost/login/oidc/callback"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Provider, str]]:
    with providing(tmp_path_factory.mktemp("oidc")) as made:
        yield made


@pytest.fixture
def provider(running: tuple[Provider, str]) -> Provider:
    return running[0].honest()


@pytest.fixture
def place(running: tuple[Provider, str], provider: Provider, tmp_path: Path) -> Iterator[Place]:
    del provider
    made = Place(tmp_path, settings_for(running, tmp_path))
    yield made
    made.close()


def begin(browser: Browser, provider: Provider, following: str = "") -> dict[str, str]:
    """Begin a login; what the browser brings back."""
    answer = browser.client.get(
        "/login/oidc", params={"next": following} if following else {}, follow_redirects=False
    )
    assert answer.status_code == 303, answer.text
    return provider.authorize(answer.headers["location"])


def who(browser: Browser) -> str:
    """Who is logged in, "" for nobody."""
    answer = browser.client.get("/account", follow_redirects=False)
    return answer.text.partition("<h1>")[2].partition("</h1>")[0] if answer.status_code == 200 else ""


def finish(browser: Browser, answer: dict[str, str], status: int = 303) -> str:
    """Come back; where to the browser is sent then."""
    done = browser.client.get(come_back(answer), follow_redirects=False)
    assert done.status_code == status, done.text[:800]
    return done.headers.get("location", "")


def refused(place: Place, provider: Provider) -> None:
    """Nobody is let in by a whole login."""
    browser = place.browser()
    finish(browser, begin(browser, provider), 403)
    assert who(browser) == ""
    assert place.site.cookie not in browser.client.cookies


# ---------------------------------------------------------------- who is let in


def test_a_person_logs_in(place: Place, provider: Provider) -> None:
    browser = place.browser()
    assert "Log in with Example ID" in browser.get("/login")
    mine, other = place.hold("bob@example.com"), place.hold("carol@example.com")
    assert finish(browser, begin(browser, provider)) == "/held"
    assert who(browser) == "bob"
    page = browser.get("/held")
    assert mine.id in page
    assert other.id not in page
    assert "Example ID" in browser.get("/account")
    assert "mailwarden-oidc" not in browser.client.cookies


@pytest.mark.parametrize(
    ("email", "name"),
    [
        ("BOB@Example.com", "bob"),
        ("someone@example.com", "someone@example.com"),  # a user of that mailbox
        ("boss@example.net", "boss@example.net"),
        ("shared@example.net", ""),  # two people have it
        ("eve@example.org", ""),
        ("bob@example.com.example.org", ""),
        ("mailbox:bob@example.com", ""),
        ('"bob@example.com"@example.org', ""),
        ("bob@example.com\n", ""),
        ("", ""),
        (["bob@example.com"], ""),
        (None, ""),
    ],
)
def test_the_address_says_who(place: Place, provider: Provider, email: object, name: str) -> None:
    place.people.put(Person("boss@example.net", Role.ADMINISTRATOR), "cli:root")
    for one in ("sam", "sue"):
        place.people.put(Person(one, Role.REVIEWER, ("Shared@example.net",)), "cli:root")
    provider.email = email
    browser = place.browser()
    finish(browser, begin(browser, provider), 303 if name else 403)
    assert who(browser) == name


@pytest.mark.parametrize("verified", [False, None, "true", 1, "false"])
def test_only_a_verified_address_counts(place: Place, provider: Provider, verified: object) -> None:
    provider.verified = verified
    refused(place, provider)


def test_what_the_server_says_of_the_user_beside_the_token(place: Place, provider: Provider) -> None:
    provider.userinfo = {"sub": "user-8", "email": "bob@example.com", "email_verified": True}
    refused(place, provider)
    provider.userinfo["sub"] = "user-7"
    browser = place.browser()
    finish(browser, begin(browser, provider))
    assert who(browser) == "bob"


def test_the_secret_in_the_form(running: tuple[Provider, str], provider: Provider, tmp_path: Path) -> None:
    provider.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    made = Place(tmp_path, settings_for(running, tmp_path))
    browser = made.browser()
    finish(browser, begin(browser, provider))
    assert who(browser) == "bob"
    made.close()


# ---------------------------------------------------------------- tokens


def unsigned(head: dict[str, Any], claims: dict[str, Any]) -> str:
    """A token without a signature."""
    return ".".join(part(json.dumps(one).encode()) for one in ({**head, "alg": "none"}, claims)) + "."


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_public_key(key: RSAKey, alg: str = "HS256") -> Any:
    """Signed by what everybody knows, as if it were a shared secret."""

    def sign(head: dict[str, Any], claims: dict[str, Any]) -> str:
        signed = ".".join(part(json.dumps(one).encode()) for one in ({**head, "alg": alg}, claims))
        return f"{signed}.{part(hmac.digest(key.as_pem(private=False), signed.encode(), 'sha256'))}"

    return sign


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://localhost:1"},
        {"iss": None},
        {"aud": "another"},
        {"aud": []},
        {"aud": None},
        {"aud": [CLIENT, "another"]},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"azp": "another"},
        {"exp": 1_000_000_000},
        pytest.param({"exp": int(time.time()) - 120}, id="expired"),
        {"exp": None},
        {"exp": "soon"},
        pytest.param({"iat": int(time.time()) + 3_600}, id="issued later"),
        {"iat": None},
        pytest.param({"nbf": int(time.time()) + 3_600}, id="not yet valid"),
        {"nonce": "another"},
        {"nonce": None},
        {"nonce": ""},
        {"sub": None},
        {"sub": 7},
    ],
    ids=str,
)
def test_a_token_that_is_not_for_this_login(place: Place, provider: Provider, claims: dict[str, Any]) -> None:
    provider.claims = claims
    refused(place, provider)


def test_a_token_for_several_and_a_head_with_more(place: Place, provider: Provider) -> None:
    provider.claims = {"aud": ["another", CLIENT], "azp": CLIENT}
    provider.head = {"alg": "RS256", "kid": "one", "acme": "x"}
    browser = place.browser()
    finish(browser, begin(browser, provider))
    assert who(browser) == "bob"


def test_tokens_that_the_server_did_not_sign(place: Place, provider: Provider) -> None:
    stranger = RSAKey.generate_key(2048, {"kid": "one"})

    signers: list[Any] = [
        unsigned,
        by_public_key(provider.key),
        by_public_key(provider.key, "none"),
        lambda head, claims: jwt.encode(head, claims, stranger),
        lambda head, claims: jwt.encode({**head, "jwk": stranger.as_dict(private=False)}, claims, stranger),
        lambda head, claims: jwt.encode(head, claims, provider.key)[:-4] + "AAAA",
        lambda _head, _claims: "x",
        lambda _head, _claims: "a.b.c",
        lambda _head, _claims: "é.é.é",
        lambda head, claims: jwt.encode(head, {**claims, "pad": "x" * 20_000}, provider.key),
        lambda head, claims: jwt.encode(
            {**head, "crit": ["acme"], "acme": 1}, claims, provider.key, registry=ANY
        ),
    ]
    for sign in signers:
        provider.sign = sign
        place.site.doorkeeper._attempts._failed.clear()  # so many wrong ones make one wait
        refused(place, provider)


# ---------------------------------------------------------------- browsers


def test_an_answer_fits_one_browser_alone(place: Place, provider: Provider) -> None:
    """Login CSRF: somebody sends you back with their code."""
    theirs, yours = place.browser(), place.browser()
    answer = begin(theirs, provider)
    finish(yours, answer, 403)  # nothing was begun here
    begin(yours, provider)
    finish(yours, answer, 403)  # and now another login
    assert who(yours) == ""


def test_an_answer_is_good_once(place: Place, provider: Provider) -> None:
    browser = place.browser()
    answer = begin(browser, provider)
    cookie = browser.client.cookies["mailwarden-oidc"]
    finish(browser, answer)
    session = browser.client.cookies[place.site.cookie]
    other = place.browser()
    other.client.cookies.set("mailwarden-oidc", cookie)
    finish(other, answer, 403)  # the server takes a code once
    assert who(other) == ""
    assert finish(browser, answer, 403) == ""
    assert browser.client.cookies[place.site.cookie] == session


def test_a_token_of_another_login_is_not_taken(place: Place, provider: Provider) -> None:
    """A server, or who sits between, gives the token of an earlier login."""
    browser = place.browser()
    old = provider.token("of an earlier login")
    provider.sign = lambda _head, _claims: old
    finish(browser, begin(browser, provider), 403)


def test_a_login_makes_a_session_of_its_own(place: Place, provider: Provider) -> None:
    browser = place.browser()
    fixed = "x" * 43
    browser.client.cookies.set(place.site.cookie, fixed)
    answer = begin(browser, provider)
    done = browser.client.get(come_back(answer), follow_redirects=False)
    made = done.headers["set-cookie"]
    assert fixed not in made
    other = place.browser()
    other.client.cookies.set(place.site.cookie, fixed)
    assert who(other) == ""
    assert "HttpOnly" in made
    assert "samesite=lax" in made.lower()


@pytest.mark.parametrize(
    ("following", "to"),
    [
        ("/held?state=all", "/held?state=all"),
        ("https://example.org/", "/held"),
        ("//example.org/", "/held"),
        ("/\\example.org", "/held"),
        ("javascript:alert(1)", "/held"),
        ("/held\r\nSet-Cookie: a=b", "/held"),
    ],
)
def test_nobody_is_sent_elsewhere(place: Place, provider: Provider, following: str, to: str) -> None:
    browser = place.browser()
    assert finish(browser, begin(browser, provider, following)) == to


def test_a_changed_cookie_fits_nothing(place: Place, provider: Provider) -> None:
    browser = place.browser()
    answer = begin(browser, provider)
    began, secret, following = browser.client.cookies["mailwarden-oidc"].strip('"').split(".", 2)
    for cookie in (
        f"{began}.{secret}.https://example.org/",
        f"{int(began) + 1}.{secret}.{following}",
        f"{began}.{secret[:-1]}A.{following}",
        f"{int(began) - WINDOW - 1}.{secret}.{following}",
        f"{int(began) + 9_999}.{secret}.{following}",
        f"{began}.short.{following}",
        "x",
        "",
    ):
        attempt = Attempt.read(cookie)
        assert attempt is None or attempt.state != answer["state"]


@pytest.mark.parametrize(
    "change",
    [
        {"state": ""},
        {"state": "é"},
        {"code": ""},
        {"code": "x" * 3_000},
        {"error": "access_denied"},
        {"iss": "https://example.org"},
    ],
    ids=str,
)
def test_answers_that_are_none(place: Place, provider: Provider, change: dict[str, str]) -> None:
    browser = place.browser()
    finish(browser, begin(browser, provider) | change, 403)
    assert who(browser) == ""
    assert "<script" not in browser.page


def test_the_answer_says_whose_it_is_where_the_server_promises_that(
    running: tuple[Provider, str], provider: Provider, tmp_path: Path
) -> None:
    provider.metadata = {"authorization_response_iss_parameter_supported": True}
    ours, attempt = Ours(settings_for(running, tmp_path).oidc), Attempt.begin("/held")
    answer = provider.authorize(ours.address(attempt, CALLBACK))
    with pytest.raises(OidcError, match="whose it is"):
        ours.email(attempt, answer, CALLBACK)
    assert ours.email(attempt, answer | {"iss": provider.issuer}, CALLBACK) == "bob@example.com"


def test_who_fails_often_waits(place: Place, provider: Provider) -> None:
    browser = place.browser()
    provider.email = "eve@example.org"
    for _ in range(5):
        finish(browser, begin(browser, provider), 403)
    provider.email = "bob@example.com"
    asked = len(provider.asked)
    finish(browser, begin(browser, provider), 403)
    assert len(provider.asked) == asked
    assert attempts.WINDOW > 0


# ---------------------------------------------------------------- no server


def test_a_server_that_is_down_is_not_asked_again_at_once(
    running: tuple[Provider, str], provider: Provider, tmp_path: Path
) -> None:
    settings = settings_for(running, tmp_path, issuer="https://localhost:1")
    place = Place(tmp_path, settings)
    browser = place.browser()
    began = time.monotonic()
    for _ in range(20):
        assert "could not be logged in" in browser.get("/login/oidc", 403)
    assert time.monotonic() - began < 5
    assert provider.asked == []
    place.close()


def test_without_settings_there_is_no_such_page(tmp_path: Path) -> None:
    place = Place(tmp_path)
    browser = place.browser()
    browser.get("/login/oidc", 404)
    browser.get("/login/oidc/callback", 404)
    assert "oidc" not in browser.get("/login")
    place.close()
