# SPDX-License-Identifier: GPL-2.0-or-later
"""Coming and going: the pages on which people log in and out, and look after their own account.

Reads names and passwords of strangers. A login makes a new session, whatever the browser brought along.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from gateway.digest.act import act
from gateway.mail.headers import printable
from gateway.store.grants import Deed, GrantError, Grants
from gateway.store.people import Person
from gateway.store.states import Role
from gateway.web import passwords
from gateway.web.held import AbsentError
from gateway.web.login import MAILBOX, LoginError
from gateway.web.signon import WINDOW, Attempt, OidcError
from gateway.web.site import LANGUAGE, AskedError, check_form, form_of, form_token, fresh_secret, redirect

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.web.oidc import Provider
    from gateway.web.site import Site, Visit

_LOCAL: Final = re.compile(r"/(?!/)[A-Za-z0-9/?=&.:@_%+-]{0,500}")
_BEFORE: Final = "mailwarden-login"  # the cookie of a form before anybody is logged in


def show_login(site: Site, request: Request) -> Response:
    """The form."""
    if site.person(request) is not None:
        return redirect("/held")
    return _form(site, request, next_page=request.query_params.get("next", ""))


def log_in(site: Site, request: Request) -> Response:
    """Let somebody in, or say why not."""
    form = form_of(request)
    check_form(request, form, request.cookies.get(_BEFORE, ""))
    name, password = (form.get(key, [""])[0] for key in ("name", "password"))
    following = form.get("next", [""])[0]
    client = request.state.client
    try:
        person = site.doorkeeper.let_in(name, password, client)
    except LoginError as error:
        site.log.warning("login refused", client=client, name=name, why=str(error))
        problem = _said(site, request, error)
        return _form(site, request, problem=problem, name=name[:254], next_page=following, status=403)
    site.log.info("login", client=client, name=person.name)
    return _entered(site, person.name, client, following if _LOCAL.fullmatch(following) else "/held")


def start_sign_on(site: Site, request: Request) -> Response:
    """Send the browser to the server for logins, with all that its answer must fit in a cookie."""
    server = _server(site)
    following = request.query_params.get("next", "")
    attempt = Attempt.begin(following if _LOCAL.fullmatch(following) else "/held")
    try:
        answer = redirect(server.address(attempt, _callback(site, request)))
    except OidcError as error:
        return _not_signed_on(site, request, error)
    answer.set_cookie(
        _cookie(site),
        str(attempt),
        max_age=WINDOW,
        path="/",
        httponly=True,
        samesite="lax",
        secure=site.settings.secure,
    )
    return answer


def sign_on(site: Site, request: Request) -> Response:
    """Let in whom the server for logins sends back, if this browser began that login."""
    server, client = _server(site), request.state.client
    attempt = Attempt.read(request.cookies.get(_cookie(site), ""))
    if attempt is None:
        return _not_signed_on(site, request, LoginError("begun-elsewhere"))
    fields, callback = dict(request.query_params), _callback(site, request)
    try:
        name = site.doorkeeper.sign_on(client, lambda: server.email(attempt, fields, callback))
    except (LoginError, OidcError) as error:
        return _not_signed_on(site, request, error)
    site.log.info("login by OpenID Connect", client=client, name=name)
    following = attempt.following if _LOCAL.fullmatch(attempt.following) else "/held"
    answer = _entered(site, name, f"{client} by {site.settings.oidc.name}", following)
    answer.delete_cookie(_cookie(site), path="/", secure=site.settings.secure, httponly=True)
    return answer


def _server(site: Site) -> Provider:
    if site.oidc is None:
        raise AbsentError
    return site.oidc


def _callback(site: Site, request: Request) -> str:
    """Where the server for logins sends browsers back to; the guard has seen that the host is ours."""
    scheme = "https" if site.settings.secure else "http"
    return f"{scheme}://{request.headers['host']}/login/oidc/callback"


def _cookie(site: Site) -> str:
    return "__Host-mailwarden-oidc" if site.settings.secure else "mailwarden-oidc"


def _not_signed_on(site: Site, request: Request, error: LoginError | OidcError) -> Response:
    site.log.warning("login refused", client=request.state.client, why=printable(str(error), 300))
    told = error if isinstance(error, LoginError) else LoginError("not-logged-in")
    answer = _form(site, request, problem=_said(site, request, told), status=403)
    answer.delete_cookie(_cookie(site), path="/", secure=site.settings.secure, httponly=True)
    return answer


def _said(site: Site, request: Request, error: LoginError) -> str:
    return str(site.words_for(request).say(error.word, minutes=error.minutes))


def _form(
    site: Site, request: Request, *, problem: str = "", name: str = "", next_page: str = "", status: int = 200
) -> Response:
    following = next_page if _LOCAL.fullmatch(next_page) else ""
    oidc = site.settings.oidc.name if site.oidc else ""
    return formed(
        site, request, "login.html", status, problem=problem, name=name, next_page=following, oidc=oidc
    )


def formed(site: Site, request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page with a form for somebody who is not logged in, bound to this browser."""
    secret = request.cookies.get(_BEFORE, "") or fresh_secret()
    page = site.render(request, template, status, person=None, csrf=form_token(secret), **values)
    page.set_cookie(_BEFORE, secret, path="/", httponly=True, samesite="lax", secure=site.settings.secure)
    return page


