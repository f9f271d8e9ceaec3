# SPDX-License-Identifier: GPL-2.0-or-later
"""What the dialogue says by itself, and how a reply is written. No I/O.

Writes the text of replies, in which a next hop's words may be, as one line of printable ASCII.
"""

from __future__ import annotations

from gateway.mail.headers import printable
from gateway.mail.types import Reply

OK = Reply(250, "2.0.0", "Ok")
PIPELINED = Reply(554, "5.5.0", "Commands sent before their time")
CLOSING = Reply(421, "4.3.2", "Service is closing, try again later")
NO_ROOM = Reply(452, "4.3.1", "Insufficient system storage, try again later")
UNKNOWN = Reply(500, "5.5.1", "Command not recognized")
_ABSENT = ("EXPN", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML")
FIXED = {
    "NOOP": OK,
    "VRFY": Reply(252, "2.5.2", "Send some mail, it will be tried"),
    "HELP": Reply(214, "2.0.0", "See RFC 5321"),
    **{verb: Reply(502, "5.5.1", f"{verb} is not offered") for verb in _ABSENT},
}

FAULTS = {
    "size": Reply(552, "5.3.4", "Message too big"),
    "line": Reply(521, "5.5.2", "Bare CR or LF in the message, closing"),
    "nul": Reply(521, "5.5.2", "NUL in the message, closing"),
    "memory": Reply(452, "4.3.1", "Insufficient memory, try again later"),
}
# In a chunk the end is where the client has counted it to be, and the session goes on.
CHUNK_FAULTS = {
    **FAULTS,
    "line": Reply(554, "5.6.0", "Bare CR or LF in the message"),
    "nul": Reply(554, "5.6.0", "NUL in the message"),
}


def wire(reply: Reply) -> bytes:
    """A reply as it is sent, one line of printable ASCII within RFC 5321 §4.5.3.1.5."""
    return printable(str(reply), 500, ascii_only=True).encode("ascii")
