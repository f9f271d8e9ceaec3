# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden quarantine rescan`: held mail judged again, by today's signatures, rules and model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.heldmail import choose, many, opened, report
from gateway.cli.main import EX_CONFIG, Context, Failure
from gateway.cli.output import console
from gateway.mail.headers import printable
from gateway.store.database import StoreError
from gateway.store.states import WAITING

if TYPE_CHECKING:
    from gateway.pipeline import Gateway
    from gateway.policy.rescan import RescanSettings
    from gateway.store.quarantine import Quarantine


@click.command()
@many("Judge")
@click.pass_obj
def rescan(
    context: Context,
    /,
    ids: tuple[str, ...],
    *,
    all_matching: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Judge held messages again, and keep the verdict beside those before.

    Scanners, lists and the classifier are asked anew; what was found about the sender when the message
    came stays. Whether what passes by now is released is a setting ([rescan]).

    \b
    Examples:
      mailwarden quarantine rescan 1M80JFSJGNG4SMAS
      mailwarden quarantine rescan --all-matching --since 1d --yes
    """
    import msgspec  # noqa: PLC0415  # help stays quick

    from gateway import assembly, log  # noqa: PLC0415  # as above
    from gateway.auth.sign import SignSettings  # noqa: PLC0415  # as above
    from gateway.config import ConfigError  # noqa: PLC0415  # as above
    from gateway.metrics import Metrics  # noqa: PLC0415  # as above

    results: list[dict[str, Any]] = []
    with opened(context) as held:
        items = choose(held, ids, chosen, WAITING, all_matching=all_matching, yes=yes)
        settings = msgspec.structs.replace(context.config, signing=SignSettings())
        try:
            loaded = assembly.load(settings, path=context.path)
        except ConfigError as error:
            raise Failure(str(error), EX_CONFIG) from error
        made = assembly.assemble(
            loaded, Metrics(1).slot(0), log.open_log(settings.log), threads=8, keep=False
        )
        progress = len(items) > 1 and sys.stderr.isatty() and not quiet
        try:
            for number, name in enumerate(items, 1):
                if progress:
                    console(stderr=True).print(f"{number} of {len(items)}", end="\r")
                results.append(_one(held, made.gateway, name, settings.rescan))
        finally:
            made.close()
    report(results, as_json=as_json, quiet=quiet)
    if any(result["error"] for result in results):
        sys.exit(1)


def _one(held: Quarantine, gateway: Gateway, name: str, settings: RescanSettings) -> dict[str, Any]:
    from gateway.rescan import rescan as judge_again  # noqa: PLC0415  # help stays quick

    found = held.known([name]).get(name)
    if found is None or found.state not in WAITING:
        return {"id": name, "did": "", "error": "no such message waits for a decision"}
    try:
        done = judge_again(gateway, held, found, settings)
    except StoreError as error:
        return {"id": name, "did": "", "error": str(error)}
    verdict = done.verdict
    words = f"{verdict.action.value}: {verdict.reason} ({verdict.score:.2f}); {done.did}"
    words += f"; found {printable(done.infection, 200)}" if done.infection else ""
    words += "; it would pass by now" if done.passes else ""
    return {
        "id": name,
        "did": words,
        "error": "",
        "action": verdict.action.value,
        "score": verdict.score,
        "passes": done.passes,
        "infection": done.infection,
        "became": done.did,
    }
