# SPDX-License-Identifier: GPL-2.0-or-later
"""Real and fake servers for tests, the demonstration and the benchmark.

Each is a context manager, lives in a private directory given to it, listens on loopback ports
of its own or on unix sockets, and touches nothing of the system's configuration.
"""
