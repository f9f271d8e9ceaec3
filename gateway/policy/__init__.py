# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy: the rule engine, weights and thresholds, and `decide`. Pure: no I/O once loaded."""
