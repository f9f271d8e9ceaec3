# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins by OpenID Connect: the authorization code flow with PKCE, at the one server that the settings name.

Reads what browsers bring back, and what that server answers: bounded in octets and time, over verified TLS,
at the issuer's own host and those that the settings add, and nothing is followed. What a login began with is
derived from a secret in the browser's cookie, so that nothing is kept here, and an answer that was meant for
another browser fits nothing (`signon.py`). An ID token counts only if the issuer signed it, by an
algorithm that is allowed, for us, for this login, and lately; an address only if the server says that it has
verified it. joserfc does the cryptography.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from gateway.feedback.folders import FolderError, read_password
from gateway.mail.headers import printable
from gateway.tls.fetch import FetchError, Web, named
from gateway.web.signon import LEEWAY, OidcError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.web.settings import OidcSettings
    from gateway.web.signon import Attempt

T = TypeVar("T")

_LARGEST: Final = 262_144  # octets of an answer
_TOKEN: Final = 16_384  # characters of an ID token
_KEPT: Final = 3_600.0  # seconds for which what the server says of itself is believed
_AGAIN: Final = 60.0  # seconds between two looks for a key that is not known
_RSA_BITS: Final = 2_048
_KEYS: Final = 50
_EMAIL: Final = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[a-z0-9.-]{1,175}", re.ASCII | re.IGNORECASE)
_TURNS: Final = 4  # logins that may wait for the server at a time, so that all other pages go on
_DOWN: Final = 5.0  # seconds for which nobody asks a server again that gave no answer


