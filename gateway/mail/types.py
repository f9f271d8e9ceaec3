# SPDX-License-Identifier: GPL-2.0-or-later
"""The values that flow through the gateway, from the doors to the store.

All are frozen. What others answered, an "error" too, is a value that policy weighs and replay reads back.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from gateway.mail.senderrule import SenderRule  # noqa: TC001  # msgspec reads the types of Evidence

# ---------------------------------------------------------------- what came in


class Direction(StrEnum):
    """Inbound comes from strangers; outbound from our own networks or a login."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of the client's session. `bits` is the cipher's strength; "" and 0 mean unknown."""

    version: str
    cipher: str = ""
    bits: int = 0
    client_subject: str = ""
    client_issuer: str = ""
    client_verified: bool = False
    client_fingerprint: str = ""  # SHA-256 of the certificate, lower-case hex without colons
    client_names: tuple[str, ...] = ()  # host names and addresses in its subjectAltName


@dataclass(frozen=True, slots=True)
class Session:
    """Who speaks to us. `client_ip` is "" where there is none (a unix socket, local submission)."""

    client_ip: str = ""
    client_name: str = ""  # forward-confirmed name, "" if there is none
    helo: str = ""
    tls: Tls | None = None
    login: str = ""  # SASL login, "" if not authenticated
    listener: str = ""  # Postfix's {daemon_name}, or the name of our own listener
    direction: Direction = Direction.INBOUND


@dataclass(frozen=True, slots=True)
class Envelope:
    """MAIL FROM and RCPT TO, without the angle brackets; "" is the null sender."""

    mail_from: str
    recipients: tuple[str, ...]
    options: tuple[str, ...] = ()  # ESMTP parameters of MAIL, upper-case keyword first


@dataclass(frozen=True, slots=True)
class Mail:
    """One message as it was received: CRLF line ends, nothing added, nothing removed."""

    id: str
    session: Session
    envelope: Envelope
    raw: bytes = field(repr=False)
    received: float = 0.0  # seconds since 1970
    queue_id: str = ""  # the MTA's queue id, milter door only


# ---------------------------------------------------------------- what it contains


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One header field, exactly as received, folding included, without its final CRLF."""

    name: str  # as written; compare with `name.lower()`
    raw: bytes  # name, colon and value

    @property
    def value(self) -> bytes:
        """All after the colon, leading space and folding kept."""
        return self.raw.partition(b":")[2]


@dataclass(frozen=True, slots=True)
class Text:
    """Readable text of one part. `hidden` is what the HTML shows to no reader."""

    kind: Literal["plain", "html"]
    text: str
    hidden: str = ""


@dataclass(frozen=True, slots=True)
class Url:
    """A link: where it goes, and the words it stands under ("" in plain text)."""

    target: str
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part that is not read as text. `names` are all names a client may show, best first."""

    names: tuple[str, ...]
    declared_type: str  # lower-case type/subtype as declared
    detected_type: str  # by content, "" if unknown
    size: int  # octets, decoded
    sha256: str
    depth: int  # nesting, 1 for a part of the message itself
    data: bytes = field(default=b"", repr=False, compare=False)
    part: tuple[int, int] | None = None  # what to cut out of the raw message to be rid of it


