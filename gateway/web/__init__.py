# SPDX-License-Identifier: GPL-2.0-or-later
"""The review of held mail in a browser and by a REST API, for people who have no shell on this machine.

Reads requests from whoever reaches its address, and shows hostile mail: each text is escaped, nothing is
rendered or fetched, and the answers forbid it as well (Content-Security-Policy). It is a process of its own,
beside the mail workers, and asks the store in threads. It decides nothing by itself: `may.py` says who may do
what, and what happens goes through the store's state machine, as from the command line.
"""
