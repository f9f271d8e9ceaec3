# SPDX-License-Identifier: GPL-2.0-or-later
"""Sender authentication: SPF, DKIM, DMARC, ARC, Authentication-Results."""
