# SPDX-License-Identifier: GPL-2.0-or-later
"""What lasts: journal, quarantine, samples, in one database through SQLAlchemy Core."""
