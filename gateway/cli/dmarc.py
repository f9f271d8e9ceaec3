# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden dmarc`: aggregate reports to the domains that ask for them, and what a domain publishes.

Prints domains and records of strangers, through `output`.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.main import EX_CONFIG, EX_USAGE, Context, Failure, config_option, json_option
from gateway.cli.output import console, facts, print_json
from gateway.cli.reporting import Kind, options, posting, run
from gateway.dns import Lookup, Resolver
from gateway.mail.domains import to_ascii
from gateway.mail.headers import printable
from gateway.reports.observe import is_domain
from gateway.store.dmarc import summaries

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import Config
    from gateway.reports.destinations import Destination
    from gateway.reports.sending import Sending
    from gateway.store.database import Database
    from gateway.store.reported import Summary

_DNS_SECONDS = 20.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def dmarc() -> None:
    """Report to domains what DMARC found of their mail, and look at what they publish.

    \b
    Examples:
      mailwarden dmarc report
      mailwarden dmarc report --send
      mailwarden dmarc show example.com
    """


# ---------------------------------------------------------------- reports


@dmarc.command()
@config_option
@options("policy")
@click.pass_obj
def report(context: Context, /, **chosen: Any) -> None:
    """List the reports there are to send, write them to files, or send them.

    One report for each policy domain and day. Run it with --send once a day, some time after
    midnight UTC. What a next hop deferred is sent by the next run, and nothing is sent twice.
    The exit status is 1 if a destination could not be reached.

    \b
    Examples:
      mailwarden dmarc report
      mailwarden dmarc report --day 2026-01-31 --domain example.com --out reports
      mailwarden dmarc report --send
    """
    run(context.config, Kind("messages", summaries, _packed, _sender), **chosen)


def _packed(config: Config, database: Database, summary: Summary) -> tuple[str, bytes]:
    from gateway.reports.aggregate import packed  # noqa: PLC0415  # a list needs none of it
    from gateway.reports.send import make  # noqa: PLC0415  # as above

    submitter = config.report.submitter(config.name)
    made = make(database, summary, config.report, submitter, config.auth.dmarc_method)
    return made.filename, packed(made, config.report.format)


def _sender(config: Config, database: Database) -> Callable[[Database, Summary], list[Sending] | None]:
    from gateway.reports.send import Reporter, send  # noqa: PLC0415  # as above

    deliver, signing = posting(config, config.report, "report", database)
    reporter = Reporter(
        settings=config.report,
        submitter=config.report.submitter(config.name),
        method=config.auth.dmarc_method,
        resolver=Resolver(config.dns),
        deliver=deliver,
        signing=signing,
    )
    return partial(send, reporter=reporter)


# ---------------------------------------------------------------- what a domain publishes


@dmarc.command()
@config_option
@click.argument("domain")
@json_option
@click.pass_obj
def show(context: Context, /, domain: str, *, as_json: bool) -> None:
    """Show the policy that applies to mail from DOMAIN, and what a message that fails it meets here.

    \b
    Example:
      mailwarden dmarc show example.com
    """
    from gateway.auth import suffixes  # noqa: PLC0415  # as above
    from gateway.auth.dmarc import evaluate, fetch  # noqa: PLC0415  # as above
    from gateway.config import Config  # noqa: PLC0415  # as above
    from gateway.reports.destinations import destinations  # noqa: PLC0415  # as above

    config = context.config if context.given or context.path.exists() else Config()
    name = to_ascii(domain)
    if name is None or not is_domain(name):
        raise Failure(f"{printable(domain, 100)!r} is no domain name", EX_USAGE)
    method = config.auth.dmarc_method
    lookup = Lookup(Resolver(config.dns), time.monotonic() + _DNS_SECONDS)
    found = fetch(name, lookup, method)
    shown: dict[str, Any] = {"domain": name, "status": found.status, "reason": found.reason}
    if found.doubt:
        shown["in doubt"] = f"{found.doubt} at another name whose record might count: failures are deferred"
    wanted: tuple[Destination, ...] = ()
    record = found.record
    if record is not None:
        applied = evaluate(found, (), (), lambda other: other).policy
        shown |= {
            "found at": found.record_domain,
            "organizational domain": found.organizational,
            "record": record.text,
            "policy": applied or "none of use",
            "on failure": _on_failure(config, applied) if applied else "nothing, as without a record",
            "percent": record.percent,
            "testing": "yes" if record.testing else "no",
            "found by": "the tree walk (RFC 9989)"
            if method == "tree-walk"
            else f"the Public Suffix List {suffixes.told()}",
            "alignment": f"DKIM {_MODES[record.adkim]}, SPF {_MODES[record.aspf]}",
        }
        wanted = destinations(record.rua, found.record_domain, lookup, method, config.report.max_destinations)
    reports = [
        {"destination": one.address, "status": one.status, "limit": one.limit, "reason": one.reason}
        for one in wanted
    ]
    if as_json:
        print_json({key.replace(" ", "_"): value for key, value in shown.items()} | {"reports": reports})
    else:
        told = [("report to", f"{one.address} {one.status} {one.reason}".strip()) for one in wanted]
        console().print(facts([*shown.items(), *told]))
    if found.status == "temperror":
        sys.exit(1)


_MODES = {"r": "relaxed", "s": "strict"}


def _on_failure(config: Config, policy: str) -> str:
    """What the rules do with a message that fails this policy."""
    from gateway.data import data_dir  # noqa: PLC0415  # as above
    from gateway.policy import rules  # noqa: PLC0415  # as above
    from gateway.policy.patterns import RuleError  # noqa: PLC0415  # as above

    names = {"reject": "DMARC_REJECT", "quarantine": "DMARC_QUARANTINE"}
    name = names.get(policy, "DMARC_FAIL")
    try:
        weight = rules.load(data_dir("rules"), config.policy).weights[name]
    except RuleError as error:
        raise Failure(str(error), EX_CONFIG) from error
    return f"{name}: {weight.action.value if weight.action else f'{weight.points(1.0):g} points'}"
