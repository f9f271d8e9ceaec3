# SPDX-License-Identifier: GPL-2.0-or-later
"""How good the classifier is, measured by one fixed protocol on public collections of mail."""
