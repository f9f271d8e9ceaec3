# SPDX-License-Identifier: GPL-2.0-or-later
"""What the demonstration sends: messages of our own, who sends them from where, what is right.

Names are those of RFC 2606 and addresses those of RFC 5737; the test strings are put together at
run time, so that no scanner trips over this source.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from typing import TYPE_CHECKING

import dkim
from cryptography.hazmat.primitives import serialization

from contrib.lab.clamd import EICAR
from contrib.lab.spamd import GTUBE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric import rsa

    from contrib.lab.dns import Entry

BOB, ABUSE = "bob@example.org", "abuse@example.org"
OUR_NAME = "mx.example.org"
STRICT = "partner.example.net"  # a sender domain of which TLS is required


@dataclass(frozen=True, slots=True)
class Client:
    """Who connects: the address, the name that DNS confirms, and the HELO name."""

    address: str
    name: str
    helo: str


HONEST = Client("192.0.2.25", "mail.example.net", "mail.example.net")
FORWARDER = Client("198.51.100.7", "lists.example.com", "lists.example.com")
STRANGER = Client("203.0.113.66", "[UNAVAILABLE]", "localhost")


@dataclass(frozen=True, slots=True)
class Case:
    """One message, and what is right: how it ends, by which signal, and for whom it arrives."""

    name: str
    sender: str
    message: bytes = field(repr=False)
    expected: str  # "delivered", "tagged", "held", "split", or "rejected CODE", "refused CODE", ...
    because: str = ""  # a signal that must have weighed or decided
    client: Client = HONEST
    recipients: tuple[str, ...] = (BOB,)
    arrives_for: tuple[str, ...] = ()
    tls: bool = False
    absent: bytes = b""  # what must not arrive in the message
    clamd: bool = True  # False: clamd is stopped meanwhile


def cases(key: rsa.RSAPrivateKey) -> list[Case]:
    """All messages. `key` signs for bank.example.com."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return [*_wanted(private), *_spam(), *_forged(), *_refused()]


def _wanted(private: bytes) -> list[Case]:
    """Mail that arrives. `private` is the DKIM key of bank.example.com, in PEM."""
    statement = letter("news@bank.example.com", "Your statement for October", _STATEMENT)
    signature: bytes = dkim.sign(statement, b"demo", b"bank.example.com", private)
    forged = (
        f"Authentication-Results: {OUR_NAME}; dmarc=pass header.from=bank.example.com\r\nX-Spam-Flag: NO\r\n"
    ).encode()
    return [
        Case(
            "ordinary mail",
            "anna@example.net",
            letter("anna@example.net", "Lunch on Friday?", _LUNCH),
            "delivered",
        ),
        Case(
            "ordinary mail with a PDF",
            "anna@example.net",
            letter("anna@example.net", "Minutes of Tuesday's meeting", _MINUTES, ("minutes.pdf", _PDF)),
            "delivered",
        ),
        Case(
            "forwarded, DKIM-signed (p=reject)",
            "news@bank.example.com",
            signature + statement,
            "delivered",
            "DMARC_PASS",
            client=FORWARDER,
        ),
        Case(
            "forged fields in our name",
            "anna@example.net",
            forged + letter("anna@example.net", "The draft", _DRAFT),
            "delivered",
            absent=b"header.from=bank.example.com",
        ),
    ]


def _spam() -> list[Case]:
    return [
        Case("GTUBE", "anna@example.net", letter("anna@example.net", "Test", GTUBE), "rejected 554", "GTUBE"),
        Case(
            "spam, by the classifier",
            "winner@offers.example.com",
            _letter_of_spam(),
            "held",
            "CLASSIFIER",
            client=STRANGER,
        ),
        Case(
            "spam to bob, and to abuse who takes all",
            "winner@offers.example.com",
            _letter_of_spam(),
            "split",
            "CLASSIFIER",
            client=STRANGER,
            recipients=(BOB, ABUSE),
            arrives_for=(ABUSE,),
        ),
    ]


