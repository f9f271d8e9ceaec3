# SPDX-License-Identifier: GPL-2.0-or-later
"""Print the reference configuration: every key with its meaning and default, taken from the source.

    python -m contrib.reference > contrib/mailwarden.toml

The meaning of a key is the comment above it in its settings class, so it is written once. What
has no default that TOML could express stands there as an example, behind a "#" without a space.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec

from gateway.config import Config
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """\
# Mailwarden: every key of the configuration, with its default.
#
# This is a reference, written from the source by `make reference`, and it is itself a configuration
# that loads. Put into yours only what differs: the README shows files of under ten lines that work.
# Lines that begin with "#" and no space are examples of what has no default.
#
# After a change: `mailwarden check`, then send SIGHUP (`systemctl reload mailwarden`).
"""

# What to show where there is no default, or none that TOML could express.
EXAMPLES = {
    "routes.domains": ["example.com", ".example.net"],
    "routes.next_hop": "lmtp:unix:/run/dovecot/lmtp",
    "login.senders.logins": ["alice@example.com"],
    "login.senders.addresses": ["sales@example.com", "@lists.example.com"],
    "signing.keys.domain": "example.com",
    "signing.keys.selector": "2026a",
    "signing.keys.key_file": "/etc/mailwarden/dkim/example.com.2026a.pem",
    "dnsbl.zones.zone": "bl.example.org",
    "dnsbl.zones.ask": ["client"],
    "dnsbl.zones.codes": {"127.0.0.2": 3.0},
    "learning.imap.host": "imap.example.com",
    "learning.imap.user": "spamreports",
    "learning.imap.password_file": "/etc/mailwarden/imap-password",
    "learning.imap.spam_folders": ["Junk"],
    "digest.administrators.domain": "example.com",
    "digest.administrators.address": "postmaster@example.com",
    "digest.languages.domain": ".example.com",
    "digest.languages.language": "id",
    "shadow.name": "strict",
    "shadow.file": "/etc/mailwarden/strict.toml",
    "store.retention.domain": "example.com",
    "store.retention.quarantine_days": 14,
    "store.retention.journal_days": 7,
    "store.retention.samples_days": 90,
    "policy.thresholds.tag": 5.0,
    "policy.thresholds.quarantine": 8.0,
    "policy.thresholds.reject": 15.0,
    "policy.recipients.recipients": ["postmaster@example.com", "example.net"],
    "policy.recipients.tag": 4.0,
    "policy.recipients.quarantine": 6.0,
    "policy.recipients.reject": 100.0,
    "policy.weights": {"SPF_FAIL": 3.0},
    "policy.actions": {"DMARC_REJECT": "quarantine"},
    "policy.attachments.classes": {'"cad"': {"extensions": ["dwg", "dxf"], "types": [], "declared": []}},
    "policy.on_error": {"VIRUS": "quarantine"},
    "policy.attachments.extensions": {'"iso"': "executable", '"jnlp"': "none"},
    "policy.attachments.types": {'"application/x-iso9660-image"': "executable"},
    "policy.impersonation.protected.names": ["Alice Archer"],
}


def comments(kind: type[Settings]) -> dict[str, list[str]]:
    """Return the comment lines above each key of a settings class, those that it inherits too."""
    found: dict[str, list[str]] = {}
    for base in kind.__bases__:
        if issubclass(base, Settings) and base is not Settings:
            found |= comments(base)
    above: list[str] = []
    for line in inspect.getsource(kind).splitlines():
        text = line.strip()
        key = re.match(r"    ([a-z_]+): ", line)
        if text.startswith("#"):
            above.append(text)
            continue
        if key:
            found[key[1]] = above
        above = []
    return found


def row_of(kind: Any) -> type[Settings] | None:
    """Return the class of the rows of a `tuple[Row, ...]`, None for anything else."""
    inner = get_args(kind)[0] if get_origin(kind) is tuple else None
    return inner if isinstance(inner, type) and issubclass(inner, Settings) else None


def toml(value: object) -> str:
    """Write a value as TOML does."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, float):
        return f"{value:_}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


def table(kind: type[Settings], path: str = "", mark: str = "") -> Iterator[str]:
    """Write one table and those inside it. `mark` is "#" for rows, which are examples."""
    told = comments(kind)
    later: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(kind):
        where = f"{path}.{field.name}".removeprefix(".")
        inline = bool(mark) and get_origin(field.type) is dict  # a table of its own would not be the row's
        if row_of(field.type) or (get_origin(field.type) is dict and not inline) or _is_table(field.type):
            later.append((field.name, field.type))
            continue
        yield from told[field.name]
        absent = field.default is msgspec.NODEFAULT or field.default is None
        value = _example(where) if absent or inline else field.default
        yield f"{mark or ('#' if absent else '')}{field.name} = {toml(value)}"
    for name, inner in later:
        where = f"{path}.{name}".removeprefix(".")
        row = row_of(inner)
        yield ""
        if row:
            yield from told[name]
            yield f"#[[{where}]]"
            yield from table(row, where, "#")
        elif get_origin(inner) is dict:
            yield from told[name]
            yield f"[{where}]"
            yield from (f"#{key} = {toml(value)}" for key, value in _example(where).items())
        else:
            yield from told[name] or _summary(inner)
            yield f"[{where}]"
            yield from table(inner, where)


def _example(where: str) -> Any:
    if where not in EXAMPLES:
        raise SystemExit(f"{where} has no default that TOML could express: add an example to EXAMPLES")
    return EXAMPLES[where]


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _summary(kind: type[Settings]) -> list[str]:
    """Return the first paragraph of the class's docstring as comment lines."""
    paragraph = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return textwrap.wrap(paragraph, 108, initial_indent="# ", subsequent_indent="# ")


def reference() -> str:
    """Return the whole file."""
    return "\n".join([HEAD, *table(Config)]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
