# SPDX-License-Identifier: GPL-2.0-or-later
"""Mailwarden, a mail security gateway. Start with `pipeline.py`, the story of a message."""

__version__ = "0.1.0"
