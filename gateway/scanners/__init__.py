# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking others about content: clamd for viruses, spamd for spam.

What they answer is hostile too (a virus name, a symbol), and what they fail to answer is
never "clean".
"""
