# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is at the keyboard, for the audit and for labels, and passwords that they type."""

from __future__ import annotations

import os
import pwd
import sys
from typing import Final

import click

from gateway.mail.headers import printable

_LONGEST_LINE: Final = 4_096


def operator() -> str:
    """The login behind sudo, or the user."""
    try:
        name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"cli:{printable(name, 60)}"


def asked_password(*, confirm: bool) -> str:
    """A password, asked for on the terminal (twice to `confirm`), or the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline(_LONGEST_LINE).rstrip("\r\n")
    text: str = click.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True)
    return text
