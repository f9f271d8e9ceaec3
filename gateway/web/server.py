# SPDX-License-Identifier: GPL-2.0-or-later
"""The process of the web page: a site made of the configuration's values, served on a bound socket.

uvicorn speaks HTTP, with bounds on what it keeps in memory and on connections; what else is needed before a
request is believed, is `guard.py`'s. What this process cannot do is send mail: releases are left to the
housekeeper.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gateway.data import data_dir
from gateway.policy.brief import load
from gateway.policy.patterns import RuleError
from gateway.store.database import open_database
from gateway.store.people import People
from gateway.store.quarantine import Quarantine

if TYPE_CHECKING:
    import socket

    import uvicorn

    from gateway.log import Log
    from gateway.policy.brief import Wording
    from gateway.store.database import Database
    from gateway.web.oidc import Provider
    from gateway.web.parts import Parts
    from gateway.web.settings import WebSettings
    from gateway.web.site import Site

_CONNECTIONS = 100
_HEAD = 32_768  # octets of a request's head


class MissingError(Exception):
    """What the web page needs is not there: its libraries, or what its settings name."""


def check(web: WebSettings) -> None:
    """Raise MissingError unless all libraries are there, and all that the settings name."""
    try:
        import jinja2  # noqa: F401, PLC0415  # whether it is there
        import starlette  # noqa: F401, PLC0415  # as above
        import uvicorn  # noqa: F401, PLC0415  # as above
    except ImportError as error:
        raise MissingError(
            f"the web page needs {error.name}: pip install 'mailwarden[web]', or set web.enabled = false"
        ) from error
    from gateway.web.login import source  # noqa: PLC0415  # as above

    try:
        source(web)
    except (OSError, ValueError) as error:
        raise MissingError(f"web.users: {error}") from error
    try:
        provider(web)
    except ImportError as error:
        raise MissingError(f"web.oidc needs {error.name}: pip install 'mailwarden[oidc]'") from error
    except ValueError as error:
        raise MissingError(f"web.oidc: {error}") from error
    for path in filter(None, (web.certificate, web.key)):
        if not os.access(path, os.R_OK):
            raise MissingError(f"web.certificate, web.key: {path} cannot be read")


def serve(parts: Parts, listener: socket.socket, log: Log) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way. Raises MissingError, StoreError."""
    check(parts.web)
    import uvicorn  # noqa: PLC0415  # an extra

    from gateway.web.app import application  # noqa: PLC0415  # as above
    from gateway.web.connections import protocol  # noqa: PLC0415  # as above

    database = open_database(parts.store)
    try:
        settings: Any = {
            "log_config": None,
            "log_level": "warning",
            "access_log": False,
            "server_header": False,
            "proxy_headers": False,
            "lifespan": "on",
            "ws": "none",
            "http": protocol(parts.web.proxies),
            "limit_concurrency": _CONNECTIONS,
            "h11_max_incomplete_event_size": _HEAD,
            "timeout_keep_alive": 10,
            "timeout_graceful_shutdown": int(parts.grace),
        }
        if parts.web.certificate:
            settings |= {"ssl_certfile": parts.web.certificate, "ssl_keyfile": parts.web.key}
        config = uvicorn.Config(application(site(parts, database, log)), **settings)
        log.info("web page", listen=parts.web.listen, tls=bool(parts.web.certificate))
        asyncio.run(_until_told(uvicorn.Server(config), listener))
    finally:
        database.close()


async def _until_told(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT. uvicorn's own handlers would end the process by the signal."""

    def end() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # see above
    await server.serve(sockets=[listener])


def site(parts: Parts, database: Database, log: Log) -> Site:
    """The site of an open database."""
    from gateway.web.figures import Counts  # noqa: PLC0415  # an extra
    from gateway.web.login import Doorkeeper  # noqa: PLC0415  # an extra
    from gateway.web.site import Site  # noqa: PLC0415  # as above
    from gateway.web.teach import teacher  # noqa: PLC0415  # as above
    from gateway.web.words import load_all  # noqa: PLC0415  # as above

    quarantine, people = Quarantine(database, parts.store), People(database)
    return Site(
        settings=parts.web,
        quarantine=quarantine,
        people=people,
        doorkeeper=Doorkeeper(people, parts.web),
        wording=wording,
        teacher=teacher(parts, quarantine, log),
        users=frozenset(parts.release.users),
        log=log,
        counts=Counts(quarantine),
        words=load_all(data_dir("rules")),
        oidc=provider(parts.web),
    )


def provider(web: WebSettings) -> Provider | None:
    """The server for logins, if one is set. Raises ImportError, ValueError."""
    if not web.oidc.issuer:
        return None
    from gateway.web.oidc import Provider  # noqa: PLC0415  # an extra

    return Provider(web.oidc)


@lru_cache(maxsize=64)
def wording(language: str) -> Wording:
    """The words for end users, in a language or in English."""
    if language.isascii() and language.isalpha() and language != "en":
        try:
            return load(data_dir("rules"), language)
        except RuleError:
            pass
    return load(data_dir("rules"))
