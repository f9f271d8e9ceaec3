# SPDX-License-Identifier: GPL-2.0-or-later
"""What a server of OpenID Connect may be asked, and which of its keys and answers count."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, RSAKey

from gateway.web import server
from gateway.web.oidc import Provider as Ours
from gateway.web.server import MissingError
from gateway.web.settings import OidcSettings, WebSettings
from gateway.web.signon import Attempt, OidcError
from tests.provider import Provider, providing, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

CALLBACK = "http://localhost/login/oidc/callback"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Provider, str]]:
    with providing(tmp_path_factory.mktemp("oidc")) as made:
        yield made


@pytest.fixture
def provider(running: tuple[Provider, str]) -> Provider:
    return running[0].honest()


def log_in(running: tuple[Provider, str], provider: Provider, folder: Path, **more: Any) -> str:
    """Log in at a server that was never asked before; the address."""
    ours = Ours(settings_for(running, folder, **more).oidc)
    attempt = Attempt.begin("/held")
    answer = provider.authorize(ours.address(attempt, CALLBACK))
    return ours.email(attempt, answer, CALLBACK)


# ---------------------------------------------------------------- keys


def test_keys_that_do_not_count(running: tuple[Provider, str], provider: Provider, tmp_path: Path) -> None:
    own = provider.key.as_dict(private=False)
    with pytest.warns(SecurityWarning):
        weak = RSAKey.generate_key(1024, {"kid": "one"})
    for published in (
        [],
        [{**own, "use": "enc"}],
        [{"kty": "oct", "kid": "one", "k": "AAAA"}],
        [weak.as_dict(private=False)],
        [{"kty": "RSA", "kid": "one"}, "x", None],
    ):
        provider.published = published  # type: ignore[assignment]  # on purpose
        with pytest.raises(OidcError):
            log_in(running, provider, tmp_path)
    provider.published = [{"kty": "future"}, {"kty": "RSA", "kid": "one"}, own]
    assert log_in(running, provider, tmp_path) == "bob@example.com"


def test_a_new_key_is_asked_for_once_in_a_while(
    running: tuple[Provider, str], provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Ours(settings_for(running, tmp_path).oidc)
    first = provider.key

    def again() -> str:
        attempt = Attempt.begin("/held")
        return ours.email(attempt, provider.authorize(ours.address(attempt, CALLBACK)), CALLBACK)

    assert again() == again() == "bob@example.com"
    provider.key = RSAKey.generate_key(2048, {"kid": "two"})
    provider.head = {"alg": "RS256", "kid": "two"}
    try:
        for _ in range(3):
            with pytest.raises(OidcError):
                again()
        assert provider.asked.count("/keys") == 1
        monkeypatch.setattr("gateway.web.oidc._AGAIN", 0.0)
        assert again() == "bob@example.com"
        assert provider.asked.count("/keys") == 2
    finally:
        provider.key = first


def test_other_algorithms_are_only_those_of_the_settings(
    running: tuple[Provider, str], provider: Provider, tmp_path: Path
) -> None:
    provider.head = {"alg": "RS512", "kid": "one"}
    with pytest.raises(OidcError, match="not allowed"):
        log_in(running, provider, tmp_path)
    assert log_in(running, provider, tmp_path, algorithms=("RS512",)) == "bob@example.com"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"algorithms": ["none"]}, OidcSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"algorithms": ["HS256"]}, OidcSettings)


# ---------------------------------------------------------------- what it says of itself


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://localhost"},
        {"token_endpoint": "https://169.254.169.254/token"},
        {"token_endpoint": "http://localhost/token"},
        {"token_endpoint": "file:///etc/passwd"},
        {"jwks_uri": "https://localhost:1/keys"},
        {"jwks_uri": "https://user@localhost/keys"},
        {"jwks_uri": 7},
        {"authorization_endpoint": "https://example.org/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"token_endpoint": None},
    ],
    ids=str,
)
def test_only_the_issuers_host_is_asked(
    running: tuple[Provider, str], provider: Provider, tmp_path: Path, metadata: dict[str, Any]
) -> None:
    provider.metadata = metadata
    with pytest.raises(OidcError):
        log_in(running, provider, tmp_path)
    assert provider.asked == ["/.well-known/openid-configuration"]


def test_the_users_are_asked_for_at_its_host_alone(
    running: tuple[Provider, str], provider: Provider, tmp_path: Path
) -> None:
    provider.userinfo = {"sub": "user-7", "email": "bob@example.com", "email_verified": True}
    provider.metadata = {"userinfo_endpoint": "https://127.0.0.1:1/userinfo"}
    with pytest.raises(OidcError, match="not at the issuer's host"):
        log_in(running, provider, tmp_path)


def test_nothing_is_followed_and_nothing_is_too_long(
    running: tuple[Provider, str], provider: Provider, tmp_path: Path
) -> None:
    def moved(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(302)
        request.send_header("Location", f"{provider.issuer}/elsewhere")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return True

    def endless(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b" " * 300_000)
        return True

    def slow(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(200)
        request.end_headers()
        with contextlib.suppress(OSError):  # the client has gone
            for _ in range(200):
                request.wfile.write(b" ")
                request.wfile.flush()
                time.sleep(0.1)
        return True

    for before, why in ((moved, "302"), (endless, "more than"), (slow, "timed out")):
        provider.before = before
        began = time.monotonic()
        with pytest.raises(OidcError, match=why):
            log_in(running, provider, tmp_path, timeout=0.5 if before is slow else 10.0)
        assert time.monotonic() - began < 8


def test_a_certificate_of_others_is_not_taken(
    running: tuple[Provider, str], provider: Provider, tmp_path: Path
) -> None:
    with pytest.raises(OidcError, match="certificate not accepted"):
        log_in(running, provider, tmp_path, ca_file="")


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "http://id.example.com", "client_id": "x"},
        {"issuer": "id.example.com", "client_id": "x"},
        {"issuer": "https://id.example.com?x=1", "client_id": "x"},
        {"issuer": "https://id.example.com"},
        {"issuer": "https://id.example.com", "client_id": "x", "algorithms": []},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, OidcSettings)


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("x\n")
    path.chmod(0o644)
    oidc = OidcSettings(issuer="https://id.example.com", client_id="x", client_secret_file=str(path))
    with pytest.raises(MissingError, match=r"web\.oidc"):
        server.check(WebSettings(oidc=oidc))


def test_keys_on_curves(running: tuple[Provider, str], provider: Provider, tmp_path: Path) -> None:
    first, curve = provider.key, ECKey.generate_key("P-256", {"kid": "three"})
    provider.key, provider.head = curve, {"alg": "ES256", "kid": "three"}  # type: ignore[assignment]  # as good
    try:
        assert log_in(running, provider, tmp_path) == "bob@example.com"
    finally:
        provider.key = first
