# SPDX-License-Identifier: GPL-2.0-or-later
"""`make torture`: the smart host's queue while processes are killed and disks fail."""
