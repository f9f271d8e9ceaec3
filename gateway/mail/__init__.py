# SPDX-License-Identifier: GPL-2.0-or-later
"""What a message is: values, MIME, header fields, edits. No I/O, no network, no settings."""
