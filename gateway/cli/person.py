# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is at the keyboard, for the audit and for labels."""

from __future__ import annotations

import os
import pwd

from gateway.mail.headers import printable


def operator() -> str:
    """The login behind sudo, or the user."""
    try:
        name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"cli:{printable(name, 60)}"
