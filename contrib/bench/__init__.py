# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench` and `make torture-milter`: how fast, and whether anything is lost."""
