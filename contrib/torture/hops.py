# SPDX-License-Identifier: GPL-2.0-or-later
"""A next hop that hangs, hangs up, talks nonsense or never ends, in each phase of the dialogue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, get_args

from contrib.lab.sink import Phase, Rule
from contrib.torture.trial import Result, Stage, started

if TYPE_CHECKING:
    from contextlib import ExitStack

_WELL, _ILL = 0.5, 1.5  # seconds for which the next hop is itself, and is not
_TIMEOUTS: Final = dict.fromkeys(("connect", "greeting", "command", "data", "end_of_data", "quit"), 0.5)
_FAULTS: Final[dict[str, dict[str, Any]]] = {
    "hangs": {"hang": True},
    "hangs up": {"close": True},
    "talks nonsense": {"reply": "\x00\x1b[2J nonsense"},
    "never ends": {"reply": "\r\n".join(["250-on and on"] * 20_000)},
    "puts off": {"reply": "421 4.3.2 going down"},
    "contradicts itself": {"reply": "354 go on\r\n250 2.0.0 Ok\r\n451 4.0.0 no"},
}


def hops(stage: Stage, stack: ExitStack) -> Result:
    """All faults in all phases, under load."""
    gateway = started(stage, stack, "gateway", stage.settings(smarthost={"relay": _TIMEOUTS}), {})
    with stage.senders(gateway) as senders:
        for phase in get_args(Phase):
            if phase == "starttls":
                continue
            for name, fault in _FAULTS.items():
                if (phase, name) == ("data", "contradicts itself"):
                    continue  # a next hop that takes DATA and keeps nothing says so afterwards
                rule = Rule(phase, **fault)
                if phase == "body":  # 250 would keep the message
                    rule.reply = rule.reply.replace("250-", "451-")
                stage.sink.rules[:] = [rule]
                time.sleep(_ILL)
                stage.sink.rules.clear()
                time.sleep(_WELL)
    return Result(gateway, [senders], 0)
