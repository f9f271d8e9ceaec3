# SPDX-License-Identifier: GPL-2.0-or-later
"""Moving mail on: routes, the relay client (SMTP, LMTP), release from quarantine."""
