# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden tls`: what mail to a domain must be sent over, and why, and TLS reports.

Prints names and policies of strangers, through `output`.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.database import opened
from gateway.cli.main import EX_DATAERR, Context, Failure, config_option, json_option
from gateway.cli.output import console, facts, moment, print_json, table
from gateway.cli.reporting import Kind, options, posting, run
from gateway.dns import Resolver
from gateway.mail.domains import to_ascii
from gateway.mail.headers import printable
from gateway.store.tlsrpt import summaries

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import Config
    from gateway.reports.sending import Sending
    from gateway.store.database import Database
    from gateway.store.hosts import Hosts
    from gateway.store.reported import Summary
    from gateway.tls.destination import Destination, Exchanger
    from gateway.tls.outbound import TlsPolicy

_DNS_SECONDS = 10.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def tls() -> None:
    """Say what TLS mail to a domain needs, and report to domains what TLS towards them came to.

    \b
    Examples:
      mailwarden tls report --send
      mailwarden tls explain example.com
      mailwarden tls forget mx.example.com
    """


@tls.command()
@config_option
@click.argument("domain")
@json_option
@click.pass_obj
def explain(context: Context, /, domain: str, *, as_json: bool) -> None:
    """Show what each next hop of mail to DOMAIN must offer before it is sent, and who says so.

    Asks the DNS, and the domain's web server if it has an MTA-STS policy that is not kept here; connects to
    no mail server. Without a route for DOMAIN, its MX hosts are shown.

    "dane" and "mta-sts" are what the domain asks for, "table" is [[tls.outbound]], "memory" what the host
    offered before. The exit status is 1 if nothing could be sent now.

    \b
    Examples:
      mailwarden tls explain example.com
      mailwarden tls explain example.com --json
    """
    from gateway.assembly import demands  # noqa: PLC0415  # the group's help needs none of it
    from gateway.config import Config  # noqa: PLC0415  # as above
    from gateway.store.hosts import Hosts  # noqa: PLC0415  # as above
    from gateway.tls.destination import look, postfix_policy  # noqa: PLC0415  # as above
    from gateway.tls.tlsrpt import record_of  # noqa: PLC0415  # as above

    known = context.given or context.path.exists()
    config = context.config if known else Config()
    name = to_ascii(domain.rpartition("@")[2])
    if name is None or "." not in name:
        raise Failure("not a domain name", EX_DATAERR)
    with opened(config) if known else nullcontext() as database:
        asked = demands(config, database)
        found = look(asked, name)
        hosts = Hosts(database, config.tls.memory_days) if database else None
        routed, exchangers = _routed(config, database, name)
        rows = [_row(one, hosts) for one in (exchangers if routed else found.exchangers)]
    reports = record_of(
        asked.resolver.query(f"_smtp._tls.{name}", "TXT", time.monotonic() + _DNS_SECONDS).values
    )
    shown = (
        _about(found)
        | ({"routed by": routed} if routed else {})
        | {"tls-rpt": " ".join(reports), "postfix": postfix_policy(found) or "no policy"}
    )
    if as_json:
        print_json(
            {key.replace(" ", "_").replace("-", "_"): value for key, value in shown.items()} | {"mx": rows}
        )
    else:
        console().print(facts(shown.items()))
        if rows:
            heads = ("Order>", "Host!", "Level", "Source", "Remembered", "What")
            cells = ("preference", "host", "level", "source", "remembered", "what")
            console().print(table(heads, [[row[cell] for cell in cells] for row in rows]))
    if not rows or all(row["level"] == "refused" for row in rows):
        sys.exit(1)


def _routed(config: Config, database: Database | None, domain: str) -> tuple[str, list[Exchanger]]:
    """The route of mail to `domain` and its servers, as a delivery would try them; "" without a route."""
    from gateway.assembly import load_hop_logins, ways  # noqa: PLC0415  # as above
    from gateway.delivery.routes import routes  # noqa: PLC0415  # as above
    from gateway.delivery.ways import NoWay  # noqa: PLC0415  # as above
    from gateway.tls.destination import Exchanger  # noqa: PLC0415  # as above

    route = routes(config.routes, config.next_hop).route(f"postmaster@{domain}")
    if route is None:
        return "", []
    out = ways(config, load_hop_logins(config), database)
    try:
        found = out.find(out.target(route, domain))
    except NoWay as none:
        return f"{route}: {none}", []
    finally:
        out.close()
    servers = {one.server.host or str(one.server): one.tls for one in found}
    return str(route), [Exchanger(at, host, tls) for at, (host, tls) in enumerate(servers.items(), 1)]


