# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: serve, check, scan, explain, quarantine, model."""
