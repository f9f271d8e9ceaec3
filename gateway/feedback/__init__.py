# SPDX-License-Identifier: GPL-2.0-or-later
"""What people say about mail: reviews, report addresses, IMAP folders. All of it becomes labelled samples."""