def _forged() -> list[Case]:
    """Malware, and mail that pretends to be of somebody else."""
    return [
        Case(
            "EICAR test virus",
            "anna@example.net",
            letter("anna@example.net", "The tool", _TOOL, ("tool.txt", EICAR)),
            "rejected 550",
            "VIRUS",
        ),
        Case(
            "EICAR in a zip archive",
            "anna@example.net",
            letter("anna@example.net", "The tool", _TOOL, ("tools.zip", zipped("tool.txt", EICAR))),
            "rejected 550",
            "VIRUS",
        ),
        Case(
            "spoofed sender, DMARC p=reject",
            "security@bank.example.com",
            letter("security@bank.example.com", "Please confirm a payment", _PAYMENT),
            "rejected 550",
            "DMARC_REJECT",
            client=STRANGER,
        ),
        Case(
            "spoofed sender, DMARC p=quarantine",
            "orders@shop.example.com",
            letter("orders@shop.example.com", "Your order is on its way", _ORDER),
            "held",
            "DMARC_QUARANTINE",
            client=STRANGER,
        ),
        Case(
            "two From fields",
            "anna@example.net",
            b"From: boss@example.org\r\n" + letter("anna@example.net", "Urgent", _DRAFT),
            "rejected 550",
            "FROM_SEVERAL",
        ),
        Case(
            "program as an attachment",
            "anna@example.net",
            letter("anna@example.net", "Invoice 2041", _INVOICE, ("invoice.exe", _PROGRAM)),
            "held",
            "ATTACHMENT_EXECUTABLE",
        ),
    ]


def _refused() -> list[Case]:
    """What is decided before the content, and what a missing scanner does."""
    return [
        Case(
            "plain text where TLS is required",
            f"carl@{STRICT}",
            letter(f"carl@{STRICT}", "The contract", _CONTRACT),
            "refused 530",
        ),
        Case(
            "the same over TLS",
            f"carl@{STRICT}",
            letter(f"carl@{STRICT}", "The contract", _CONTRACT),
            "delivered",
            tls=True,
        ),
        Case(
            "relay attempt to a foreign domain",
            "winner@offers.example.com",
            _letter_of_spam(),
            "refused 554",
            client=STRANGER,
            recipients=("victim@elsewhere.example.com",),
        ),
        Case(
            "ordinary mail while clamd is down",
            "anna@example.net",
            letter("anna@example.net", "Lunch on Friday?", _LUNCH),
            "deferred 451",
            "VIRUS",
            clamd=False,
        ),
    ]


def _letter_of_spam() -> bytes:
    return letter("winner@offers.example.com", _SPAM_SUBJECT, _SPAM, html=_SPAM_HTML)


def zone(key: rsa.RSAPrivateKey) -> Mapping[str, Entry]:
    """What DNS says about all of them."""
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    encoded = "".join(public.decode().splitlines()[1:-1])
    return {
        "example.net": {"TXT": ["v=spf1 ip4:192.0.2.25 -all"], "MX": ["10 mail.example.net."]},
        "_dmarc.example.net": {"TXT": ["v=DMARC1; p=quarantine"]},
        STRICT: {"TXT": ["v=spf1 ip4:192.0.2.25 -all"], "MX": ["10 mail.example.net."]},
        "mail.example.net": {"A": ["192.0.2.25"]},
        "25.2.0.192.in-addr.arpa": {"PTR": ["mail.example.net."]},
        "bank.example.com": {"TXT": ["v=spf1 ip4:192.0.2.77 -all"], "MX": ["10 mail.bank.example.com."]},
        "_dmarc.bank.example.com": {"TXT": ["v=DMARC1; p=reject"]},
        "demo._domainkey.bank.example.com": {"TXT": [f"v=DKIM1; k=rsa; p={encoded}"]},
        "shop.example.com": {"TXT": ["v=spf1 ip4:192.0.2.78 -all"], "MX": ["10 mail.shop.example.com."]},
        "_dmarc.shop.example.com": {"TXT": ["v=DMARC1; p=quarantine"]},
        "lists.example.com": {"A": ["198.51.100.7"]},
        "7.100.51.198.in-addr.arpa": {"PTR": ["lists.example.com."]},
        "offers.example.com": {"TXT": ["v=spf1 ~all"]},
    }


