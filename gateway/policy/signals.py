# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of all signals that the program itself can give; patterns bring their own."""

from __future__ import annotations

NAMES: frozenset[str] = frozenset(
    (
        "GTUBE",
        "VIRUS",
        "VIRUS_LIMIT",
        "SPAMASSASSIN",
        "CLASSIFIER",
        "SPF_PASS",
        "SPF_FAIL",
        "SPF_SOFTFAIL",
        "SPF_PERMERROR",
        "SPF_ERROR",
        "DKIM_PASS",
        "DKIM_FAIL",
        "DKIM_ERROR",
        "DKIM_PARTIAL",
        "DMARC_PASS",
        "DMARC_REJECT",
        "DMARC_QUARANTINE",
        "DMARC_FAIL",
        "DMARC_ERROR",
        "ARC_FAIL",
        "IPREV_FAIL",
        "MIME_AMBIGUOUS",
        "MIME_LIMIT",
        "MIME_DEFECT",
        "FROM_MISSING",
        "FROM_SEVERAL",
        "FROM_NAME_ADDRESS",
        "DATE_MISSING",
        "MESSAGE_ID_MISSING",
        "SUBJECT_MISSING",
        "NULL_SENDER_SEVERAL",
        "EMPTY",
        "HIDDEN_TEXT",
        "URL_MISMATCH",
        "URL_IP",
        "URL_USERINFO",
        "URL_PUNYCODE",
        "ATTACHMENT_EXECUTABLE",
        "ATTACHMENT_DOUBLE_EXTENSION",
        "ATTACHMENT_TYPE_MISMATCH",
    )
)
