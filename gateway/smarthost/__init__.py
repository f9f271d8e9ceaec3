# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door: an SMTP server that relays what was judged, and nothing else.

`server.serve` is what a worker runs; `session` is one client; `commands`, `data`, `proxy` and
`trace` read and write bytes without I/O; `handover` is the next hop's side and `transfer` the
way from the end of DATA to the reply.
"""
