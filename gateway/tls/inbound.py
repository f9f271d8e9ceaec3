# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS that clients must use towards us, by client network, listener and sender domain.

One table for both doors: the smart host fills `Session.tls` from its own handshake, the milter
from Postfix's {tls_version}, {cipher} and {cert_subject} macros. Pure, but for
`server_context`, which reads certificate files of the administrator.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gateway.mail.domains import check_pattern, domain_of, matches
from gateway.mail.networks import inside, network
from gateway.mail.types import Reply, Session, Tls
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

TlsVersion = Literal["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]
OfferedVersion = Literal["TLSv1.2", "TLSv1.3"]  # by us: RFC 8996

_RANK = {"TLSv1": 0, "TLSv1.0": 0, "TLSv1.1": 1, "TLSv1.2": 2, "TLSv1.3": 3}
_VERSIONS = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
# AEAD with forward secrecy only; TLS 1.3 suites are all of that kind and stay as OpenSSL has them.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"

_NO_TLS = Reply(530, "5.7.0", "Must issue a STARTTLS command first")  # RFC 3207 §4


class InboundTlsRule(Settings, frozen=True, kw_only=True):
    """One row of [[tls.inbound]]: whom it is about, and what their session must have.

    All conditions that are set must hold for the row to apply, and every row that applies must
    be met. A row without conditions is about everybody.
    """

    # Client networks, such as "192.0.2.0/24". Empty: any client, one without an address included.
    client_networks: tuple[str, ...] = ()
    # Domains of the envelope sender; ".example.com" means all below it. Empty: any sender.
    sender_domains: tuple[str, ...] = ()
    # Listener names: Postfix's {daemon_name}, or the name of our own listener. Empty: any.
    listeners: tuple[str, ...] = ()
    # The oldest TLS version that will do.
    minimum_version: TlsVersion = "TLSv1.2"
    # Whether the client must show a certificate that was verified against our CA file.
    client_certificate: bool = False
    # Names of which the verified client certificate must have one, as its common name or (not through the
    # milter, since Postfix does not tell them) in subjectAltName. Empty: any.
    client_subjects: tuple[str, ...] = ()
    # SHA-256 fingerprints (hex, colons allowed) of which the client certificate must have one;
    # never met through the milter, since Postfix does not tell the fingerprint. Empty: any.
    client_fingerprints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.client_networks:
            network(text)
        for text in self.sender_domains:
            check_pattern(text)
        for text in self.client_fingerprints:
            if len(bytes.fromhex(text.replace(":", ""))) != 32:
                raise ValueError(f"not a SHA-256 fingerprint: {text}")

    @property
    def wants_certificate(self) -> bool:
        """Whether the row is about client certificates."""
        return bool(self.client_certificate or self.client_subjects or self.client_fingerprints)

    def may_apply(self, session: Session) -> bool:
        """Whether it is about this client, if the sender is as well."""
        if self.client_networks and not inside(session.client_ip, self.client_networks):
            return False
        return not self.listeners or session.listener in self.listeners


def check(session: Session, mail_from: str | None, rules: Sequence[InboundTlsRule]) -> Reply | None:
    """The refusal that `rules` have for this session and envelope sender, None if it may go on.

    `mail_from` is None before MAIL; rows about sender domains do not apply then.
    """
    for rule in rules:
        if _applies(rule, session, mail_from):
            refusal = _unmet(rule, session.tls)
            if refusal is not None:
                return refusal
    return None


def _applies(rule: InboundTlsRule, session: Session, mail_from: str | None) -> bool:
    if not rule.may_apply(session):
        return False
    if not rule.sender_domains:
        return True
    return mail_from is not None and matches(domain_of(mail_from), rule.sender_domains)


def _unmet(rule: InboundTlsRule, tls: Tls | None) -> Reply | None:
    if tls is None or not tls.version:
        return _NO_TLS
    # An unknown version is weaker than any we know.
    if _RANK.get(tls.version, -1) < _RANK[rule.minimum_version]:
        return Reply(550, "5.7.10", f"{rule.minimum_version} or newer is required")
    wants_subject = bool(rule.client_subjects)
    if (rule.client_certificate or wants_subject) and not tls.client_verified:
        return Reply(550, "5.7.10", "A verified client certificate is required")
    names = {name.casefold() for name in rule.client_subjects}
    shown = {name.casefold() for name in (tls.client_subject, *tls.client_names)}
    if wants_subject and not names & shown:
        return Reply(550, "5.7.10", "This client certificate is not accepted here")
    prints = {text.replace(":", "").lower() for text in rule.client_fingerprints}
    if prints and tls.client_fingerprint.lower() not in prints:
        return Reply(550, "5.7.10", "This client certificate is not accepted here")
    return None


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The contexts of our listeners; made by `server_tls`.

    A certificate that does not verify ends the handshake, since Python has no way to take it and look later.
    So none is asked for but where a row of the policy may want to see it: who has one of somebody else's
    authority must still be able to send us mail.
    """

    usual: ssl.SSLContext
    asking: ssl.SSLContext | None = None
    rules: tuple[InboundTlsRule, ...] = ()

    def context(self, client_ip: str, listener: str) -> ssl.SSLContext:
        """The context for a client of `listener`."""
        if self.asking is None:
            return self.usual
        session = Session(client_ip=client_ip, listener=listener)
        asks = any(rule.wants_certificate and rule.may_apply(session) for rule in self.rules)
        return self.asking if asks else self.usual


def server_tls(
    certificate: str,
    key: str,
    *,
    client_ca_file: str = "",
    minimum_version: OfferedVersion = "TLSv1.2",
    rules: tuple[InboundTlsRule, ...] = (),
) -> ServerTls:
    """What our listeners answer TLS with. Raises OSError, ssl.SSLError."""
    usual = server_context(certificate, key, minimum_version=minimum_version)
    if not client_ca_file:
        return ServerTls(usual)
    asking = server_context(certificate, key, client_ca_file=client_ca_file, minimum_version=minimum_version)
    return ServerTls(usual, asking, rules)


def server_context(
    certificate: str, key: str, *, client_ca_file: str = "", minimum_version: OfferedVersion = "TLSv1.2"
) -> ssl.SSLContext:
    """A context with which our listeners answer. Raises OSError, ssl.SSLError.

    A client certificate is asked for only if there is a `client_ca_file`. A self-signed one goes into that
    file itself.
    """
    for path in filter(None, (certificate, key, client_ca_file)):
        with Path(path).open("rb"):
            pass  # ssl's own errors do not name the file
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[minimum_version]
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_pair(context, certificate, key)
    if client_ca_file:
        context.load_verify_locations(client_ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load them; where that fails, say which file is wrong and how, which OpenSSL does not."""

    def passphrase() -> str:
        raise OSError(f"{key or certificate} is encrypted; store it without a passphrase")

    try:
        context.load_cert_chain(certificate, key or None, passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise OSError(f"{key or certificate} is not the key of {certificate}") from error
        if b"-----BEGIN CERTIFICATE-----" not in Path(certificate).read_bytes():
            raise OSError(f"{certificate} has no certificate in PEM") from error
        if b"PRIVATE KEY-----" not in Path(key or certificate).read_bytes():
            mend = "" if key else "; set key"
            raise OSError(f"{key or certificate} has no private key in PEM{mend}") from error
        raise OSError(f"{certificate}, {key or certificate}: {error}") from error


def tls_version(name: TlsVersion) -> ssl.TLSVersion:
    """The ssl module's value for the version called `name`."""
    return _VERSIONS[name]
