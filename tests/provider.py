# SPDX-License-Identifier: GPL-2.0-or-later
"""An OpenID Connect server for tests, over TLS, that tells whatever lies a test asks of it.

It checks the code's proof (PKCE), the address to come back to, and the client's secret, as a real one does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry

from contrib.lab.certificates import Authority
from gateway.web.settings import OidcSettings, WebSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLIENT, SECRET = "mailwarden", "s3cret:+&"


@dataclass
class Provider:
    """The server. What it says is changed by what a test puts here."""

    issuer: str = ""
    email: object = "bob@example.com"
    verified: object = True
    secret: str = SECRET
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one"}))
    published: list[dict[str, Any]] | None = None  # keys, in place of its own
    metadata: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=lambda: {"alg": "RS256", "kid": "one"})
    claims: dict[str, Any] = field(default_factory=dict)  # None takes one away
    userinfo: dict[str, Any] | None = None  # then the ID token names no address
    sign: Callable[[dict[str, Any], dict[str, Any]], str] | None = None
    before: Callable[[BaseHTTPRequestHandler], bool] = lambda _request: False  # answers in place of it
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def honest(self) -> Provider:
        """This server as honest as it began, asked nothing yet."""
        fresh = Provider()
        for name in ("email", "verified", "published", "metadata", "head", "claims", "userinfo", "sign"):
            setattr(self, name, getattr(fresh, name))
        self.before = lambda _request: False
        self.asked.clear()
        self.codes.clear()
        return self

    def authorize(self, address: str) -> dict[str, str]:
        """What the browser brings back from the address that it was sent to."""
        parts = urlsplit(address)
        assert address.startswith(f"{self.issuer}/authorize?"), address
        request = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert request["response_type"] == "code"
        assert request["client_id"] == CLIENT
        assert request["code_challenge_method"] == "S256"
        assert set(request["scope"].split()) >= {"openid", "email"}
        code = secrets.token_urlsafe(16)
        self.codes[code] = request
        return {"code": code, "state": request["state"]}

    def token(self, nonce: str) -> str:
        """An ID token."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": "user-7",
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
        }
        if self.userinfo is None:
            claims |= {"email": self.email, "email_verified": self.verified}
        claims = {name: value for name, value in (claims | self.claims).items() if value is not None}
        if self.sign is not None:
            return self.sign(self.head, claims)
        allowed = JWSRegistry(algorithms=[self.head["alg"]], strict_check_header=False)
        return jwt.encode(self.head, claims, self.key, registry=allowed)

    def answer(self, request: BaseHTTPRequestHandler, body: str) -> tuple[int, Any]:
        """Status and body of an answer."""
        path = urlsplit(request.path).path
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.issuer,
                **{f"{name}_endpoint": f"{self.issuer}/{name}" for name in ("authorization", "token")},
                "authorization_endpoint": f"{self.issuer}/authorize",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                "jwks_uri": f"{self.issuer}/keys",
                **self.metadata,
            }
        if path == "/keys":
            own = [self.key.as_dict(private=False)]
            return 200, {"keys": own if self.published is None else self.published}
        if path == "/token":
            return self._exchange(request, {name: values[0] for name, values in parse_qs(body).items()})
        if path == "/userinfo" and request.headers["Authorization"] == "Bearer access-7":
            return 200, self.userinfo
        return 404, {}

    def _exchange(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> tuple[int, Any]:
        begun = self.codes.pop(form.get("code", ""), None)
        basic = base64.b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        given = unquote(basic.partition(":")[2]) or form.get("client_secret", "")
        proof = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        right = (
            begun is not None
            and given == self.secret
            and form["redirect_uri"] == begun["redirect_uri"]
            and base64.urlsafe_b64encode(proof).rstrip(b"=").decode() == begun["code_challenge"]
        )
        if not right or begun is None:
            return 400, {"error": "invalid_grant"}
        return 200, {
            "access_token": "access-7",
            "token_type": "Bearer",
            "id_token": self.token(begun["nonce"]),
        }


@contextmanager
def providing(directory: Path, **knobs: Any) -> Iterator[tuple[Provider, str]]:
    """A running server, and the file of the authority that vouches for it."""
    authority = Authority(directory / "oidc-ca")
    pair = authority.issue("localhost")
    made = Provider(**knobs)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            if made.before(self):
                return
            status, value = made.answer(self, body)
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815  # the library's names

        def log_message(self, *_words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.issuer = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made, str(authority.certificate)
    finally:
        server.shutdown()
        server.server_close()


def come_back(answer: dict[str, str]) -> str:
    """The page that a browser is sent back to."""
    return f"/login/oidc/callback?{urlencode(answer)}"


def settings_for(running: tuple[Provider, str], folder: Path, **more: Any) -> WebSettings:
    """The settings of a page whose people may log in at that server."""
    secret = folder / "client"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    made, authority = running
    known = {"issuer": made.issuer, "client_id": CLIENT, "client_secret_file": str(secret), "timeout": 10.0}
    oidc = OidcSettings(**{**known, "ca_file": authority, "name": "Example ID", **more})
    return WebSettings(oidc=oidc, user_domains=("example.com",), login_attempts=5)
