# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS as policy: what a client must bring, and what a next hop must offer before mail is sent to it."""
