# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden serve`: run the gateway, or its web page alone, in the foreground, as systemd wants it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from gateway.cli.main import EX_CONFIG, Context, Failure, config_option

if TYPE_CHECKING:
    from gateway.config import Config


@click.command()
@click.option("--web", is_flag=True, help="Only the web page for the review of held mail.")
@config_option
@click.pass_obj
def serve(context: Context, *, web: bool) -> None:
    """Run the gateway until SIGTERM, with the web page if [web] enabled says so.

    \b
    HUP   load the configuration anew; a bad one is refused, and nothing changes
    TERM  finish what is under way and stop

    With --web the page runs in a process of its own, beside the gateway or on another machine that shares its
    database. It sends nothing itself: what is released goes out through the gateway.

    \b
    Examples:
      mailwarden --config /etc/mailwarden/mailwarden.toml serve
      mailwarden --config /etc/mailwarden/mailwarden.toml serve --web
    """
    from gateway import log, service  # noqa: PLC0415  # help and completion stay quick
    from gateway.config import ConfigError  # noqa: PLC0415
    from gateway.store.database import StoreError  # noqa: PLC0415

    settings = context.config
    try:
        if web:
            _serve_web(settings)
            return
        sys.exit(service.Supervisor(context.path, log.open_log(settings.log)).run())
    except (ConfigError, StoreError) as error:
        raise Failure(str(error), EX_CONFIG) from error


def _serve_web(settings: Config) -> None:
    from gateway import assembly, listeners, log, service  # noqa: PLC0415  # as above
    from gateway.web import server  # noqa: PLC0415  # as above

    told = log.open_log(settings.log)
    try:
        server.check(settings.web)
        listener = listeners.bind(settings.web.listen)
        service.become(settings, told)
        service.notify("READY=1")
        server.serve(assembly.pages(settings), listener, told)
    except (server.MissingError, listeners.ListenError) as error:
        raise Failure(str(error), EX_CONFIG) from error