def letter(
    author: str, subject: str, text: str, attachment: tuple[str, bytes] | None = None, *, html: str = ""
) -> bytes:
    """Write a message with CRLF line ends. Nothing in it is random, so that runs compare."""
    message = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
    message["From"] = author
    message["To"] = BOB
    message["Subject"] = subject
    message["Date"] = "Mon, 02 Nov 2026 09:30:00 +0000"
    message["Message-ID"] = f"<{sum(subject.encode())}.demo@{author.rpartition('@')[2]}>"
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    if attachment:
        name, data = attachment
        kind = {"pdf": "pdf", "zip": "zip"}.get(name.rpartition(".")[2], "octet-stream")
        message.add_attachment(data, maintype="application", subtype=kind, filename=name)
    if message.is_multipart():
        message.set_boundary("=-of-the-demonstration-=")
    return message.as_bytes()


def zipped(name: str, data: bytes) -> bytes:
    """Return a zip archive with one file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name, (2026, 11, 2, 9, 30, 0)), data)
    return made.getvalue()


def names(recipients: Sequence[str]) -> str:
    """Return the local parts, for a table."""
    return ", ".join(address.partition("@")[0] for address in recipients)


_LUNCH = """\
Hi Bob,

shall we have lunch on Friday? I would like to hear how the move to the new office went, and
we still have to settle who brings the projector to the workshop on Monday.

See you,
Anna
"""
_MINUTES = """\
Hi Bob,

the minutes of Tuesday's meeting are attached. Please check the part about the test servers: I was
not sure whether we said two or three of them. Corrections until Thursday, then I send them around.

Anna
"""
_STATEMENT = """\
Dear customer,

your statement for October is ready. You find it in your mailbox the next time you log in.
We never ask for your password by mail.

Bank of Example
"""
_DRAFT = """\
Hi Bob,

here is the draft of the chapter about backups. I have shortened the second section, as you said,
and moved the table to the end. Could you look at the wording of the last paragraph again?

Anna
"""
_TOOL = """\
Hi Bob,

attached is the tool that I spoke of yesterday. Tell me whether it works for you.

Anna
"""
_PAYMENT = """\
Dear customer,

a payment from your account is waiting. Please look at it and confirm it today.

Bank of Example
"""
_ORDER = """\
Hello,

your order has left our warehouse and should be with you on Wednesday. You can see where it is
on our web site, under "my orders".

The shop of Example
"""
_INVOICE = """\
Hi Bob,

here is invoice 2041, as discussed.

Anna
"""
_CONTRACT = """\
Hi Bob,

the contract as we agreed, with the change in section four. Please send it back with your remarks
by the end of the week.

Carl
"""
_PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 0>>endobj\n%%EOF\n"
_PROGRAM = b"MZ" + bytes(58) + b"\x40\0\0\0" + b"PE\0\0" + bytes(200)
_SPAM_SUBJECT = "You have won! Claim your free cash prize now"
_SPAM = """\
Congratulations dear winner!

Lose weight fast, no risk, order now and save up to 80%. Limited time offer, act now!
Make money fast working from home. Earn $5000 a week, no experience needed, free cash bonus!
Refinance your mortgage at the lowest rates, bad credit no problem, get out of debt today!

Click here to claim your prize: http://www.offers.example.com/claim?id=1
To be removed from this list click here: http://www.offers.example.com/remove
"""
_SPAM_HTML = """\
<html><body bgcolor="#ffff00"><center>
<font size="7" color="#ff0000"><b>CONGRATULATIONS DEAR WINNER!</b></font>
<p><font size="5">Lose weight fast, no risk, order now and save up to 80%.
Limited time offer, act now!</font>
<p>Make money fast working from home. Earn $5000 a week, no experience needed, free cash bonus!
Refinance your mortgage at the lowest rates, bad credit no problem, get out of debt today!
<p><a href="http://www.offers.example.com/claim?id=1">
<font size="6">CLICK HERE to claim your FREE prize NOW!</font></a>
<p><font size="1">To be removed from this list
<a href="http://www.offers.example.com/remove">click here</a></font>
</center></body></html>
"""
