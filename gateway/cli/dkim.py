# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden dkim`: keys that sign outbound mail: make one, say what to publish, see whether it is."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.main import (
    EX_CONFIG,
    EX_NOINPUT,
    EX_TEMPFAIL,
    EX_USAGE,
    Context,
    Failure,
    config_option,
    json_option,
)
from gateway.cli.output import console, print_json, table
from gateway.mail.domains import normal

if TYPE_CHECKING:
    from gateway.auth.sign import SigningKey

EX_CANTCREAT = 73
_DNS_SECONDS = 20.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def dkim() -> None:
    """Make keys that sign outbound mail, and see to it that they are published.

    \b
    Examples:
      mailwarden dkim keygen --domain example.com --selector 2026a --out /etc/mailwarden/dkim
      mailwarden dkim dns
      mailwarden dkim check
    """


@dkim.command()
@click.option("--domain", required=True, help="The domain, d= of its signatures.")
@click.option("--selector", required=True, help="The selector, s=: a name of its own for each key.")
@click.option("--ed25519", is_flag=True, help="An Ed25519 key (RFC 8463); sign with an RSA key as well.")
@click.option("--bits", type=click.IntRange(2048, 4096), help="Length of the RSA key.  [default: 2048]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory for the private key, made if it is not there.",
)
@json_option
def keygen(*, domain: str, selector: str, ed25519: bool, bits: int | None, out: Path, as_json: bool) -> None:
    """Make a key: write the private half to OUT, and print the record to publish.

    The file DOMAIN.SELECTOR.pem can be read by its owner alone, so run this as the user that
    Mailwarden starts as. Nothing is ever overwritten.

    \b
    Examples:
      mailwarden dkim keygen --domain example.com --selector 2026a --out /etc/mailwarden/dkim
      mailwarden dkim keygen --domain example.com --selector 2026e --ed25519 --out /etc/mailwarden/dkim
    """
    from gateway.auth.publish import zone_record  # noqa: PLC0415  # help and completion stay quick
    from gateway.auth.sign import SigningKey, generate_key, key_record, read_private_key  # noqa: PLC0415
    from gateway.auth.signature import BadSignatureError, key_name, read_domain  # noqa: PLC0415

    if ed25519 and bits:
        raise Failure("one of --ed25519 and --bits", EX_USAGE)
    try:
        domain, selector = read_domain(domain.encode(), "d"), read_domain(selector.encode(), "s")
    except BadSignatureError as error:
        raise Failure(f"--domain or --selector: {error}", EX_USAGE) from error
    pem = generate_key("ed25519") if ed25519 else generate_key("rsa", bits or 2048)
    key = SigningKey(domain, selector, read_private_key(pem))
    file = out / f"{domain}.{selector}.pem"
    _write(file, pem)
    if as_json:
        record = key_record(key.private)
        print_json({"file": str(file), "name": key_name(selector, domain), "record": record})
        return
    click.echo(f"The private key is in {file}. Publish:\n\n{zone_record(key)}\n")
    click.echo(
        "When `dig +short TXT` shows it, sign with it:\n\n"
        f'[[signing.keys]]\ndomain = "{domain}"\nselector = "{selector}"\nkey_file = "{file}"'
    )


def _write(file: Path, pem: bytes) -> None:
    """Write a new file that only its owner may read."""
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            os.fchmod(descriptor, 0o600)
            opened.write(pem)
            opened.flush()
            os.fsync(descriptor)
    except FileExistsError as error:
        raise Failure(f"{file} is there already; take another selector", EX_CANTCREAT) from error
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}", EX_CANTCREAT) from error


@dkim.command()
@click.option("--domain", default="", help="Only the keys of this domain.")
@json_option
@click.pass_obj
def dns(context: Context, *, domain: str, as_json: bool) -> None:
    """Print the records of all configured keys, as lines of a zone file.

    \b
    Examples:
      mailwarden dkim dns
      mailwarden dkim dns --domain example.com >> example.com.zone
    """
    from gateway.auth.publish import zone_record  # noqa: PLC0415  # help and completion stay quick
    from gateway.auth.sign import key_record  # noqa: PLC0415
    from gateway.auth.signature import key_name  # noqa: PLC0415

    keys = _keys(context, domain)
    if as_json:
        print_json([{"name": key_name(k.selector, k.domain), "record": key_record(k.private)} for k in keys])
        return
    for key in keys:
        click.echo(zone_record(key))


@dkim.command()
@click.option("--domain", default="", help="Only the keys of this domain.")
@json_option
@click.pass_obj
def check(context: Context, *, domain: str, as_json: bool) -> None:
    """Ask the resolver whether what is published belongs to the configured keys.

    The exit status is 0 if all are good, 1 if one is missing, different or broken, and 75 if the
    DNS did not answer.

    \b
    Examples:
      mailwarden dkim check
      mailwarden dkim check --domain example.com --json
    """
    from gateway.auth.publish import check_published  # noqa: PLC0415  # help and completion stay quick
    from gateway.auth.signature import key_name  # noqa: PLC0415
    from gateway.dns import Lookup, Resolver  # noqa: PLC0415

    lookup = Lookup(Resolver(context.config.dns), time.monotonic() + _DNS_SECONDS)
    found = [
        (key_name(key.selector, key.domain), key.algorithm, check_published(key, lookup))
        for key in _keys(context, domain)
    ]
    if as_json:
        print_json(
            [
                {"name": name, "algorithm": kind, "state": one.state, "why": one.why}
                for name, kind, one in found
            ]
        )
    else:
        rows = [(name, kind, one.state, one.why) for name, kind, one in found]
        console().print(table(("Record!", "Algorithm!", "State!", "Why"), rows))
    states = {one.state for _, _, one in found}
    if states - {"good", "unknown"}:
        sys.exit(1)
    if "unknown" in states:
        sys.exit(EX_TEMPFAIL)


def _keys(context: Context, domain: str) -> tuple[SigningKey, ...]:
    """The configured keys, of one domain or of all."""
    from gateway.auth.sign import load_keys  # noqa: PLC0415

    try:
        keys = load_keys(context.config.signing)
    except (OSError, ValueError) as error:
        raise Failure(f"signing: {error}", EX_CONFIG) from error
    wanted = tuple(key for key in keys if not domain or key.domain == normal(domain))
    if not wanted:
        what = f"no key of {domain}" if domain else "no key"
        raise Failure(f"there is {what} in [[signing.keys]]", EX_NOINPUT)
    return wanted
