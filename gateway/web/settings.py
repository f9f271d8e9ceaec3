# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of the web page and its API."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from gateway.listeners import split_host_port
from gateway.logins.settings import LoginSettings
from gateway.mail.domains import check_pattern
from gateway.mail.networks import network
from gateway.settings import Positive, Seconds, Settings

Minutes = Annotated[int, msgspec.Meta(ge=1, le=525_600)]
Undo = Annotated[float, msgspec.Meta(ge=0, le=3_600)]


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"
]


class OidcSettings(Settings, frozen=True, kw_only=True):
    """Logins by an OpenID Connect server of one's own. Needs: pip install 'mailwarden[oidc]'."""

    # The server, as it names itself: "https://id.example.com/realms/mail". "" lets nobody log in so.
    issuer: str = ""
    # What it knows us as. Register there the address of this page with /login/oidc/callback behind it.
    client_id: str = ""
    # File whose first line is our secret there. "" for a public client, which PKCE protects alone.
    client_secret_file: str = ""
    # What the login's button calls it.
    name: str = "single sign-on"
    # Other hosts ("host" or "host:port") at which it may be asked; no others than its own and these ever are.
    hosts: tuple[str, ...] = ()
    # How its tokens may be signed.
    algorithms: tuple[Algorithm, ...] = ("RS256", "PS256", "ES256", "Ed25519", "EdDSA")
    # PEM file of the CAs that may vouch for it. Empty: those of the system.
    ca_file: str = ""
    # Seconds that it has for an answer.
    timeout: Seconds = 10.0

    def __post_init__(self) -> None:
        if not self.issuer:
            return
        parts = urlsplit(self.issuer)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError(
                f'web.oidc.issuer = "{self.issuer}" is not an address such as "https://id.example.com"'
            )
        if not self.client_id or not self.algorithms:
            raise ValueError("web.oidc needs client_id and algorithms")


class WebSettings(Settings, frozen=True, kw_only=True):
    """The web page for the review of held mail, and its REST API."""

    # Whether `mailwarden serve` serves it. Needs: pip install 'mailwarden[web]'.
    enabled: bool = False
    # Where it listens. Beyond loopback it needs a certificate, or proxies.
    listen: str = "127.0.0.1:8895"
    # PEM files, for TLS.
    certificate: str = ""
    key: str = ""
    # Host names that it is reached by. Requests for others are refused.
    names: tuple[str, ...] = ()
    # Networks of reverse proxies with TLS in front of it: their X-Forwarded-For is believed.
    proxies: tuple[str, ...] = ()
    # Minutes without a request after which a login ends, and after which it ends in any case.
    idle_minutes: Minutes = 60
    session_minutes: Minutes = 720
    # Wrong passwords of one address, and for one login, in 15 minutes; beyond, each waits.
    login_attempts: Positive = 10
    # Seconds in which a release or a deletion can be undone before it is done.
    undo_seconds: Undo = 10.0
    # Messages on a page.
    page: Annotated[int, msgspec.Meta(ge=5, le=500)] = 50
    # Where passwords of users are checked that have none here, as users under [login] says it, such as
    # "imaps:imap.example.com:993", their own mail server; "" nowhere.
    users: str = ""
    # PEM file of the CAs that may vouch for that server. Empty: those of the system.
    ca_file: str = ""
    # Seconds that it has for its answer.
    users_timeout: Seconds = 10.0
    # Domains whose addresses may log in so. Whoever does sees the mail of that address.
    user_domains: tuple[str, ...] = ()
    oidc: OidcSettings = OidcSettings()

    def __post_init__(self) -> None:
        host, _ = split_host_port(self.listen)
        for text in self.proxies:
            network(text)
        for domain in self.user_domains:
            check_pattern(domain)
        LoginSettings(users=self.users)
        if self.users and not self.user_domains:
            raise ValueError("web.users needs web.user_domains: whose addresses may log in by it")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("web.certificate and web.key are set together")
        if not (is_loopback(host) or self.certificate or self.proxies):
            raise ValueError(
                f'web.listen = "{self.listen}" would take passwords in clear: set web.certificate and '
                "web.key, or web.proxies, or listen on 127.0.0.1"
            )

    @property
    def secure(self) -> bool:
        """Whether browsers reach it by https."""
        return bool(self.certificate or self.proxies)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
