# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden serve`: run the gateway in the foreground, as systemd and containers want it."""

from __future__ import annotations

import sys

import click

from gateway.cli.main import EX_CONFIG, Context, Failure, config_option


@click.command()
@config_option
@click.pass_obj
def serve(context: Context) -> None:
    """Run the gateway until SIGTERM.

    \b
    HUP   load the configuration anew; a bad one is refused, and nothing changes
    TERM  finish what is under way and stop

    \b
    Example:
      mailwarden --config /etc/mailwarden/mailwarden.toml serve
    """
    from gateway import log, service  # noqa: PLC0415  # help and completion stay quick
    from gateway.config import ConfigError  # noqa: PLC0415
    from gateway.store.database import StoreError  # noqa: PLC0415

    settings = context.config
    try:
        sys.exit(service.Supervisor(context.path, log.open_log(settings.log)).run())
    except (ConfigError, StoreError) as error:
        raise Failure(str(error), EX_CONFIG) from error
