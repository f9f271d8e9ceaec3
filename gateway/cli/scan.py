# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden scan`: judge messages from files, without a mail server and without keeping them."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.main import EX_CONFIG, EX_NOINPUT, EX_TEMPFAIL, Context, Failure, config_option
from gateway.mail.networks import address
from gateway.mail.types import Action, Envelope, Mail, Session, Tls, new_id

if TYPE_CHECKING:
    from gateway.assembly import Opened
    from gateway.config import Config

STATUS = {
    Action.RELAY: 0,
    Action.TAG: 1,
    Action.STRIP: 1,
    Action.QUARANTINE: 2,
    Action.REJECT: 3,
    Action.DEFER: EX_TEMPFAIL,
}
_SIZE_LIMIT = 200_000_000


@click.command()
@config_option
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True, path_type=Path))
@click.option("--ip", default="", help="Client address, for SPF.")
@click.option("--helo", default="", help="HELO name of the client.")
@click.option("--from", "sender", default="", help="Envelope sender.")
@click.option(
    "--rcpt", "recipients", multiple=True, default=("postmaster",), help="Recipient; may be repeated."
)
@click.option("--tls", "tls_version", default="", metavar="VERSION", help="As if received over TLS: TLSv1.3.")
@click.option("--offline", is_flag=True, help="Ask neither DNS nor scanners.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def scan(
    context: Context,
    files: tuple[Path, ...],
    ip: str,
    helo: str,
    sender: str,
    recipients: tuple[str, ...],
    tls_version: str,
    *,
    offline: bool,
    as_json: bool,
) -> None:
    """Judge messages from FILES ("-" is standard input) and explain each verdict.

    Nothing is relayed, held or recorded. The exit status is that of the worst verdict:
    0 relay, 1 tag or strip, 2 quarantine, 3 reject, 75 defer (something could not be asked).

    \b
    Examples:
      mailwarden scan --offline message.eml
      mailwarden scan --ip 192.0.2.1 --helo mx.example.org --from alice@example.org message.eml
      cat message.eml | mailwarden scan --json -
    """
    if ip and address(ip) is None:
        raise click.BadParameter(f"{ip!r} is no IP address", param_hint="--ip")
    session = Session(client_ip=ip, helo=helo, tls=Tls(tls_version) if tls_version else None)
    opened = _open(context, offline=offline)
    worst = 0
    try:
        for path in files:
            mail = Mail(new_id(), session, Envelope(sender, recipients), _read(path), time.time())
            worst = max(worst, STATUS[_judge(mail, path, opened, as_json=as_json)])
    finally:
        opened.close()
    sys.exit(worst)


def _open(context: Context, *, offline: bool) -> Opened:
    """Load what judging needs. Without a configuration the defaults serve."""
    import msgspec  # noqa: PLC0415  # help and completion stay quick

    from gateway import assembly, log  # noqa: PLC0415
    from gateway.auth.sign import SignSettings  # noqa: PLC0415
    from gateway.config import Config, ConfigError  # noqa: PLC0415
    from gateway.metrics import Metrics  # noqa: PLC0415

    settings = context.config if context.given or context.path.exists() else Config()
    if offline:
        settings = _without_network(settings)
    settings = msgspec.structs.replace(settings, signing=SignSettings())  # keys are the service's alone
    try:
        loaded = assembly.load(settings, path=context.path)
    except ConfigError as error:
        raise Failure(str(error), EX_CONFIG) from error
    return assembly.assemble(loaded, Metrics(1).slot(0), log.open_log(settings.log), threads=8, keep=False)


def _without_network(settings: Config) -> Config:
    import msgspec  # noqa: PLC0415

    replace = msgspec.structs.replace
    return replace(
        settings,
        auth=replace(settings.auth, spf=False, dkim=False, dmarc=False, arc=False, iprev=False),
        antivirus=replace(settings.antivirus, enabled=False),
        spamassassin=replace(settings.spamassassin, enabled=False),
    )


def _read(path: Path) -> bytes:
    """Return a message with CRLF line ends, as it would come over SMTP."""
    try:
        raw = sys.stdin.buffer.read(_SIZE_LIMIT) if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", EX_NOINPUT) from error
    if raw.startswith(b"From ") and b"\n" in raw[:1000]:
        raw = raw.partition(b"\n")[2]  # the separator of an mbox
    return raw if b"\r\n" in raw else re.sub(rb"\r?\n", b"\r\n", raw)


def _judge(mail: Mail, path: Path, opened: Opened, *, as_json: bool) -> Action:
    from gateway.cli.explain import as_dict, render_verdict  # noqa: PLC0415
    from gateway.cli.output import console  # noqa: PLC0415
    from gateway.pipeline import consider  # noqa: PLC0415
    from gateway.reply import reply_to  # noqa: PLC0415
    from gateway.store.journal import record_of  # noqa: PLC0415

    started = time.monotonic()
    content, evidence, signals, verdict, _ = consider(mail, opened.gateway)
    record = record_of(
        mail,
        content,
        evidence,
        signals,
        verdict,
        reply=reply_to(verdict),
        door="scan",
        seconds=time.monotonic() - started,
    )
    if as_json:
        click.echo(json.dumps({"file": str(path), **as_dict(record)}))
    else:
        click.echo(click.style(str(path), bold=True))
        render_verdict(console(), record)
    return verdict.action
