# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery: where mail goes next, how it gets there, what its sender is told, and what a release sends.

From the queue to a next hop, one step each:
    runner    claims what is due, asks `routes` where each recipient goes and `tls.outbound.policy_for` under
              which policy, and brings both to the lane of that pair; settles what comes back
    routes    recipient -> NextHop, from the configuration alone, without waiting
    lane      connections to one NextHop under one TlsPolicy, their pauses and their number
    client    one session: connect, EHLO, STARTTLS as the policy demands, MAIL to the final replies
    protocol  replies and dot-stuffing, without I/O
    receipts  what was begun and delivered and is not settled yet, in a file that outlives the agent
    bounce    the notice, where there is to be one
`verify` asks a next hop about a recipient before the queue takes a message for it, and `relay` sends one
message at once, for those that have no queue; both go through `client`.
"""
