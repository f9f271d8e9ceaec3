# SPDX-License-Identifier: GPL-2.0-or-later
"""What all pages share: the store, who is logged in, templates, and one visit of one person.

Reads cookies and forms of strangers. A session is a random number that is kept as its SHA-256; each form has
a token made of it, and each POST must come from a page of ours, by token and by what browsers say of it.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import jinja2
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.digest.act import Desk
from gateway.mail.headers import printable
from gateway.mail.shown import moment, octets
from gateway.store.filters import Filters
from gateway.web.held import HeldMail
from gateway.web.words import wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from gateway.log import Log
    from gateway.policy.brief import Wording
    from gateway.store.people import Login, People, Person
    from gateway.store.quarantine import Quarantine
    from gateway.web.figures import Counts
    from gateway.web.login import Doorkeeper
    from gateway.web.oidc import Provider
    from gateway.web.settings import WebSettings
    from gateway.web.teach import Teacher
    from gateway.web.words import Words

_HERE: Final = Path(__file__).parent
LANGUAGE: Final = "mailwarden-language"  # the cookie with the language that was chosen
_FIELDS: Final = 1_100  # of a form
_FORM: Final = "application/x-www-form-urlencoded"
_LINES: Final = 400  # of a text that is shown
_WIDE: Final = 2_000  # characters of each


class StrangerError(Exception):
    """Somebody must log in first."""


class ForgedError(Exception):
    """A form that no page of ours sent."""


class AskedError(Exception):
    """A request that cannot be understood; the text says why, to whoever asked."""


def templates() -> jinja2.Environment:
    """The pages; every value is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"moment": moment, "octets": octets, "shown": printable, "lines": lines, "iso": _iso}
    return made


def lines(text: str) -> str:
    """Hostile text with its lines, each of them printable, bounded."""
    rows = text.splitlines()
    more = ["..."] if len(rows) > _LINES else []
    return "\n".join([printable(row, _WIDE) for row in rows[:_LINES]] + more)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Site:
    """What pages and API work with; one for the process."""

    settings: WebSettings
    quarantine: Quarantine
    people: People
    doorkeeper: Doorkeeper
    wording: Callable[[str], Wording]  # of a language, English for one that is not known
    teacher: Teacher | None
    users: frozenset[str]  # reasons that recipients answer by themselves
    log: Log
    counts: Counts
    words: Mapping[str, Words]  # by language
    oidc: Provider | None = None  # the server for logins
    pages: jinja2.Environment = field(default_factory=templates)

    @property
    def cookie(self) -> str:
        """The name of the session's cookie; browsers keep others from setting one that begins so."""
        return "__Host-mailwarden" if self.settings.secure else "mailwarden"

    def held(self, person: Person) -> HeldMail:
        """Held mail, as a person sees it."""
        learn = self.teacher.learn if self.teacher else None
        undo = self.settings.undo_seconds
        return HeldMail(self.quarantine, person, undo=undo, learn=learn, users=self.users)

    def desk(self) -> Desk:
        """What the deeds of links are done with."""
        learner = self.teacher.learner if self.teacher else None
        return Desk(self.quarantine, self.users, self.settings.undo_seconds, learner)

    def filters(self) -> Filters:
        """The saved filters."""
        return Filters(self.quarantine.database)

    def person(self, request: Request) -> tuple[Person, Login, str] | None:
        """Who is logged in, by which login, and its secret."""
        secret = request.cookies.get(self.cookie, "")
        if not 20 <= len(secret) <= 100:
            return None
        login = self.people.known(secret, "session", idle=self.settings.idle_minutes * 60.0)
        person = self.doorkeeper.person(login.person) if login else None
        return (person, login, secret) if person and login else None

    def words_for(self, request: Request) -> Words:
        """The words for who asks: in the language that was chosen in this browser, or that it accepts."""
        headers, chosen = request.headers, request.cookies.get(LANGUAGE, "")
        return self.words[wanted(chosen, headers.get("accept-language", ""), self.words)]

    def render(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page. `person` is who sees it, None for nobody."""
        words = self.words_for(request)
        say = self.wording(words.code).say
        known = {"t": words.say, "say": say, "language": words.code, "path": request.url.path}
        return HTMLResponse(self.pages.get_template(template).render(known | values), status)

    def set_cookie(self, answer: Response, value: str) -> None:
        """Give the browser a session."""
        answer.set_cookie(
            self.cookie, value, path="/", httponly=True, samesite="lax", secure=self.settings.secure
        )


class Visit:
    """One request of one person who is logged in."""

    def __init__(self, site: Site, request: Request) -> None:
        """Raise StrangerError if nobody is; ForgedError for a form of others."""
        found = site.person(request)
        if found is None:
            raise StrangerError
        self.site = site
        self.request = request
        self.person, self.login, secret = found
        self.csrf = form_token(secret)
        self.held = site.held(self.person)
        if request.method == "POST":
            check_form(request, self.form, secret)

    @cached_property
    def form(self) -> Mapping[str, list[str]]:
        """The fields of a form."""
        return form_of(self.request)

    def field(self, name: str, longest: int = 500) -> str:
        """One field of a form, "" if it is not there."""
        return self.form.get(name, [""])[0][:longest]

    @property
    def item(self) -> str:
        """The message that the address names."""
        return str(self.request.path_params["item"]).upper()

    @property
    def words(self) -> Words:
        """The words of their language."""
        return self.site.words_for(self.request)

    def say(self, text: object) -> str:
        """A sentence of the program, such as why something was refused, in their language."""
        return self.site.wording(self.words.code).say(str(text))

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page for this person."""
        known = {"person": self.person, "csrf": self.csrf}
        return self.site.render(self.request, template, status, **known, **values)


def form_of(request: Request) -> Mapping[str, list[str]]:
    """The fields of a form, in order; raises AskedError for what is none."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise AskedError("This is no form.")
    try:
        pairs = parse_qsl(
            request.state.body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_FIELDS
        )
    except ValueError as error:
        raise AskedError("The form has too many fields.") from error
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def form_token(secret: str) -> str:
    """The token of forms that belongs to a secret in a cookie."""
    return hmac.digest(secret.encode("utf-8", "replace"), b"mailwarden form 1", "sha256").hex()


def check_form(request: Request, form: Mapping[str, list[str]], secret: str) -> None:
    """Raise ForgedError unless a page of ours sent the form, to this browser."""
    headers = request.headers
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ForgedError
    origin = headers.get("origin", "")
    if origin and urlsplit(origin).netloc != headers.get("host", ""):
        raise ForgedError
    sent = form.get("csrf", [""])[0]
    if not secret or not hmac.compare_digest(sent.encode("utf-8", "replace"), form_token(secret).encode()):
        raise ForgedError


def fresh_secret() -> str:
    """A random secret for a browser that is not logged in."""
    return secrets.token_urlsafe(32)


def redirect(path: str) -> RedirectResponse:
    """Go on with a GET."""
    return RedirectResponse(path, 303)
