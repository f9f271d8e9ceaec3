# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`: the main job of the gateway, with real servers, on messages of all kinds."""
