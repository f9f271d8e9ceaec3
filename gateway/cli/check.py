# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden check`: whether a configuration is good, and what it does."""

from __future__ import annotations

import json
import os
import pwd
import sys
from typing import TYPE_CHECKING

import click

from gateway.cli.main import EX_CONFIG, Context, Failure, config_option, json_option
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from gateway.config import Config


@click.command()
@config_option
@click.option(
    "--probe", is_flag=True, help="Ask clamd, spamd, the resolver and the database whether they answer."
)
@json_option
@click.pass_obj
def check(context: Context, *, probe: bool, as_json: bool) -> None:
    """Check the configuration, rules and model; exit 78 (EX_CONFIG) if one must not be used.

    With --probe the exit status is 1 if somebody who is asked does not answer.

    \b
    Examples:
      mailwarden --config mailwarden.toml check
      mailwarden check --probe
    """
    from gateway import assembly, log  # noqa: PLC0415  # help and completion stay quick
    from gateway.auth import suffixes  # noqa: PLC0415
    from gateway.config import ConfigError  # noqa: PLC0415

    settings = context.config
    try:
        loaded = assembly.load(settings, log.open_log(settings.log), context.path)
    except ConfigError as error:
        raise Failure(str(error), EX_CONFIG) from error
    fatal = refuse(settings)
    if fatal:
        raise Failure(f"{context.path}: {fatal}", EX_CONFIG)
    thresholds = loaded.policy.thresholds
    facts = {
        "configuration": str(context.path),
        "name": settings.name,
        "milter": " ".join(settings.milter.listen) or "closed",
        "smart host": " ".join(settings.smarthost.listeners) or "closed",
        "domains": " ".join(settings.domains) or "none",
        "next hop": settings.next_hop or "none",
        "tls outbound": _outbound(settings),
        "antivirus": " ".join(settings.antivirus.addresses) if settings.antivirus.enabled else "off",
        "spamassassin": " ".join(settings.spamassassin.addresses) if settings.spamassassin.enabled else "off",
        "classifier": loaded.classifier.version if loaded.classifier else "unavailable",
        "public suffix list": suffixes.told(),
        "signs for": " ".join(f"{k.domain}/{k.selector}" for k in loaded.signing.keys) or "nobody",
        "policy": loaded.policy.hash,
        "thresholds": f"tag {thresholds.tag:g}, quarantine {thresholds.quarantine:g}, "
        f"reject {thresholds.reject:g}",
        "web page": settings.web.listen if settings.web.enabled else "off",
        "digests": " ".join(settings.digest.domains) or "nobody" if settings.digest.enabled else "off",
        "database": settings.store.database.partition("@")[2] or settings.store.database,
    }
    warnings = warn(settings)
    silent: list[str] = []
    if probe:
        answers = _probe(settings)
        facts |= {name: answer for name, (_, answer) in answers.items()}
        silent = [name.removesuffix(" answers") for name, (well, _) in answers.items() if not well]
    if as_json:
        click.echo(json.dumps({"ok": not silent, "facts": facts, "warnings": warnings}, indent=2))
        sys.exit(1 if silent else 0)
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {value}")
    for text in warnings:
        click.echo(f"warning: {text}", err=True)
    click.echo("The configuration is good.")
    if silent:
        raise Failure(f"no good answer from {', '.join(silent)}", 1)


def refuse(settings: Config) -> str:
    """Return why the service would not start with what is a configuration otherwise, or ""."""
    if not (settings.milter.listen or settings.smarthost.listeners or settings.tls.socketmap):
        return "no door is open: set listen in [milter] or [smarthost], or socketmap in [tls]"
    if os.getuid() == 0 and settings.user and settings.user not in {p.pw_name for p in pwd.getpwall()}:
        return f"user: there is no account {settings.user!r} on this machine; create it first"
    return ""


def warn(settings: Config) -> list[str]:
    """Return what is allowed and probably not meant."""
    from gateway.auth import suffixes  # noqa: PLC0415

    found = []
    if settings.smarthost.listeners and not (settings.domains or settings.relay_networks):
        found.append("the smart host takes mail for nobody: set domains or relay_networks")
    if settings.smarthost.listeners and not (settings.next_hop or settings.routes):
        found.append("the smart host has no next hop: set next_hop or [[routes]]")
    if settings.milter.listen and not (settings.release.next_hop or settings.next_hop or settings.routes):
        found.append("what is held can be released to nobody: set [release] next_hop, next_hop or [[routes]]")
    near = ("unix:", "inet:127.", "inet:[::1]", "inet:localhost")
    found += [
        f"anybody who reaches {address} can ask the milter; prefer loopback or unix:"
        for address in settings.milter.listen
        if not address.startswith(near)
    ]
    if (suffixes.age() or 0) > suffixes.STALE:
        found.append(f"the Public Suffix List is {suffixes.told()}: update the package publicsuffixlist")
    if os.getuid() == 0 and not settings.user:
        found.append("user is not set: the gateway would keep running as root")
    return found


def _outbound(settings: Config) -> str:
    """What next hops are held to, besides the table."""
    from gateway.dns import Resolver  # noqa: PLC0415

    believed = Resolver(settings.dns).believed
    dane = "DANE" if believed else "no DANE, since no resolver is on loopback"
    if not settings.tls.dane:
        dane = "without DANE"
    sts = "MTA-STS" if settings.tls.mta_sts else "without MTA-STS"
    return f"{len(settings.tls.outbound)} rows, {dane}, {sts}, on downgrade {settings.tls.downgrade}"


def _probe(settings: Config) -> dict[str, tuple[bool, str]]:
    """Ask what the gateway would ask: by name, whether the answer is good, and what it is."""
    import time  # noqa: PLC0415

    from gateway.dns import Lookup, Resolver  # noqa: PLC0415
    from gateway.scanners.clamd import Clamd  # noqa: PLC0415
    from gateway.scanners.spamd import Spamd  # noqa: PLC0415
    from gateway.store.database import StoreError, open_database  # noqa: PLC0415

    message = b"From: probe@example.com\r\nSubject: probe\r\n\r\nprobe\r\n"
    until = time.monotonic() + 10
    answers: dict[str, tuple[bool, str]] = {}
    if settings.antivirus.enabled:
        scan = Clamd(settings.antivirus).scan((message,), until)
        said = printable(f"{scan.status} {scan.detail or scan.engine}")
        answers["clamd answers"] = (scan.status == "clean", said)
    if settings.spamassassin.enabled:
        spam = Spamd(settings.spamassassin).check(message, until)
        answers["spamd answers"] = (spam.status == "ok", printable(f"{spam.status} {spam.detail}"))
    found = Lookup(Resolver(settings.dns), until).txt("example.com")
    answers["resolver answers"] = (found.status in ("ok", "nodata", "nxdomain"), found.status)
    try:
        open_database(settings.store).close()
        answers["database answers"] = (True, "ok")
    except StoreError as error:
        answers["database answers"] = (False, printable(str(error)))
    sys.stdout.flush()
    return answers
