# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden check`: whether a configuration is good, and what it does."""

from __future__ import annotations

import json
import os
import pwd
import sys
from typing import TYPE_CHECKING

import click

from gateway.cli.main import EX_CONFIG, Context, Failure, config_option

if TYPE_CHECKING:
    from gateway.config import Config


@click.command()
@config_option
@click.option(
    "--probe", is_flag=True, help="Ask clamd, spamd, the resolver and the database whether they answer."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check(context: Context, *, probe: bool, as_json: bool) -> None:
    """Check the configuration, rules and model; exit 78 (EX_CONFIG) if one must not be used.

    \b
    Examples:
      mailwarden --config mailwarden.toml check
      mailwarden check --probe
    """
    from gateway import assembly, log  # noqa: PLC0415  # help and completion stay quick
    from gateway.config import ConfigError  # noqa: PLC0415

    settings = context.config
    try:
        loaded = assembly.load(settings, log.open_log(settings.log))
    except ConfigError as error:
        raise Failure(str(error), EX_CONFIG) from error
    thresholds = loaded.policy.thresholds
    facts = {
        "configuration": str(context.path),
        "name": settings.name,
        "milter": " ".join(settings.milter.listen) or "closed",
        "smart host": " ".join(settings.smarthost.listen) or "closed",
        "domains": " ".join(settings.domains) or "none",
        "next hop": settings.next_hop or "none",
        "antivirus": " ".join(settings.antivirus.addresses) if settings.antivirus.enabled else "off",
        "spamassassin": " ".join(settings.spamassassin.addresses) if settings.spamassassin.enabled else "off",
        "classifier": loaded.classifier.version if loaded.classifier else "unavailable",
        "signs for": " ".join(f"{k.domain}/{k.selector}" for k in loaded.signing.keys) or "nobody",
        "policy": loaded.policy.hash,
        "thresholds": f"tag {thresholds.tag:g}, quarantine {thresholds.quarantine:g}, "
        f"reject {thresholds.reject:g}",
        "database": settings.store.database.partition("@")[2] or settings.store.database,
    }
    warnings = warn(settings)
    if probe:
        facts |= _probe(settings)
    if as_json:
        click.echo(json.dumps({"ok": True, "facts": facts, "warnings": warnings}, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {value}")
    for text in warnings:
        click.echo(f"warning: {text}", err=True)
    click.echo("The configuration is good.")


def warn(settings: Config) -> list[str]:
    """Return what is allowed and probably not meant."""
    found = []
    if not (settings.milter.listen or settings.smarthost.listen):
        found.append("no door is open: set listen in [milter] or [smarthost]")
    if settings.smarthost.listen and not (settings.domains or settings.relay_networks):
        found.append("the smart host takes mail for nobody: set domains or relay_networks")
    if settings.smarthost.listen and not (settings.next_hop or settings.routes):
        found.append("the smart host has no next hop: set next_hop or [[routes]]")
    near = ("unix:", "inet:127.", "inet:[::1]", "inet:localhost")
    found += [
        f"anybody who reaches {address} can ask the milter; prefer loopback or unix:"
        for address in settings.milter.listen
        if not address.startswith(near)
    ]
    if os.getuid() == 0 and not settings.user:
        found.append("user is not set: the gateway would keep running as root")
    if settings.user and settings.user not in {p.pw_name for p in pwd.getpwall()}:
        found.append(f"user: there is no account {settings.user!r} on this machine")
    return found


def _probe(settings: Config) -> dict[str, str]:
    """Ask what the gateway would ask, and say who answers."""
    import time  # noqa: PLC0415

    from gateway.dns import Lookup, Resolver  # noqa: PLC0415
    from gateway.mail.headers import printable  # noqa: PLC0415
    from gateway.scanners.clamd import Clamd  # noqa: PLC0415
    from gateway.scanners.spamd import Spamd  # noqa: PLC0415
    from gateway.store.database import StoreError, open_database  # noqa: PLC0415

    message = b"From: probe@example.com\r\nSubject: probe\r\n\r\nprobe\r\n"
    until = time.monotonic() + 10
    answers = {}
    if settings.antivirus.enabled:
        scan = Clamd(settings.antivirus).scan((message,), until)
        answers["clamd answers"] = printable(f"{scan.status} {scan.detail or scan.engine}")
    if settings.spamassassin.enabled:
        spam = Spamd(settings.spamassassin).check(message, until)
        answers["spamd answers"] = printable(f"{spam.status} {spam.detail}")
    found = Lookup(Resolver(settings.dns), until).txt("example.com")
    answers["resolver answers"] = found.status
    try:
        open_database(settings.store).close()
        answers["database answers"] = "ok"
    except StoreError as error:
        answers["database answers"] = printable(str(error))
    sys.stdout.flush()
    return answers
