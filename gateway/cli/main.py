# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden` and its commands, each loaded only when it is called."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import __version__

if TYPE_CHECKING:
    from gateway.config import Config

EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE, EX_SOFTWARE, EX_TEMPFAIL, EX_CONFIG = (
    64,
    65,
    66,
    69,
    70,
    75,
    78,
)
click.UsageError.exit_code = EX_USAGE  # sysexits(3), as mail tools have it
DEFAULT = Path("/etc/mailwarden/mailwarden.toml")

# name -> (module, object, one line of help)
_COMMANDS = {
    "serve": ("gateway.cli.serve", "serve", "Run the gateway."),
    "check": ("gateway.cli.check", "check", "Check a configuration and say what it does."),
    "scan": ("gateway.cli.scan", "scan", "Judge messages from files, without a mail server."),
    "explain": ("gateway.cli.explain", "explain", "Say why a message was judged as it was."),
    "trace": ("gateway.cli.trace", "trace", "Find messages and say what became of them."),
    "replay": ("gateway.cli.replay", "replay", "Say what another policy would change."),
    "shadow": ("gateway.cli.shadow", "shadow", "Try another policy or model on live mail."),
    "quarantine": ("gateway.cli.quarantine", "quarantine", "Review held messages."),
    "backup": ("gateway.cli.backup", "backup", "Copy the store while the service runs, and verify copies."),
    "queue": ("gateway.cli.queue", "queue", "Look after the smart host's queue."),
    "route": ("gateway.cli.route", "route", "Say where mail to a recipient goes, and how."),
    "review": ("gateway.cli.review", "review", "Review held messages on a full screen."),
    "digest": ("gateway.cli.digest", "digest", "Tell recipients what is held for them."),
    "senders": ("gateway.cli.senders", "senders", "Block or allow senders."),
    "dmarc": ("gateway.cli.dmarc", "dmarc", "Report to domains what DMARC found of their mail."),
    "tls": ("gateway.cli.tls", "tls", "Say what TLS mail to a domain needs, and report to domains."),
    "login": ("gateway.cli.login", "login", "Make and try logins for submission."),
    "dkim": ("gateway.cli.dkim", "dkim", "Make and check the keys that sign outbound mail."),
    "user": ("gateway.cli.user", "user", "Say who may review on the web page and by its API."),
    "learn": ("gateway.cli.learn", "learn", "Teach the classifier with mail."),
    "model": ("gateway.cli.model", "model", "Train and examine the classifier."),
}


@dataclass
class Context:
    """What commands share: the configuration, read when first asked for."""

    path: Path
    given: bool = False  # whether the caller named it

    @cached_property
    def config(self) -> Config:
        """The configuration; ends the program with EX_CONFIG if it must not be used."""
        from gateway.config import ConfigError, load  # noqa: PLC0415  # costs more than most commands

        try:
            return load(self.path)
        except ConfigError as error:
            raise Failure(str(error), EX_CONFIG) from error


class Failure(click.ClickException):
    """An error for people, with an exit status of sysexits.h."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click calls it a constant of the class, and reads the instance


class _Commands(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a misspelt one is named with the likely one, as click does for its own groups."""
        if args and args[0] not in _COMMANDS and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], _COMMANDS, 1)
            mend = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{mend}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),  # what is wrong with it, `config.load` says
    default=DEFAULT,
    envvar="MAILWARDEN_CONFIG",
    show_default=True,
    show_envvar=True,
    help="Configuration file.",
)
@click.version_option(__version__, prog_name="mailwarden")
@click.pass_context
def cli(ctx: click.Context, path: Path) -> None:
    """Mailwarden, a mail security gateway.

    \b
    Examples:
      mailwarden --config mailwarden.toml check
      mailwarden --config mailwarden.toml serve
      mailwarden scan --from alice@example.org --ip 192.0.2.1 message.eml
      mailwarden quarantine list --since 2d

    Completion for bash: eval "$(_MAILWARDEN_COMPLETE=bash_source mailwarden)"
    """
    ctx.obj = Context(path, given=path != DEFAULT)


def _named(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.obj.path, ctx.obj.given = value, True


# `--config` is understood behind the command as well, where people write it.
config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_named,
    help="Configuration file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
why_option = click.option("--why", default="", metavar="TEXT", help="Why, for the audit.")