@dataclass(frozen=True, slots=True)
class Content:
    """Hostile bytes, read once into bounded values.

    `defects` names what was broken, `ambiguities` what clients may read in more than one way,
    `limits` which bound stopped the reading; none of the last two is ever "clean".
    A scanner must also see `readings`. `certain`: all readers find the same parts at the same places.
    """

    fields: tuple[HeaderField, ...]
    body_start: int  # offset of the body in the raw message
    subject: str = ""
    from_addresses: tuple[tuple[str, str], ...] = ()  # (display name, address) of all From fields
    from_fields: int = 0  # how many From fields there are
    texts: tuple[Text, ...] = ()
    urls: tuple[Url, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    defects: tuple[str, ...] = ()
    ambiguities: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    readings: tuple[bytes, ...] = field(default=(), repr=False)
    certain: bool = True

    def all(self, name: str) -> list[HeaderField]:
        """The fields called `name`, in order, case ignored."""
        wanted = name.lower()
        return [f for f in self.fields if f.name.lower() == wanted]


# ---------------------------------------------------------------- what the world answered

AuthWord = Literal["pass", "fail", "softfail", "neutral", "none", "policy", "temperror", "permerror"]


@dataclass(frozen=True, slots=True)
class Spf:
    """One SPF check (RFC 7208)."""

    identity: Literal["mailfrom", "helo"]
    domain: str
    result: AuthWord
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Dkim:
    """One DKIM signature (RFC 6376). Only `pass` with `covers_all` may align for DMARC."""

    result: AuthWord
    domain: str = ""  # d=
    selector: str = ""  # s=
    identity: str = ""  # i=
    algorithm: str = ""  # a=
    signature: str = ""  # first eight characters of b=, for header.b (RFC 6008)
    covers_all: bool = True  # False: l=, an unsigned From, or an added duplicate field
    testing: bool = False  # t=y in the key
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Arc:
    """The ARC chain (RFC 8617). `sealers` are the d= of its seals, newest first."""

    result: Literal["pass", "fail", "none", "temperror", "permerror"]
    sealers: tuple[str, ...] = ()
    results: str = ""  # the newest ARC-Authentication-Results value, for trusted sealers
    reason: str = ""
    covers_all: bool = False  # False: the message may have been changed behind the newest seal


@dataclass(frozen=True, slots=True)
class Dmarc:
    """DMARC (RFC 7489, RFC 9989). `policy` is what applies to this author domain."""

    result: Literal["pass", "fail", "none", "temperror", "permerror"]
    domain: str = ""  # author domain, from the From field
    organizational: str = ""  # where the record was found
    policy: Literal["none", "quarantine", "reject", ""] = ""
    percent: int = 100  # pct; 0 stands for t=y
    aligned: tuple[str, ...] = ()  # "spf", "dkim": what aligned and passed
    record: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Iprev:
    """Forward-confirmed reverse DNS of the client (RFC 8601 section 3)."""

    result: Literal["pass", "fail", "temperror", "permerror", "none"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Scan:
    """A content scanner's answer. Anything but "clean" is not clean.

    "limit" is a scanner that gave up on a part, "encrypted" one that could not look into a part;
    "error" one that failed or timed out; "off" one that is not configured.
    """

    status: Literal["clean", "infected", "limit", "encrypted", "error", "off"]
    name: str = ""  # of the infection, printable ASCII, at most 200 characters
    detail: str = ""  # for the log
    engine: str = ""  # version of engine and signatures
    stale: bool = False  # the signatures are older than the settings allow


@dataclass(frozen=True, slots=True)
class SpamCheck:
    """SpamAssassin's answer."""

    status: Literal["ok", "error", "off"]
    score: float = 0.0
    required: float = 0.0
    symbols: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive or document. `name` is as the archive has it: data, never a path of ours."""

    name: str
    size: int  # octets, as unpacked, or as declared where it was not
    detected_type: str  # by content, "" if unknown
    depth: int  # containers around it, 1 for what stands in the attachment itself
    encrypted: bool = False
    attachment: int = 0  # which of `Content.attachments` it came in


@dataclass(frozen=True, slots=True)
class Finding:
    """Something seen in an archive or document; `mail/reasons.py` lists the kinds."""

    kind: str
    where: str = ""  # name of the container
    detail: str = ""
    attachment: int = -1  # which of `Content.attachments` it is about, -1 if it is about them all


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What archives and documents have in them. "error": the child process failed or timed out.

    Of many members the first are kept, and one of each further kind in each attachment; `count` counts all.
    """

    status: Literal["ok", "error"]
    members: tuple[Member, ...] = ()
    findings: tuple[Finding, ...] = ()
    count: int = 0
    detail: str = ""
    links: tuple[Url, ...] = ()  # in documents


@dataclass(frozen=True, slots=True)
class Listing:
    """What one DNS list says about one name (RFC 5782). `weight` is what its zone's settings give it."""

    zone: str
    asked: Literal["client", "helo", "sender", "from", "dkim", "url", "hash"]
    item: str  # the address, domain or hash
    codes: tuple[str, ...] = ()
    weight: float = 0.0
    status: Literal["listed", "error"] = "listed"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """A valid release token: this message was held here, and these signals were answered."""

    item: str
    lifted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was asked of the world and what it answered. Goes to JSON and back without loss."""

    spf: tuple[Spf, ...] = ()
    dkim: tuple[Dkim, ...] = ()
    dmarc: Dmarc | None = None
    arc: Arc | None = None
    iprev: Iprev | None = None
    antivirus: Scan = Scan("off")
    spamd: SpamCheck = SpamCheck("off")
    lists: tuple[Listing, ...] = ()
    release: Release | None = None
    unpacked: Unpacked | None = None  # None: nothing to unpack, or not configured
    queries: int = 0  # questions about the sender that went to the DNS, the cache not knowing
    senders: tuple[SenderRule, ...] = ()
    durations: dict[str, float] = field(default_factory=dict)  # milliseconds by what was asked


# ---------------------------------------------------------------- what is made of it


@dataclass(frozen=True, slots=True)
class Signal:
    """An observation. It has no weight: policy gives it one.

    `value` scales the weight (1.0 for a plain hit, a probability for the classifier).
    An "error" signal says that the question could not be answered.
    """

    name: str
    text: str = ""  # shows why, printable, at most 500 characters
    value: float = 1.0
    state: Literal["hit", "error"] = "hit"


class EditOp(StrEnum):
    """What an edit does. `INSERT` goes to the top, `ADD` to the end of the header section."""

    ADD = "add"
    INSERT = "insert"
    REPLACE = "replace"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to the header section; with `Cut` the only way a message changes.

    `index` counts fields of this name from 1. In `value` is neither CR nor NUL; a line break is LF and space.
    """

    op: EditOp
    name: str
    value: str = ""
    index: int = 1

    def __post_init__(self) -> None:
        if not _FIELD_NAME.fullmatch(self.name):
            raise ValueError(f"not a header field name: {self.name!r}")
        if _BAD_VALUE.search(self.value):
            raise ValueError(f"unsafe value for header field {self.name}")


_FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")
_BAD_VALUE = re.compile(r"[\r\0]|\n(?![ \t])|\n[ \t]*(?:\n|\Z)|[^\x00-\x7f]")


@dataclass(frozen=True, slots=True)
class Cut:
    """Octets taken out, and the ASCII text (lines end with LF) in their place; `parts` tells why."""

    start: int
    end: int
    text: str
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.start <= self.end and self.text.isascii() and not {"\r", "\0"} & set(self.text)):
            raise ValueError("not within a message, or an unsafe text")


class Action(StrEnum):
    """What happens to a message, mildest first. STRIP delivers it without some of its attachments."""

    RELAY = "relay"
    TAG = "tag"
    STRIP = "strip"
    LEARN = "learn"  # a report: taken to be learned, and passed on to nobody
    QUARANTINE = "quarantine"
    DEFER = "defer"
    REJECT = "reject"


ON_ITS_WAY = (Action.RELAY, Action.TAG, Action.STRIP)  # the message goes on to whoever has one of these


@dataclass(frozen=True, slots=True)
class Contribution:
    """One signal as policy weighed it. `decides` names the action it forces, if any."""

    name: str
    points: float
    text: str = ""
    decides: Action | None = None
    answered: bool = True  # False: the question behind the signal could not be answered


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which a message is tagged, held, rejected."""

    tag: float
    quarantine: float
    reject: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happens for one recipient, and the score and thresholds that say so."""

    recipient: str
    action: Action
    score: float
    thresholds: Thresholds


@dataclass(frozen=True, slots=True)
class Versions:
    """What judged: program, policy hash, model."""

    program: str
    policy: str
    model: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement, complete enough to explain itself.

    `action` is what the client is told about: RELAY, TAG and STRIP go on to all whose outcome
    says so, while recipients whose outcome is QUARANTINE are held and left out.
    `reason` is the deciding signal's name, or "score".
    """

    id: str
    action: Action
    outcomes: tuple[Outcome, ...]
    score: float
    reason: str
    reason_text: str
    contributions: tuple[Contribution, ...]
    edits: tuple[Edit, ...]
    versions: Versions
    cuts: tuple[Cut, ...] = ()

    def recipients(self, *actions: Action) -> tuple[str, ...]:
        """The recipients whose outcome is one of `actions`, in envelope order."""
        return tuple(o.recipient for o in self.outcomes if o.action in actions)

    @property
    def relayed(self) -> tuple[str, ...]:
        """The recipients the message goes on to."""
        return self.recipients(*ON_ITS_WAY)

    @property
    def stripped(self) -> tuple[str, ...]:
        """The recipients who get the message without what was cut out of it."""
        return self.recipients(Action.STRIP)

    @property
    def kept(self) -> tuple[str, ...]:
        """The recipients for whom the quarantine has the message as it came: held or stripped."""
        return self.recipients(Action.QUARANTINE, Action.STRIP)

    @property
    def held(self) -> tuple[str, ...]:
        """The recipients for whom the message is kept in quarantine."""
        return self.recipients(Action.QUARANTINE)


@dataclass(frozen=True, slots=True)
class Reply:
    """An SMTP reply: code, enhanced status code (RFC 3463) and one line of text."""

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}"


_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ID_PATTERN = re.compile(r"[0-9A-HJKMNP-TV-Z]{16}")


def new_id(now: float | None = None) -> str:
    """A message id of ours: 16 characters, sorted by time (9 for milliseconds, 7 random)."""
    number = int((time.time() if now is None else now) * 1000) << 35
    number |= int.from_bytes(os.urandom(5), "big") & ((1 << 35) - 1)
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(75, -1, -5))
