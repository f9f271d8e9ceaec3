# SPDX-License-Identifier: GPL-2.0-or-later
"""Who gets digests, when, in which language, and what they can do with them."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from gateway.delivery.routes import parse_route
from gateway.mail.domains import check_pattern
from gateway.settings import Settings

Clock = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Language = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})?\Z")]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ADDRESS = r"[A-Za-z0-9.!#$%&'*/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}"  # no "+": a token goes behind one
Address = Annotated[str, msgspec.Meta(pattern=rf"^{_ADDRESS}\Z")]
NoAddress = Annotated[str, msgspec.Meta(pattern=rf"^(?:{_ADDRESS})?\Z")]
MOST_BEFORE_TOKEN = 14  # a local part has 64 characters, a token 49


class LanguageRow(Settings, frozen=True):
    """Another language for some recipients."""

    # Domain, or ".example.com" for all below it.
    domain: str
    # Language of `rules/digest.LANGUAGE.toml`.
    language: Language

    def __post_init__(self) -> None:
        check_pattern(self.domain)


class AdministratorRow(Settings, frozen=True):
    """Who gets the digest about a domain."""

    # Domain, or ".example.com" for all below it.
    domain: str
    # Where it goes.
    address: Address

    def __post_init__(self) -> None:
        check_pattern(self.domain)


class DigestSettings(Settings, frozen=True):
    """Digests: mail to the recipients of held mail that says what is held for them."""

    # Send them. Nobody gets one before this is on.
    enabled: bool = False
    # Domains whose recipients get one when mail was held for them since their last; ".example.com" means
    # all below it.
    domains: tuple[str, ...] = ()
    # Addresses that get none.
    without: tuple[Address, ...] = ()
    # Who gets the digest of a domain: figures, and what users ask for.
    administrators: tuple[AdministratorRow, ...] = ()
    # Times of day, by the clock of this machine, and days on which they are sent.
    at: Annotated[tuple[Clock, ...], msgspec.Meta(min_length=1)] = ("07:00",)
    days: Annotated[tuple[Day, ...], msgspec.Meta(min_length=1)] = DAYS
    # Address that they come from, needed to send. Keys of its domain in [signing] sign them.
    email: NoAddress = ""
    # Where the web page is, as users reach it, such as "https://quarantine.example.com"; links lead
    # there. "" leaves them out.
    base_url: str = ""
    # Address for replies, such as "held@example.com": mail of our own users to "held+TOKEN@example.com" does
    # what a link does. "" leaves it out. Postfix must accept it (recipient_delimiter = +).
    reply_address: NoAddress = ""
    # Days for which links and reply addresses are good.
    valid_days: Annotated[int, msgspec.Meta(ge=1, le=30)] = 7
    # Most messages that one digest lists, the newest first.
    most: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50
    # Language, and other ones by domain of the recipient.
    language: Language = "en"
    languages: tuple[LanguageRow, ...] = ()
    # A directory with digest.LANGUAGE.toml and words.LANGUAGE.toml of your own, read before the shipped ones.
    words_dir: str = ""
    # "smtp:host:port" takes all digests; "" takes the route of each recipient, or the queue.
    next_hop: str = ""

    def __post_init__(self) -> None:
        for domain in self.domains:
            check_pattern(domain)
        if self.next_hop:
            parse_route(self.next_hop)
        if self.enabled and not self.email:
            raise ValueError("digests need an address to come from: email")
        if len(self.reply_address.partition("@")[0]) > MOST_BEFORE_TOKEN:
            raise ValueError(
                f"the part of reply_address before the @ has {MOST_BEFORE_TOKEN} characters at most"
            )
        url = urlsplit(self.base_url)
        plain = (
            self.base_url.isascii() and self.base_url.isprintable() and not set(self.base_url) & set("<>\"' ")
        )
        if self.base_url and not (plain and url.scheme in ("https", "http") and url.netloc and not url.query):
            raise ValueError(f'"{self.base_url}" is no URL such as "https://quarantine.example.com"')
