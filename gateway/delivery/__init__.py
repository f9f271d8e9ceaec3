# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery: where mail goes next, how it gets there, what its sender is told, and what a release sends.

From the queue to a next hop, one step each:
    runner    claims what is due, asks `routes` where each recipient goes, and brings it to the lane of that
              target; settles what comes back
    routes    recipient -> Route, from the configuration alone, without waiting
    watch     counts what TLS came to, remembers it by host, and tells where it became worse
    lane      connections for one target, their pauses and their number
    ways      target -> servers to try in order, with what `tls.outbound.policy_for` demands of each and our
              login there; looks up MX records and addresses
    client    one session: connect, EHLO, STARTTLS as the policy demands, AUTH, MAIL to the final replies
    wire      its connection, and `protocol` its replies and dot-stuffing, without I/O
    logins    our names and passwords at next hops, from a file
    receipts  what was begun and delivered and is not settled yet, in a file that outlives the agent
    bounce    the notice, where there is to be one
`verify` asks a next hop about a recipient before the queue takes a message for it, and `relay` sends one
message at once, for those that have no queue; both go through `client`.
"""
