# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `mailwarden`."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line."""
    # Before NumPy is loaded: a thread of its linear algebra would not survive the fork.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from gateway.cli.main import cli  # noqa: PLC0415

    cli(prog_name="mailwarden")


if __name__ == "__main__":
    main()
