# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes of the web page, and what each kind of failure is answered with.

Every function behind a route runs in a thread, since it asks the store; the event loop only moves bytes.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.mail.headers import printable
from gateway.store.database import StoreError, TooSlowError
from gateway.store.decisions import RefusedError
from gateway.store.grants import GrantError
from gateway.web import api, door, figures, pages
from gateway.web.guard import Guard
from gateway.web.held import AbsentError
from gateway.web.openapi import description
from gateway.web.site import AskedError, ForgedError, Site, StrangerError, Visit, redirect
from gateway.web.words import FIRST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from starlette.requests import Request

_THREADS: Final = 16  # requests that are worked on at a time; the others wait
_STATIC: Final = Path(__file__).parent / "static"
_FILES: Final = {"style.css": "text/css", "live.js": "text/javascript"}
_DAY: Final = "public, max-age=86400"


def application(site: Site) -> Guard:
    """The ASGI application, guarded."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        yield

    app = Starlette(
        routes=_routes(site),
        exception_handlers={kind: _answer(site, *how) for kind, how in _FAILURES.items()},
        lifespan=lifespan,
    )
    return Guard(app, site.settings, site.log)


def _routes(site: Site) -> list[BaseRoute]:
    def page(handler: Callable[[Visit], Response]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            return handler(Visit(site, request))

        return endpoint

    def anybody(handler: Callable[[Site, Request], Response]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            return handler(site, request)

        return endpoint

    def get(path: str, endpoint: Callable[[Request], Response]) -> Route:
        return Route(path, endpoint, methods=["GET"])

    def post(path: str, endpoint: Callable[[Request], Response]) -> Route:
        return Route(path, endpoint, methods=["POST"])

    return [
        get("/", page(lambda _visit: redirect("/held"))),
        get("/login", anybody(door.show_login)),
        post("/login", anybody(door.log_in)),
        get("/login/oidc", anybody(door.start_sign_on)),
        get("/login/oidc/callback", anybody(door.sign_on)),
        get("/act/{token}", anybody(door.show_link)),
        post("/act/{token}", anybody(door.follow_link)),
        post("/logout", page(door.log_out)),
        get("/account", page(door.account)),
        post("/account/password", page(door.change_password)),
        post("/account/language", page(door.change_language)),
        get("/held", page(pages.listing)),
        post("/held", page(pages.many)),
        get("/statistics", page(figures.page)),
        get("/counts", page(figures.live)),
        post("/undo", page(pages.undo_many)),
        get("/held/{item}", page(pages.item)),
        get("/held/{item}/source", page(pages.source)),
        post("/held/{item}/{act}", page(pages.decide)),
        *(_api(site, operation) for operation in api.OPERATIONS),
        get(f"{api.BASE}/openapi.json", lambda _request: JSONResponse(description())),
        get("/static/{name}", _static),
        get("/robots.txt", lambda _request: PlainTextResponse("User-agent: *\nDisallow: /\n")),
    ]


def _api(site: Site, operation: api.Operation) -> Route:
    def endpoint(request: Request) -> Response:
        return api.answer(site, operation, request)

    return Route(api.BASE + operation.path, endpoint, methods=[operation.method])


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _FILES:
        raise AbsentError
    return FileResponse(_STATIC / name, media_type=_FILES[name], headers={"Cache-Control": _DAY})


# What each kind of failure is answered with: status, the pages' word for it, and whether its own words are
# for the reader.
_FAILURES: Final[Mapping[type[Exception], tuple[int, str, bool]]] = {
    StrangerError: (401, "error-login", False),
    ForgedError: (403, "error-form", False),
    AbsentError: (404, "error-absent", False),
    AskedError: (400, "error-asked", True),
    RefusedError: (409, "error-refused", True),
    GrantError: (410, "error-link", True),
    StoreError: (503, "error-store", False),
    TooSlowError: (503, "error-slow", False),
    HTTPException: (404, "error-absent", False),
}


def _answer(site: Site, status: int, title: str, told: bool) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else status
        if isinstance(error, StoreError):
            slow = isinstance(error, TooSlowError)
            what = "a search was given up" if slow else "the store does not answer"
            site.log.error(what, path=request.url.path, error=printable(str(error), 200))
        if request.url.path.startswith("/api/"):
            known = site.words[FIRST].texts[title]
            phrase = HTTPStatus(code).phrase if isinstance(error, HTTPException) else known
            return api.problem(code, phrase, printable(str(error), 300) if told else "")
        if isinstance(error, StrangerError) and request.method in ("GET", "HEAD"):
            asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return redirect(f"/login?next={quote(asked, safe='/')}")
        return site.render(
            request,
            "error.html",
            code,
            person=None,
            csrf="",
            title=site.words_for(request).say(title),
            why=printable(site.wording(site.words_for(request).code).say(str(error)), 300) if told else "",
        )

    return answer
