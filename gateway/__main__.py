# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `mailwarden`."""

from __future__ import annotations

import os
import sys

EX_IOERR = 74


def main() -> None:
    """Run the command line."""
    # Before NumPy is loaded: a thread of its linear algebra would not survive the fork.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from gateway.cli.main import cli  # noqa: PLC0415

    try:
        cli(prog_name="mailwarden")
    except OSError as error:  # such as a full disk behind the output; a reader that has gone is click's
        sys.stderr.write(f"Error: {error.strerror or error}\n")
        # What is left unwritten would fail once more at the end, and that status would count.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EX_IOERR)


if __name__ == "__main__":
    main()