def show_link(site: Site, request: Request) -> Response:
    """What a link of a digest is for. Changes nothing, whoever or whatever follows it."""
    token = str(request.path_params["token"])
    grant = Grants(site.quarantine.database).look(token)
    item = None
    if grant.deed is not Deed.LOGIN:
        item = site.held(Person(grant.who, Role.USER, (grant.who,))).find(grant.item)
    return formed(site, request, "link.html", grant=grant, item=item, token=token)


def follow_link(site: Site, request: Request) -> Response:
    """Do what a link is for, once."""
    check_form(request, form_of(request), request.cookies.get(_BEFORE, ""))
    token = str(request.path_params["token"])
    grants = Grants(site.quarantine.database)
    grant = grants.look(token)
    if grant.deed is not Deed.LOGIN:
        _, done = act(site.desk(), token, "web")
        return formed(site, request, "linked.html", done=done, undo=site.settings.undo_seconds)
    if len(MAILBOX + grant.who) > 254:
        raise GrantError("this address is too long to log in by a link")
    grants.use(token)
    client = request.state.client
    site.log.info("login by a link", client=client, name=grant.who)
    return _entered(site, MAILBOX + grant.who, f"{client} by a link", "/held")


def _entered(site: Site, person: str, note: str, following: str) -> Response:
    seconds = site.settings.session_minutes * 60.0
    secret = site.people.log_in(person, "session", seconds=seconds, note=note)
    answer = redirect(following)
    site.set_cookie(answer, secret)
    answer.delete_cookie(_BEFORE, path="/")
    return answer


def log_out(visit: Visit) -> Response:
    """End this session, or with `everywhere` all of this person's."""
    start = "" if visit.field("everywhere") else visit.login.hash
    visit.site.people.log_out(visit.login.person, "session", start)
    answer = redirect("/login")
    answer.delete_cookie(visit.site.cookie, path="/", secure=visit.site.settings.secure, httponly=True)
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


def account(visit: Visit, problem: str = "", done: str = "", status: int = 200) -> Response:
    """Who one is, where one is logged in, and one's password."""
    people = visit.site.people
    return visit.page(
        "account.html",
        status=status,
        sessions=people.logins(visit.login.person, "session"),
        tokens=people.logins(visit.login.person, "token"),
        here=visit.login.hash,
        problem=problem,
        done=done,
        shortest=passwords.SHORTEST,
        languages={code: words.texts["language-name"] for code, words in visit.site.words.items()},
        chosen=visit.request.cookies.get(LANGUAGE, ""),
    )


def change_language(visit: Visit) -> Response:
    """Choose the language of the pages in this browser, or leave that to the browser."""
    answer, chosen = redirect("/account"), visit.field("language")
    secure = visit.site.settings.secure
    if chosen in visit.site.words:
        year = 365 * 86_400
        answer.set_cookie(
            LANGUAGE, chosen, max_age=year, path="/", httponly=True, samesite="lax", secure=secure
        )
    else:
        answer.delete_cookie(LANGUAGE, path="/", secure=secure, httponly=True)
    return answer


def change_password(visit: Visit) -> Response:
    """Set a new password, by the old one; other sessions end."""
    person, site = visit.person, visit.site
    if not person.password:
        raise AskedError("Your password is not kept here.")
    new = visit.field("new", passwords.LONGEST + 1)
    try:
        site.doorkeeper.let_in(
            person.name, visit.field("old", passwords.LONGEST + 1), visit.request.state.client
        )
        site.people.set_password(person.name, passwords.made(new), person.actor.name)
    except (LoginError, ValueError) as error:
        wrong = isinstance(error, LoginError)
        problem = str(visit.words.say("old-password-wrong" if wrong else "not-done"))
        problem += "" if wrong else f": {visit.say(error)}."
        return account(visit, problem=problem, status=403)
    secret = site.people.log_in(
        person.name, "session", seconds=site.settings.session_minutes * 60.0, note=visit.request.state.client
    )
    answer = redirect("/held?done=password")
    site.set_cookie(answer, secret)
    return answer
