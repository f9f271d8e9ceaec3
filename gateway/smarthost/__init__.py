# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door: an SMTP server that relays what was judged, and nothing else.

`server.serve` is what a worker runs; `session` is one client and `wire` its connection; `worker` and `limits`
are what sessions share. `commands`, `data`, `xclient` and `trace` read and write bytes without I/O;
`intake` (or, without a queue, `handover`) takes recipients, and `transfer` is the way from the end of
the message to the reply.
"""
