# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of the web page and its API."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

import msgspec

from gateway.listeners import split_host_port
from gateway.mail.domains import check_pattern
from gateway.mail.networks import network
from gateway.settings import Port, Positive, Seconds, Settings

Minutes = Annotated[int, msgspec.Meta(ge=1, le=525_600)]
Undo = Annotated[float, msgspec.Meta(ge=0, le=3_600)]


class WebImapSettings(Settings, frozen=True, kw_only=True):
    """The users' own mail server, which is asked whether a login and its password belong together."""

    # Name of the IMAP server; "" asks none.
    host: Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x20\x7f]*\Z", max_length=253)] = ""
    port: Port = 993
    # "tls" from the start, or "starttls" (port 143); in clear no password is ever said.
    tls: Literal["tls", "starttls"] = "tls"
    # PEM file of the CAs that the server's certificate is checked with; "" takes the system's.
    ca_file: str = ""
    # Domains whose addresses may log in so. Whoever does sees the mail of that address.
    domains: tuple[str, ...] = ()
    # Seconds that the server has for its answer.
    timeout: Seconds = 10.0

    def __post_init__(self) -> None:
        for domain in self.domains:
            check_pattern(domain)
        if self.host and not self.domains:
            raise ValueError("web.imap.host needs web.imap.domains: whose addresses may log in by it")


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
    # Seconds in which a release can be undone before it is sent.
    undo_seconds: Undo = 10.0
    # Messages on a page.
    page: Annotated[int, msgspec.Meta(ge=5, le=500)] = 50
    imap: WebImapSettings = WebImapSettings()

    def __post_init__(self) -> None:
        host, _ = split_host_port(self.listen)
        for text in self.proxies:
            network(text)
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