_STATUS = {
    "mx": "MX records",
    "implicit": "no MX records: the domain's own address",
    "host": "a host",
    "null": "takes no mail (null MX)",
    "nxdomain": "does not exist",
    "temperror": "the DNS does not answer",
}


def _about(found: Destination) -> dict[str, Any]:
    sts, rule = found.sts, found.rule
    shown: dict[str, Any] = {
        "domain": found.domain,
        "routed by": _STATUS[found.status],
        "dnssec": "the MX records are validated" if found.secure else "the MX records are not validated",
        "table": f"level {rule.level}" if rule else "no row about the whole domain",
    }
    if sts.policy:
        shown["mta-sts"] = sts.policy.mode
        shown["mta-sts mx"] = " ".join(sts.policy.mx)
        shown["mta-sts id"] = sts.ident
        shown["mta-sts until"] = moment(sts.expires)
    else:
        shown["mta-sts"] = "no policy"
    if sts.failure:
        shown["mta-sts problem"] = f"{sts.failure}: {sts.reason}"
    return shown


def _row(one: Exchanger, hosts: Hosts | None) -> dict[str, Any]:
    policy = one.policy
    return {
        "preference": one.preference,
        "host": one.host,
        "level": "refused" if policy.refusal else policy.level,
        "source": policy.source or "nobody asks",
        "remembered": hosts.security(one.host) if hosts else "",
        "what": _what(policy),
    }


def _what(policy: TlsPolicy) -> str:
    """What a policy comes to, in words."""
    if policy.refusal:
        return policy.refusal
    if policy.level == "dane":
        records = ", ".join(str(record)[:24] for record in policy.tlsa)
        return f"a certificate that fits TLSA {records} at {policy.match}"
    said = {
        "none": "never TLS",
        "may": "TLS if it is offered, else in clear",
        "encrypt": "TLS, whoever answers",
        "verify": f"TLS, and a valid certificate for {policy.match}",
    }[policy.level]
    if policy.failure == "tlsa-invalid":
        said += "; none of its TLSA records is usable"
    return f"{said}, testing" if policy.source == "mta-sts" and policy.level == "may" else said


@tls.command()
@config_option
@click.argument("hosts", nargs=-1, required=True)
@click.pass_obj
def forget(context: Context, /, hosts: tuple[str, ...]) -> None:
    """Forget what TLS HOSTS offered before.

    For a mail exchanger that has lost its TLS or its valid certificate for good, where [tls] downgrade is
    "defer". What DANE and MTA-STS demand stays as it is.

    \b
    Example:
      mailwarden tls forget mx.example.com
    """
    from gateway.store.hosts import Hosts  # noqa: PLC0415  # as above

    with opened(context.config) as database:
        unknown = [host for host in hosts if not Hosts(database, 1).forget(to_ascii(host) or host)]
    for host in unknown:
        click.echo(f"{printable(host, 253)} was not known", err=True)
    if unknown:
        sys.exit(1)


# ---------------------------------------------------------------- reports


@tls.command()
@config_option
@options("recipient")
@click.pass_obj
def report(context: Context, /, **chosen: Any) -> None:
    """List the TLS reports there are to send (RFC 8460), write them to files, or send them.

    One report for each recipient domain and day, by mail or HTTPS as its TLSRPT record says. Run it with
    --send once a day, some time after midnight UTC. What was deferred is sent by the next run, and nothing is
    sent twice. The exit status is 1 if a destination could not be reached. Needs [tls_report].

    \b
    Examples:
      mailwarden tls report
      mailwarden tls report --day 2026-01-31 --domain example.com --out reports
      mailwarden tls report --send
    """
    run(context.config, Kind("connections", summaries, _packed, _sender), **chosen)


def _packed(config: Config, database: Database, summary: Summary) -> tuple[str, bytes]:
    from gateway.reports.tls_send import make  # noqa: PLC0415  # a list needs none of it
    from gateway.reports.tlsrpt import packed  # noqa: PLC0415  # as above

    made = make(database, summary, config.tls_report, config.tls_report.submitter(config.name))
    return made.filename, packed(made)


def _sender(config: Config, database: Database) -> Callable[[Database, Summary], list[Sending] | None]:
    from gateway.reports.tls_send import TlsReporter, send  # noqa: PLC0415  # as above
    from gateway.tls.fetch import Web  # noqa: PLC0415  # as above

    deliver, signing = posting(config, config.tls_report, "tls_report", database)
    resolver = Resolver(config.dns)
    submitter = config.tls_report.submitter(config.name)
    reporter = TlsReporter(config.tls_report, submitter, resolver, Web(resolver), deliver, signing)
    return partial(send, reporter=reporter)
