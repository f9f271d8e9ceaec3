# SPDX-License-Identifier: GPL-2.0-or-later
"""DMARC aggregate reports: what is counted, how it is told, and to whom."""
