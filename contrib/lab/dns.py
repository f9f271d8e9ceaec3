# SPDX-License-Identifier: GPL-2.0-or-later
"""A DNS server for tests, demo and benchmark: UDP and TCP on one loopback port, answers from a dict.

    with DnsStub({"example.com": {"A": ["192.0.2.1"], "TXT": ["v=spf1 -all"]}}) as stub:
        resolver = Resolver(DnsSettings(nameservers=("%s:%d" % stub.address,)))

A name's entry maps record types to values in zone-file form; a TXT value is plain text or octets
of any length, or a list of strings. The entry may instead be "SERVFAIL", "TIMEOUT", "REFUSED"
or "NXDOMAIN", or hold one of these as the only value of a type, or of "*": all other types. A
name that exists only as a parent of others has no data; any other unknown name does not exist.
"*.example.com" is a wildcard.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Self

from dnslib import QTYPE, RCODE, RR, SOA, TXT, DNSHeader, DNSRecord
from dnslib.dns import RDMAP

if TYPE_CHECKING:
    from collections.abc import Mapping

Values = list[Any]
Entry = dict[str, Values] | str
SPECIAL = frozenset({"SERVFAIL", "TIMEOUT", "REFUSED", "NXDOMAIN"})


class DnsStub:
    """The server; `address` is its (IP address, port), `queries` what it was asked."""

    def __init__(
        self, zone: Mapping[str, Entry], *, ttl: int = 300, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.ttl = ttl
        self.authentic = False  # set the AD bit in answers
        self.insecure: set[str] = set()  # but not in those about these names and all below them
        self.delay = 0.0  # seconds before each answer over UDP
        self.queries: list[tuple[str, str, str]] = []  # (name, type, "udp" or "tcp")
        self._zone: dict[str, Entry] = {}
        self._parents: set[str] = set()
        self.replace(zone)
        self._udp, self._tcp = _bind(host, port)
        self.address: tuple[str, int] = self._udp.getsockname()[:2]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._serve_udp, self._serve_tcp)
        ]

    @property
    def nameserver(self) -> str:
        """The address as the setting `dns.nameservers` takes it."""
        return f"{self.address[0]}:{self.address[1]}"

    def add(self, name: str, entry: Entry) -> None:
        """Set all records of a name, while running too."""
        key = name.lower().rstrip(".")
        self._zone[key] = entry
        while "." in key:
            key = key.partition(".")[2]
            self._parents.add(key)

    def replace(self, zone: Mapping[str, Entry]) -> None:
        """Forget all names and serve these."""
        self._zone.clear()
        self._parents.clear()
        for name, entry in zone.items():
            self.add(name, entry)

    @property
    def silent(self) -> bool:
        """Whether there is anything to which it gives no answer."""
        kinds = (entry.values() for entry in self._zone.values() if not isinstance(entry, str))
        return "TIMEOUT" in self._zone.values() or any(["TIMEOUT"] in found for found in kinds)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.address)
        self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self) -> None:
        while not self._stopping.is_set():
            wire, client = self._udp.recvfrom(65_535)
            reply = self.answer(wire, "udp")
            if reply and self.delay:
                threading.Timer(self.delay, self._send, (reply, client)).start()
            elif reply:
                self._send(reply, client)

    def _send(self, reply: bytes, client: Any) -> None:
        with contextlib.suppress(OSError):  # a late answer finds the socket closed
            self._udp.sendto(reply, client)

    def _serve_tcp(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    size = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))[0]
                    reply = self.answer(connection.recv(size, socket.MSG_WAITALL), "tcp")
                    if reply:
                        connection.sendall(struct.pack("!H", len(reply)) + reply)
                except (OSError, struct.error):
                    continue

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        """The reply to a query, or None for silence."""
        try:
            query = DNSRecord.parse(wire)
            kind = QTYPE[query.q.qtype]
        except Exception:  # noqa: BLE001 - dnslib raises anything on a malformed query
            return None
        name = b".".join(query.q.qname.label).decode("latin-1").lower()
        self.queries.append((name, kind, transport))
        reply = DNSRecord(DNSHeader(id=query.header.id, qr=1, ra=1, rd=1), q=query.q)
        special = self._resolve(reply, name, kind)
        reply.header.ad = int(self.authentic and not self._is_insecure(reply, name))
        if special == "TIMEOUT":
            return None
        reply.header.rcode = getattr(RCODE, special or "NOERROR")
        if not reply.rr and special in ("", "NXDOMAIN"):
            soa = SOA("ns.invalid", "hostmaster.invalid", (1, 3600, 600, 86_400, self.ttl))
            reply.add_auth(RR(name.rpartition(".")[2] or ".", QTYPE.SOA, rdata=soa, ttl=self.ttl))
        packed = bytes(reply.pack())
        if transport == "udp" and len(packed) > 1232:
            reply.rr, reply.auth = [], []
            reply.header.tc = 1
            packed = bytes(reply.pack())
        return packed

    def _is_insecure(self, reply: DNSRecord, name: str) -> bool:
        """Whether the answer, aliases included, has anything in it from a zone that is not signed."""
        names = {name, *(str(one.rname).rstrip(".").lower() for one in reply.rr)}
        return any(f".{one}".endswith(f".{zone}") for one in names for zone in self.insecure)

    def _resolve(self, reply: DNSRecord, name: str, kind: str) -> str:
        """Add records to the reply, following aliases; return a special value or ""."""
        owner: Any = reply.q.qname
        for _ in range(20):
            entry = self._zone.get(name, self._zone.get("*." + name.partition(".")[2]))
            if entry is None:
                return "" if name in self._parents else "NXDOMAIN"
            if isinstance(entry, str):
                return entry
            values = entry.get(kind) or entry.get("*", [])
            if len(values) == 1 and isinstance(values[0], str) and values[0] in SPECIAL:
                return str(values[0])
            for value in values:
                reply.add_answer(RR(owner, getattr(QTYPE, kind), rdata=_rdata(kind, value), ttl=self.ttl))
            if values or kind == "CNAME" or not entry.get("CNAME"):
                return ""
            target = str(entry["CNAME"][0]).rstrip(".")
            reply.add_answer(RR(owner, QTYPE.CNAME, rdata=_rdata("CNAME", target), ttl=self.ttl))
            owner = name = target.lower()
        return ""


def _bind(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Bind UDP and TCP to the same port, a free one if `port` is 0."""
    for _ in range(50):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            udp.bind((host, port))
            tcp.bind((host, udp.getsockname()[1]))
            tcp.listen(64)
        except OSError:
            udp.close()
            tcp.close()
            if port:
                raise
        else:
            return udp, tcp
    raise OSError("no port is free for UDP and TCP")


def _rdata(kind: str, value: Any) -> Any:
    if kind in ("TXT", "SPF"):
        strings = value if isinstance(value, list | tuple) else [value]
        octets = [
            text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text for text in strings
        ]
        return TXT([part for text in octets or [b""] for part in _chunks(text)])
    if kind == "MX" and isinstance(value, list | tuple):
        value = f"{value[0]} {value[1]}"
    words = str(value).split()
    reader = RDMAP[kind]
    if kind == "MX":
        return reader(words[1] if len(words) > 1 else ".", int(words[0]))
    if kind == "TLSA":
        return reader(int(words[0]), int(words[1]), int(words[2]), bytes.fromhex("".join(words[3:])))
    return reader(words[0] if words else ".")


def _chunks(text: bytes) -> list[bytes]:
    return [text[start : start + 255] for start in range(0, len(text), 255)] or [b""]
