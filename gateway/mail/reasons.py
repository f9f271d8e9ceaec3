# SPDX-License-Identifier: GPL-2.0-or-later
"""The names that `Content` and `Unpacked` use for what is wrong with a message, and what each means.

Names are stable: policy, journal and documents refer to them.
"""

from __future__ import annotations

# Clients may read the message in more than one way, and the readings differ in what they show.
AMBIGUITIES = {
    "base64-malformed": "Decoders differ on the base64 of a file",
    "boundary-conflict": "Clients take different boundaries for the same multipart",
    "boundary-encoded": "The boundary is given by RFC 2231, which few clients read",
    "boundary-malformed": "A multipart has no boundary, or one that clients read differently",
    "boundary-missing": "The boundary does not occur in the body, another one does",
    "boundary-on-leaf": "What is declared as a single part has a boundary, and parts",
    "content-outside-parts": "A file stands before the first or behind the last delimiter",
    "content-type-conflict": "Several Content-Type fields disagree about the structure",
    "content-type-malformed": "Clients read the Content-Type field differently",
    "delimiter-odd": "A line is a delimiter for some clients only",
    "encoded-multipart": "A multipart has a transfer encoding, and shows a file if decoded",
    "encoding-conflict": "Several Content-Transfer-Encoding values show different files",
    "encoding-malformed": "Clients read the Content-Transfer-Encoding field differently",
    "encoding-missing": "A file in base64 has no field that says so",
    "encoding-unknown": "The transfer encoding is not known",
    "external-body": "The part's content is elsewhere (message/external-body)",
    "field-too-long": "A field that says how to read a part is longer than anybody reads",
    "header-bare-cr": "A CR without LF stands in a header section with content fields",
    "header-bare-lf": "Header lines end in CRLF here and in LF there",
    "header-hidden-field": "A content field is hidden in another one, or behind junk",
    "header-hidden-from": "A From field stands where some clients find it and others do not",
    "header-junk": "A header section with content fields is broken by a line that is no field",
    "header-late": "The content fields of a part follow an empty line",
    "header-nul": "A NUL stands in a header section",
    "header-space-colon": "White space stands between the name of a content field and its colon",
    "header-white-line": "A line of white space ends the header section for some clients",
    "multipart-without-parts": "A multipart shows no parts by its boundary, but has content",
    "partial": "The message is one piece of several (message/partial)",
    "quoted-printable-malformed": "Decoders differ on the quoted-printable of a file",
    "undeclared-parts": "Parts stand in a body that a broken header section does not declare",
    "uuencode-malformed": "Decoders differ on the uuencode of a file",
}

# Broken, but in a way that all known clients read alike, or that changes only text.
DEFECTS = {
    "base64-malformed": "Base64 has junk or wrong padding",
    "boundary-unclosed": "A multipart has no closing delimiter",
    "content-type-doubled": "There are several Content-Type fields",
    "content-type-malformed": "A Content-Type field breaks the grammar",
    "disposition-doubled": "There are several Content-Disposition fields",
    "encoded-message": "A message within the message has a transfer encoding (RFC 2046 §5.2.1)",
    "encoded-multipart": "A multipart has a transfer encoding (RFC 2045 §6.4)",
    "encoding-doubled": "There are several Content-Transfer-Encoding fields",
    "encoding-unknown": "A transfer encoding is misspelt, and means none",
    "header-bare-cr": "A CR without LF stands in the header section",
    "header-junk": "The header section is ended by a line that is no field",
    "multipart-empty": "A multipart has no content",
    "multipart-without-parts": "A multipart shows no parts by its boundary",
    "outside-parts": "Text stands before the first or behind the last delimiter",
    "quoted-printable-malformed": "Quoted-printable has malformed escapes",
}

# A bound stopped the reading: what lies behind it was not judged.
LIMITS = {
    "attachments": "There are more attachments than are looked at",
    "decoded": "There is more to decode than is allowed",
    "depth": "Parts are nested too deep",
    "fields": "There are too many header fields",
    "parts": "There are too many parts",
    "readings": "There are more ways to read the message than are tried",
    "text": "There is more text than is read",
    "urls": "There are more links than are kept",
}

# Seen in an archive or a document (`Finding.kind`).
FINDINGS = {
    "ambiguous": "Programs read the archive differently",
    "broken": "The archive or document is damaged and was not read to its end",
    "dde": "The document starts a program by DDE",
    "encrypted": "Members of the archive are encrypted",
    "entity": "XML declares entities, which grow, or fetch files",
    "escape": "A member's name or link leads out of the folder it is unpacked to, or is a device",
    "external": "The document fetches a part of itself from elsewhere when opened",
    "limit": "A bound stopped the unpacking",
    "macro": "The document has macros",
    "macro-autorun": "The document has macros that run by themselves, or cannot be read",
    "object": "The document embeds an object that runs in another program",
    "office-encrypted": "The document is encrypted",
    "opened": "The archive is encrypted, and was opened with a word of the message",
    "pdf-action": "The PDF sends a form, plays media or opens another file",
    "pdf-embedded": "The PDF carries files",
    "pdf-encrypted": "The PDF is encrypted",
    "pdf-javascript": "The PDF has JavaScript",
    "pdf-launch": "The PDF starts a program",
    "pdf-open": "The PDF does something when opened",
    "pdf-xfa": "The PDF has an XML form, which can run scripts",
    "unsupported": "The archive's format or compression is not understood",
}
