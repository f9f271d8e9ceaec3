# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden route`: where mail to a recipient would go now, and under which conditions.

Prints names of strangers from the DNS, through `output`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.database import opened
from gateway.cli.main import EX_DATAERR, Context, Failure, config_option, json_option
from gateway.cli.output import console, facts, print_json, table
from gateway.mail.domains import domain_of
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from gateway.delivery.ways import Way


@click.command()
@config_option
@click.argument("recipient")
@json_option
@click.pass_obj
def route(context: Context, /, recipient: str, *, as_json: bool) -> None:
    """Show the servers that mail to RECIPIENT (or to a domain) would be sent to, in the order they are tried.

    Asks the DNS where the route is by MX records, and for what the servers must offer; connects to none.
    The exit status is 1 if there is no server to try.

    \b
    Examples:
      mailwarden route bob@example.com
      mailwarden route example.com --json
    """
    from gateway.assembly import load_hop_logins, ways  # noqa: PLC0415  # help stays quick
    from gateway.delivery.routes import routes  # noqa: PLC0415  # as above
    from gateway.delivery.ways import NoWay  # noqa: PLC0415  # as above

    config = context.config
    address = recipient if "@" in recipient else f"postmaster@{recipient}"
    domain = domain_of(address)
    if not domain:
        raise Failure("neither an address nor a domain", EX_DATAERR)
    found = routes(config.routes, config.next_hop).route(address)
    shown: dict[str, Any] = {"domain": domain, "route": str(found or "none")}
    rows: list[dict[str, Any]] = []
    if found is None:
        shown["problem"] = "no row of [[routes]] names this domain, and there is no next_hop"
    else:
        with opened(config) as database:
            known = ways(config, load_hop_logins(config), database)
            try:
                rows = [_row(one) for one in known.find(known.target(found, domain))]
            except NoWay as none:
                shown["problem"] = printable(str(none.reply), 400)
    if as_json:
        print_json(shown | {"servers": rows})
    else:
        console().print(facts(shown.items()))
        if rows:
            heads = ("Server!", "Address", "TLS", "Source", "Login", "What")
            cells = ("server", "address", "tls", "source", "login", "what")
            console().print(table(heads, [[row[cell] for cell in cells] for row in rows]))
    if all(row["tls"] == "refused" for row in rows):
        sys.exit(1)


def _row(way: Way) -> dict[str, Any]:
    """One server as it is shown; of a login the name, never the password."""
    policy = way.tls
    return {
        "server": printable(str(way.server), 300),
        "address": way.server.address,
        "tls": "refused" if policy.refusal else policy.level,
        "source": policy.source,
        "login": way.login.name if way.login else "",
        "what": printable(policy.refusal, 300),
    }