class _Metadata(msgspec.Struct, frozen=True):
    """What a server says of itself (OpenID Connect Discovery 1.0 §3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    """The answer to a code (OpenID Connect Core 1.0 §3.1.3.3)."""

    id_token: str
    access_token: str = ""


class Provider:
    """The server that knows the users. Thread-safe."""

    def __init__(self, settings: OidcSettings, web: Web | None = None) -> None:
        """Raise ValueError for a secret that cannot be used."""
        self.settings = settings
        self._secret = _secret(settings.client_secret_file)
        self._web = web or named(settings.ca_file)
        self._hosts = {urlsplit(settings.issuer).netloc.lower(), *(one.lower() for one in settings.hosts)}
        self._turns = threading.BoundedSemaphore(_TURNS)
        self._lock = threading.Lock()
        self._down = 0.0  # until when it is taken for one that does not answer
        self._known: tuple[float, _Metadata] | None = None
        self._keys: tuple[float, KeySet] | None = None

    def address(self, attempt: Attempt, callback: str) -> str:
        """Where the browser goes to log in. Raises OidcError."""
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": callback,
            "scope": "openid email",
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        with self._turn():
            endpoint = self._metadata().authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    def email(self, attempt: Attempt, answer: Mapping[str, str], callback: str) -> str:
        """The verified address, in lower case, of who comes back with this answer. Raises OidcError."""
        state = answer.get("state", "").encode("utf-8", "replace")
        if not hmac.compare_digest(state, attempt.state.encode()):
            raise OidcError("the answer belongs to no login that began in this browser")
        if problem := answer.get("error"):
            raise OidcError(f"the server refused: {problem}")
        with self._turn():
            return self._email(attempt, answer, callback)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if time.monotonic() < self._down or not self._turns.acquire(timeout=1.0):
            raise OidcError("the server did not answer a moment ago, or too many log in at once")
        try:
            yield
        finally:
            self._turns.release()

    def _email(self, attempt: Attempt, answer: Mapping[str, str], callback: str) -> str:
        metadata = self._metadata()
        issuer = answer.get("iss")  # RFC 9207 §2.4
        if issuer is None and metadata.authorization_response_iss_parameter_supported:
            raise OidcError("the answer does not say whose it is")
        if issuer not in (None, metadata.issuer):
            raise OidcError(f"the answer is another server's: {issuer}")
        if not (code := answer.get("code", "")):
            raise OidcError("the answer has no code")
        tokens = self._tokens(metadata, code, attempt, callback)
        claims = self._claims(metadata, tokens.id_token, attempt)
        if "email" not in claims and metadata.userinfo_endpoint and tokens.access_token:
            told = self._userinfo(metadata, tokens.access_token)
            if told.get("sub") != claims["sub"]:  # OpenID Connect Core 1.0 §5.3.2
                raise OidcError("what the server says of the user is about another one")
            claims = told
        return _address(claims)

    # -------------------------------------------------------------- what the server is asked

    def _metadata(self) -> _Metadata:
        with self._lock:
            if self._known and self._known[0] > time.monotonic():
                return self._known[1]
            issuer = self.settings.issuer
            path = issuer.rstrip("/") + "/.well-known/openid-configuration"
            found = _decoded(self._get(path), _Metadata)
            if found.issuer != issuer:
                raise OidcError(f"the server calls itself {found.issuer}, and not {issuer}")
            for endpoint in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
                self._checked(endpoint)
            self._known = (time.monotonic() + _KEPT, found)
            return found

    def _keyset(self, metadata: _Metadata, kid: str) -> KeySet:
        """The server's keys; asked for anew if it has one of this name that is not known."""
        with self._lock:
            now = time.monotonic()
            if self._keys is not None:
                age, keys = now - self._keys[0], self._keys[1]
                there = not kid or any(key.kid == kid for key in keys.keys)
                if age < _AGAIN or (there and age < _KEPT):
                    return keys
            keys = _keys(_decoded(self._get(metadata.jwks_uri), dict[str, Any]))
            self._keys = (now, keys)
            return keys

    def _tokens(self, metadata: _Metadata, code: str, attempt: Attempt, callback: str) -> _Tokens:
        form = {
            "grant_type": "authorization_code",
            "code": code[:4_096],
            "redirect_uri": callback,
            "client_id": self.settings.client_id,
            "code_verifier": attempt.verifier,
        }
        fields = {}
        if self._secret and "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            pair = (
                f"{quote(self.settings.client_id, safe='')}:{quote(self._secret, safe='')}"  # RFC 6749 §2.3.1
            )
            fields["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        elif self._secret:
            form["client_secret"] = self._secret
        host, port, path = self._checked(metadata.token_endpoint)
        kind, body = "application/x-www-form-urlencoded", urlencode(form).encode()
        try:
            answer = self._web.post(
                host, path, body, kind, port=port, seconds=self.settings.timeout, fields=fields
            )
        except FetchError as error:
            self._down = time.monotonic() + _DOWN
            raise OidcError(f"no answer to the code: {error}") from error
        if answer.status != 200:
            raise OidcError(f"the code was refused: {answer.status} {_shown(answer.body)}")
        return _decoded(answer.body, _Tokens)

    def _userinfo(self, metadata: _Metadata, token: str) -> dict[str, Any]:
        if not (token.isascii() and token.isprintable() and " " not in token and len(token) <= _TOKEN):
            raise OidcError("the server's access token cannot be used")
        body = self._get(metadata.userinfo_endpoint, {"Authorization": f"Bearer {token}"})
        return _decoded(body, dict[str, Any])

    def _get(self, address: str, fields: Mapping[str, str] | None = None) -> bytes:
        host, port, path = self._checked(address)
        try:
            answer = self._web.get(
                host, path, limit=_LARGEST, seconds=self.settings.timeout, port=port, fields=fields
            )
        except FetchError as error:
            self._down = time.monotonic() + _DOWN
            raise OidcError(f"no answer: {error}") from error
        if answer.status != 200:
            raise OidcError(f"{address} answers {answer.status}")
        return answer.body

    def _checked(self, address: str) -> tuple[str, int, str]:
        """Host, port and path of an address at which the server may be asked."""
        try:
            parts = urlsplit(address)
            port = parts.port or 443
        except ValueError as error:
            raise OidcError(f"no address: {address}") from error
        sound = address.isascii() and address.isprintable() and " " not in address and not parts.username
        if parts.scheme != "https" or not sound or parts.netloc.lower() not in self._hosts:
            raise OidcError(f"{address} is not at the issuer's host, nor at one of web.oidc.hosts")
        return parts.hostname or "", port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    # -------------------------------------------------------------- what it answers

    def _claims(self, metadata: _Metadata, token: str, attempt: Attempt) -> dict[str, Any]:
        """What a valid ID token says (OpenID Connect Core 1.0 §3.1.3.7)."""
        if len(token) > _TOKEN or token.count(".") != 2:
            raise OidcError("this is no signed ID token")
        client = self.settings.client_id
        try:
            keys = self._keyset(metadata, _kid(token))
            # RFC 7515 §4: what is in the head and not known is not looked at, unless it is critical.
            allowed = JWSRegistry(algorithms=self.settings.algorithms, strict_check_header=False)
            found = jwt.decode(token, keys, registry=allowed).claims
            jwt.JWTClaimsRegistry(
                leeway=LEEWAY,
                iss={"essential": True, "value": metadata.issuer},
                aud={"essential": True, "value": client},
                exp={"essential": True},
                iat={"essential": True},
                sub={"essential": True},
                nonce={"essential": True, "value": attempt.nonce},
            ).validate(found)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise OidcError(f"the ID token is not valid: {type(error).__name__} {error}") from error
        audience = found["aud"]
        alone = audience in (client, [client])
        if (not alone and "azp" not in found) or found.get("azp", client) != client:
            raise OidcError("the ID token is for somebody else")
        return found


def _secret(path: str) -> str:
    """The first line of the file, "" where there is none. Raises ValueError."""
    try:
        return read_password(Path(path)).decode() if path else ""
    except FolderError as error:
        raise ValueError(str(error)) from error


def _address(claims: Mapping[str, Any]) -> str:
    """The address that claims say is verified."""
    email = claims.get("email")
    if not isinstance(email, str) or not email:
        raise OidcError("the server names no address of the user")
    if claims.get("email_verified") is not True:
        raise OidcError(f"the server has not verified the address {email}")
    if not _EMAIL.fullmatch(email):
        raise OidcError(f"no address that can log in: {email}")
    return email.lower()


def _keys(found: Mapping[str, Any]) -> KeySet:
    """The public keys of a set that can sign; others are left out, as are those of a kind not known."""
    listed = found.get("keys")
    kinds: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    keys: list[Any] = []
    for one in listed[:_KEYS] if isinstance(listed, list) else ():
        kind = kinds.get(str(one.get("kty"))) if isinstance(one, dict) else None
        if kind is None or one.get("use", "sig") != "sig":
            continue
        with contextlib.suppress(JoseError, ValueError, TypeError, KeyError):
            if kind is not RSAKey or _bits(one["n"]) >= _RSA_BITS:
                keys.append(kind.import_key({name: value for name, value in one.items() if name != "d"}))
    if not keys:
        raise OidcError("the server has no key that can be used")
    return KeySet(keys)


def _bits(number: str) -> int:
    """How long a number of a key is. Raises ValueError, TypeError."""
    return int.from_bytes(base64.urlsafe_b64decode(number + "==")).bit_length()


def _kid(token: str) -> str:
    """The name of the key by which a token says it is signed; nothing is believed by that."""
    head = token.partition(".")[0]
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except ValueError:
        return ""
    kid = found.get("kid") if isinstance(found, dict) else None
    return kid if isinstance(kid, str) else ""


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        raise OidcError(f"the server's answer cannot be read: {error}") from error


def _shown(body: bytes) -> str:
    return printable(body[:300].decode("utf-8", "replace"), 200)
