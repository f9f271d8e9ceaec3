# SPDX-License-Identifier: GPL-2.0-or-later
"""One script for each version of the schema, from the one before."""
