# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking others about content: clamd, spamd. A scanner that did not answer has not said "clean"."""
