# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may log in to send mail, and from which addresses. Knows no SMTP.

`sources.load` gives what checks a name and a password: a file of hashes, Dovecot, an IMAP server, or
an LDAP directory (`directory`).
`guard` asks it off the event loop and slows down who guesses. `owners` says whose address is whose.
"""
