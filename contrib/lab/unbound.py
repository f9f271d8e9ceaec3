# SPDX-License-Identifier: GPL-2.0-or-later
"""A real validating resolver: Debian's unbound, with zones signed for the test, and trust in them alone.

    zones = [Zone("example.com", {"example.com": {"MX": ["10 mx.example.net"]}}), Zone("example.net", ...)]
    with Unbound(directory, zones) as resolver:
        Resolver(DnsSettings(nameservers=(resolver.nameserver,)))

It reads the zones from files, as if from their name servers, and validates what they say. Keys of zones that
have no parent among them are its trust anchors; it asks nobody else.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import dns.dnssec
import dns.dnssectypes
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.rdtypes.ANY.RRSIG
import dns.versioned
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

from contrib.lab.process import Server, free_port, program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

State = Literal["signed", "unsigned", "broken", "expired", "dead"]
_TTL = 300
_CONFIG = """\
server:
  interface: {address}
  port: {port}
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{directory}"
  pidfile: "{directory}/unbound.pid"
  use-syslog: no
  logfile: ""
  num-threads: 1
  so-reuseport: no
  module-config: "validator iterator"
  do-not-query-address: 0.0.0.0/0
  do-not-query-address: ::0/0
  val-log-level: 2
  trust-anchor-signaling: no
{anchors}
remote-control:
  control-enable: no
{zones}
"""
_ZONE = """\
auth-zone:
  name: "{name}"
  zonefile: "{file}"
  for-downstream: no
  for-upstream: yes
  fallback-enabled: no
"""


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone: records by name and type, in zone-file form.

    "signed" is as it should be; "unsigned" has no keys, and its parent says so; the signatures of a
    "broken" one are wrong, those of an "expired" one too old; a "dead" one has no server that answers.
    """

    name: str
    records: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    state: State = "signed"


class Unbound(Server):
    """The resolver on a free port of `address`."""

    name = "unbound"

    def __init__(self, directory: Path, zones: Sequence[Zone], address: str = "127.0.0.1") -> None:
        super().__init__(directory)
        self.address = address
        self.port = _free_port(address)
        known = {zone.name for zone in zones}
        below: dict[str, list[str]] = {name: [] for name in known}  # what parents say of their children
        anchors, files = [], []
        for zone in sorted(zones, key=lambda one: -one.name.count(".")):
            file = self.directory / f"{zone.name}.zone"
            digest = _write(zone, below[zone.name], file)
            if zone.state != "dead":
                files.append(_ZONE.format(name=zone.name, file=file))
            parent = _parent(zone.name, known)
            if parent:
                below[parent].append(f"{zone.name}. {_TTL} IN NS ns.invalid.")
                below[parent] += [f"{zone.name}. {_TTL} IN DS {digest}"] if digest else []
            elif digest:
                anchors.append(f'  trust-anchor: "{zone.name}. DS {digest}"')
        self.config = self.directory / "unbound.conf"
        self.config.write_text(
            _CONFIG.format(
                address=address,
                port=self.port,
                directory=self.directory,
                anchors="\n".join(anchors),
                zones="".join(files),
            )
        )

    @property
    def nameserver(self) -> str:
        """The address as the setting `dns.nameservers` takes it."""
        return f"{self.address}:{self.port}"

    def command(self) -> Sequence[str]:
        return [program("unbound") or "unbound", "-dd", "-c", str(self.config)]

    def is_up(self) -> bool:
        try:
            dns.query.udp(dns.message.make_query("invalid.", "A"), self.address, timeout=0.2, port=self.port)
        except (OSError, dns.exception.DNSException):
            return False
        return True


def _free_port(address: str) -> int:
    """A port that nobody else gets, and that is free for TCP and UDP at this address as well."""
    while True:
        port = free_port()
        with (
            contextlib.suppress(OSError),
            socket.socket() as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind((address, port))
            udp.bind((address, port))
            return port


def _parent(name: str, known: set[str]) -> str:
    rest = name.partition(".")[2]
    while rest and rest not in known:
        rest = rest.partition(".")[2]
    return rest


def _write(zone: Zone, delegations: Sequence[str], file: Path) -> str:
    """Write the zone's file; return what its parent's DS says of it, "" if there is none."""
    lines = [
        f"{zone.name}. {_TTL} IN SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 {_TTL}",
        f"{zone.name}. {_TTL} IN NS ns.invalid.",
        *delegations,
    ]
    for name, kinds in zone.records.items():
        lines += [
            f"{name}. {_TTL} IN {kind} {_text(kind, one)}" for kind, all_ in kinds.items() for one in all_
        ]
    text = "\n".join(lines) + "\n"
    if zone.state == "unsigned":
        file.write_text(text)
        return ""
    made = dns.zone.from_text(text, origin=zone.name, relativize=False, zone_factory=dns.versioned.Zone)
    key = ec.generate_private_key(ec.SECP256R1())
    public = dns.dnssec.make_dnskey(key.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257)
    end = dt.datetime.now(dt.UTC) + dt.timedelta(days=-1 if zone.state == "expired" else 1)
    dns.dnssec.sign_zone(
        made,
        keys=[(key, public)],
        add_dnskey=True,
        dnskey_ttl=_TTL,
        inception=end - dt.timedelta(days=3),
        expiration=end,
    )
    if zone.state != "dead":
        signed = made.to_text(relativize=False)
        file.write_text(_spoilt(made) if zone.state == "broken" else signed)
    return str(dns.dnssec.make_ds(dns.name.from_text(zone.name), public, "SHA256").to_text())


def _text(kind: str, value: Any) -> str:
    if kind == "TXT":
        return f'"{value}"'
    return f"{value}." if kind in ("MX", "CNAME") else str(value)


def _spoilt(zone: dns.zone.Zone) -> str:
    """The zone's text with one bit of each signature turned, but for those of its keys."""
    lines = []
    for name, found in zone.iterate_rdatasets():
        for one in found:
            if isinstance(one, dns.rdtypes.ANY.RRSIG.RRSIG) and one.type_covered != dns.rdatatype.DNSKEY:
                one = one.replace(signature=bytes([one.signature[0] ^ 1]) + one.signature[1:])  # noqa: PLW2901  # the same record, spoilt
            lines.append(f"{name} {found.ttl} IN {dns.rdatatype.to_text(found.rdtype)} {one.to_text()}")
    return "\n".join(lines) + "\n"
