# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests of held mail, for those whom it was for and for administrators, and what they may do with them."""
