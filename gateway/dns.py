# SPDX-License-Identifier: GPL-2.0-or-later
"""The one resolver: every DNS question of a process goes through it and its cache.

Reads hostile bytes: answers, which strangers compose. Opens UDP and TCP sockets, keeps none.

dnspython parses the answers, but for the plainest, which cost it 60 to 100 µs of processor time each, and
5 µs here. Its resolver is not used: it appends local search domains, turns failures into a dozen kinds of
exceptions, cannot ask several questions at once from one thread, and costs five times an exchange over a
plain socket. Failures are values here: SERVFAIL, REFUSED, time-outs, nonsense are all "temperror".
"""

from __future__ import annotations

import copy
import ipaddress
import secrets
import socket
import struct
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import msgspec

from gateway.mail.domains import to_ascii
from gateway.mail.networks import reverse_name
from gateway.settings import Count, Positive, Seconds, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Kind = Literal["A", "AAAA", "TXT", "MX", "PTR", "TLSA", "CNAME"]
Question = tuple[str, Kind]
Status = Literal["ok", "nxdomain", "nodata", "temperror"]
T = TypeVar("T")

_KINDS: Final[dict[str, int]] = {"A": 1, "CNAME": 5, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "TLSA": 52}
_MAX_CHAIN: Final = 10  # CNAMEs followed in one answer
_MAX_RECORDS: Final = 512  # in the answer section; more is refused unread
_MAX_OCTETS: Final = 16_384  # of an answer
_MAX_ZEROS: Final = 4_096  # zero octets: empty TXT strings, of which dnspython reads 250 a millisecond
_LONGEST_TTL: Final = 86_400 * 365
_FAILURE_TTL: Final = 5.0  # seconds; RFC 2308 §7.1 allows up to five minutes
# EDNS0 (RFC 6891): 1232 octets, which pass every path without fragments.
_OPT: Final = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


class DnsSettings(Settings, frozen=True):
    """How names are looked up."""

    # Recursive resolvers, as "ADDRESS", "ADDRESS:PORT" or "[IPV6]:PORT"; empty: those of /etc/resolv.conf.
    nameservers: tuple[str, ...] = ()
    # Seconds to wait for a server before the next one is asked.
    timeout: Seconds = 3.0
    # How many times each server is asked before the answer is "temperror".
    attempts: Annotated[int, msgspec.Meta(ge=1, le=5)] = 2
    # How many answers each process keeps; 0 keeps none.
    cache_size: Count = 20_000
    # Seconds after which even an answer with a longer TTL is asked for again.
    cache_max_ttl: Seconds = 3_600.0
    # Questions that one message may cause; further ones are answered "temperror". SPF alone may need 111,
    # and up to 60 are kept for DMARC, so that no sender can use them up elsewhere.
    max_queries_per_message: Positive = 200

    def __post_init__(self) -> None:
        for server in self.nameservers:
            parse_server(server)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What the DNS said.

    `values` by kind: A, AAAA, PTR, CNAME: text; TXT: octets, strings joined; MX: (preference,
    host); TLSA: (usage, selector, matching type, data). Names are lower case, without the final
    dot; the root is ".".
    """

    status: Status
    values: tuple[T, ...] = ()
    secure: bool = False  # validated by a resolver on loopback
    name: str = ""  # after CNAMEs
    reason: str = ""

    def __bool__(self) -> bool:
        """Tell whether there are records."""
        return bool(self.values)


@dataclass(frozen=True, slots=True)
class _Server:
    address: tuple[str, int]
    family: socket.AddressFamily
    loopback: bool


def parse_server(text: str) -> tuple[str, int]:
    """Read "ADDRESS", "ADDRESS:PORT" or "[IPV6]:PORT"; ValueError says what is wrong."""
    host, port = text, "53"
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"not a name server address: {text!r}")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError(f"name server must be an IP address: {text!r}") from None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(f"bad port of name server: {text!r}")
    return address, int(port)


def _system_servers() -> tuple[tuple[str, int], ...]:
    try:
        found = [str(server) for server in dns.resolver.Resolver().nameservers]
    except (dns.exception.DNSException, OSError):
        found = []
    return tuple(parse_server(server) for server in found) or (("127.0.0.1", 53),)


class Resolver:
    """Asks recursive resolvers and keeps their answers. Threads share it; a fork may inherit it."""

    def __init__(self, settings: DnsSettings) -> None:
        self.settings = settings
        servers = tuple(map(parse_server, settings.nameservers)) or _system_servers()
        self._servers = tuple(
            _Server(
                address=(host, port),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                loopback=ipaddress.ip_address(host).is_loopback,
            )
            for host, port in servers
        )
        self.believed = any(one.loopback for one in self._servers)  # in what it says of DNSSEC
        self._cache: OrderedDict[Question, tuple[float, Answer[Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def query(self, name: str, kind: Kind, deadline: float) -> Answer[Any]:
        """Answer one question from the cache or the network, before `deadline` (monotonic seconds)."""
        ascii_name = to_ascii(name)
        if ascii_name is None:
            return _MALFORMED
        return self.ask([(ascii_name, kind)], deadline)[ascii_name, kind]

    def ask(self, questions: Sequence[Question], deadline: float) -> dict[Question, Answer[Any]]:
        """Answer all questions, names as `to_ascii` gives them: from the cache, the others at once."""
        answers = {one: answer for one in questions if (answer := self._lookup(one)) is not None}
        missing = [question for question in questions if question not in answers]
        return answers | self._ask(missing, deadline) if missing else answers

    def prefetch(self, questions: Sequence[Question], deadline: float) -> None:
        """Ask all questions at once, so that `query` finds the answers in the cache."""
        self.ask(questions, deadline)

    def cached(self, name: str, kind: Kind) -> Answer[Any] | None:
        """The answer if the cache has it; never asks."""
        ascii_name = to_ascii(name)
        return _MALFORMED if ascii_name is None else self._lookup((ascii_name, kind))

    def _lookup(self, question: Question) -> Answer[Any] | None:
        with self._lock:
            entry = self._cache.get(question)
            if entry is None:
                return None
            if entry[0] <= time.monotonic():
                del self._cache[question]
                return None
            self._cache.move_to_end(question)
            return entry[1]

    def _keep(self, question: Question, answer: Answer[Any], ttl: float) -> None:
        ttl = min(ttl, self.settings.cache_max_ttl)
        if ttl <= 0 or not self.settings.cache_size:
            return
        with self._lock:
            self._cache[question] = (time.monotonic() + ttl, answer)
            self._cache.move_to_end(question)
            while len(self._cache) > self.settings.cache_size:
                self._cache.popitem(last=False)

    def _ask(self, questions: list[Question], deadline: float) -> dict[Question, Answer[Any]]:
        """Ask the servers in turn until each question has an answer or time is up."""
        answers: dict[Question, Answer[Any]] = {}
        failures: dict[Question, str] = {}
        waiting = list(dict.fromkeys(questions))
        for server in self._servers * self.settings.attempts:
            end = min(deadline, time.monotonic() + self.settings.timeout)
            if not waiting or end <= time.monotonic():
                break
            for question, wire in _exchange_udp(server, waiting, end).items():
                try:
                    answer, ttl = self._read(server, question, wire, end)
                except (dns.exception.DNSException, OSError, ValueError, struct.error) as error:
                    failures[question] = str(error) or type(error).__name__
                else:
                    answers[question] = answer
                    self._keep(question, answer, ttl)
            waiting = [question for question in waiting if question not in answers]
        for question in waiting:
            reason = failures.get(question, "timed out")
            failed: Answer[Any] = Answer("temperror", reason=reason)
            answers[question] = failed
            if time.monotonic() < deadline:  # cut short by this message's deadline: the next may ask
                self._keep(question, failed, _FAILURE_TTL)
        return answers

    def _read(
        self, server: _Server, question: Question, wire: bytes, end: float
    ) -> tuple[Answer[Any], float]:
        if wire[2] & 0x02:  # TC: the whole answer comes over TCP (RFC 7766 §5)
            wire = _exchange_tcp(server, question, end)
        return read_answer(question, wire, trusted=server.loopback)


class Lookup:
    """One message's access to the resolver: one deadline, one count of questions. Threads share it."""

    def __init__(self, resolver: Resolver, deadline: float) -> None:
        self.resolver, self.deadline = resolver, deadline
        self._limit = resolver.settings.max_queries_per_message
        self._spent, self._lock = [0], threading.Lock()

    @property
    def asked(self) -> int:
        """How many questions went to the network so far."""
        return self._spent[0]

    def sparing(self, kept: int) -> Lookup:
        """The same access, but one that leaves the last `kept` questions to others (a third at most)."""
        other = copy.copy(self)  # the count and its lock are shared
        other._limit = self._limit - min(kept, self._limit // 3)  # noqa: SLF001 - of its own class
        return other

    def _may_ask(self) -> bool:
        with self._lock:
            if self._spent[0] >= self._limit:
                return False
            self._spent[0] += 1
        return True

    def query(self, name: str, kind: Kind) -> Answer[Any]:
        """Answer one question, if this message has not asked too many yet."""
        answer = self.resolver.cached(name, kind)
        if answer is not None:
            return answer
        if not self._may_ask():
            return Answer("temperror", reason="too many DNS queries for one message")
        return self.resolver.query(name, kind, self.deadline)

    def prefetch(self, questions: Iterable[Question]) -> bool:
        """Ask all questions at once; False if the cache knew all of them already."""
        missing: dict[Question, None] = {}
        for name, kind in questions:
            ascii_name = to_ascii(name)
            if ascii_name is None or (ascii_name, kind) in missing:
                continue
            if self.resolver.cached(ascii_name, kind) is None and self._may_ask():
                missing[ascii_name, kind] = None
        self.resolver.prefetch(list(missing), self.deadline)
        return bool(missing)

    def txt(self, name: str) -> Answer[bytes]:
        """The TXT records, each with its strings joined."""
        return self.query(name, "TXT")

    def a(self, name: str) -> Answer[str]:
        """The IPv4 addresses."""
        return self.query(name, "A")

    def aaaa(self, name: str) -> Answer[str]:
        """The IPv6 addresses."""
        return self.query(name, "AAAA")

    def mx(self, name: str) -> Answer[tuple[int, str]]:
        """The mail exchangers as (preference, host), in the order received."""
        return self.query(name, "MX")

    def ptr(self, address: str) -> Answer[str]:
        """The names of an IP address; ValueError if it is none."""
        return self.query(reverse_name(address), "PTR")

    def tlsa(self, name: str) -> Answer[tuple[int, int, int, bytes]]:
        """The TLSA records as (usage, selector, matching type, data)."""
        return self.query(name, "TLSA")


_MALFORMED: Final[Answer[Any]] = Answer("nxdomain", reason="not a domain name")


# ---------------------------------------------------------------- the wire


def _query_wire(number: int, question: Question) -> bytes:
    name, kind = question
    labels = b"".join(bytes((len(label),)) + label for label in name.encode("ascii").split(b"."))
    # RD, and AD to learn whether the answer was validated (RFC 6840 §5.7)
    header = struct.pack("!HHHHHH", number, 0x0120, 1, 0, 0, 1)
    return b"".join((header, labels, b"\0", struct.pack("!HH", _KINDS[kind], 1), _OPT))


def _is_reply(wire: bytes, query: bytes) -> bool:
    """Tell whether `wire` answers `query`: same id, a response, same question (RFC 5452 §9.1)."""
    end = len(query) - len(_OPT)
    return (
        len(wire) >= end
        and wire[:2] == query[:2]
        and bool(wire[2] & 0x80)
        and wire[4:6] == b"\0\1"
        and wire[12:end].lower() == query[12:end].lower()
    )


def _exchange_udp(server: _Server, questions: list[Question], end: float) -> dict[Question, bytes]:
    """Send all questions over one socket and collect the replies that arrive before `end`."""
    replies: dict[Question, bytes] = {}
    pending: dict[bytes, tuple[Question, bytes]] = {}
    for question in questions:
        wire = _query_wire(secrets.randbits(16), question)
        pending[wire[:2]] = (question, wire)
    try:
        with socket.socket(server.family, socket.SOCK_DGRAM) as sock:
            sock.connect(server.address)  # the kernel drops datagrams of others
            for _, wire in pending.values():
                sock.send(wire)
            while pending and (left := end - time.monotonic()) > 0:
                sock.settimeout(left)
                wire = sock.recv(65_535)
                asked = pending.get(wire[:2])
                if asked and _is_reply(wire, asked[1]):
                    replies[asked[0]] = wire
                    del pending[wire[:2]]
    except OSError:  # timed out, refused, unreachable: what has arrived counts
        pass
    return replies


def _exchange_tcp(server: _Server, question: Question, end: float) -> bytes:
    query = _query_wire(secrets.randbits(16), question)
    with socket.create_connection(server.address, timeout=max(end - time.monotonic(), 0.001)) as sock:
        sock.sendall(struct.pack("!H", len(query)) + query)
        size = struct.unpack("!H", _receive(sock, 2, end))[0]
        if size > _MAX_OCTETS:
            raise ValueError(f"answer of {size} octets")
        wire = _receive(sock, size, end)
    if not _is_reply(wire, query):
        raise ValueError("answer to another question")
    return wire


def _receive(sock: socket.socket, size: int, end: float) -> bytes:
    chunks = bytearray()
    while len(chunks) < size:
        sock.settimeout(max(end - time.monotonic(), 0.001))
        chunk = sock.recv(size - len(chunks))
        if not chunk:
            raise ValueError("answer cut short")
        chunks += chunk
    return bytes(chunks)


def read_answer(question: Question, wire: bytes, *, trusted: bool) -> tuple[Answer[Any], float]:
    """Read a reply into an answer and its time to live; ValueError or DNSException if it is a failure."""
    if len(wire) < 12 or wire[4:6] != b"\0\1":
        raise ValueError("not an answer to one question")
    rcode = wire[3] & 0x0F
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise ValueError(f"server answered {dns.rcode.to_text(dns.rcode.Rcode(rcode))}")
    count = int.from_bytes(wire[6:8], "big")
    if count > _MAX_RECORDS or len(wire) > _MAX_OCTETS or wire.count(0) > _MAX_ZEROS:
        raise ValueError("answer too large")
    secure = trusted and bool(wire[3] & 0x20)  # AD
    try:
        plain = _read_plain(question, wire)
    except (IndexError, struct.error):
        plain = None  # dnspython says what is wrong with it
    if plain is None:
        status, values, name, ttl = _read_any(question, wire)
    else:
        (status, values, ttl), name = plain, question[0]
    return Answer(status, values, secure=secure, name=name), ttl


def _read_plain(question: Question, wire: bytes) -> tuple[Status, tuple[Any, ...], float] | None:
    """Read "there is none", and A, AAAA and TXT of the very name asked for; None: anything else."""
    name, kind = question
    answers, authorities = struct.unpack_from("!HH", wire, 6)
    position = 12 + len(name) + 6
    if not answers:
        ttl = 0.0  # without an SOA there is nothing to keep (RFC 2308 §5)
        for _ in range(authorities):
            kind_number, octets, data, position = _read_record(wire, position)
            if kind_number == dns.rdatatype.SOA and len(data) >= 22:
                ttl = min(octets, int.from_bytes(data[-4:], "big"))
                break
        return ("nxdomain" if wire[3] & 0x0F else "nodata"), (), ttl
    reader = _READ_PLAIN.get(kind)
    values = []
    lowest = _LONGEST_TTL
    for _ in range(answers):
        if reader is None or wire[position : position + 2] != b"\xc0\x0c":
            return None
        kind_number, seconds, data, position = _read_record(wire, position)
        value = reader(data) if kind_number == _KINDS[kind] else None
        if value is None:
            return None
        values.append(value)
        lowest = min(lowest, seconds)
    return "ok", tuple(values), lowest


def _read_record(wire: bytes, position: int) -> tuple[int, int, bytes, int]:
    """A record's type (0 outside class IN), TTL, data, and where the next one begins."""
    while (size := wire[position]) and size < 0x40:
        position += size + 1
    position += 2 if size else 1
    kind, family, ttl, length = struct.unpack_from("!HHIH", wire, position)
    start = position + 10
    if start + length > len(wire) or 0x40 <= size < 0xC0:
        raise IndexError
    # RFC 2181 §8: a TTL with the topmost bit set counts as 0.
    return (
        kind if family == 1 else 0,
        ttl if ttl < 1 << 31 else 0,
        wire[start : start + length],
        start + length,
    )


def _read_strings(data: bytes) -> bytes | None:
    """The strings of a TXT record, joined; None if they do not fill it."""
    parts = []
    position = 0
    while position < len(data):
        end = position + 1 + data[position]
        parts.append(data[position + 1 : end])
        position = end
    return b"".join(parts) if data and position == len(data) else None


_READ_PLAIN: Final[dict[str, Callable[[bytes], Any]]] = {
    "A": lambda data: socket.inet_ntop(socket.AF_INET, data) if len(data) == 4 else None,
    "AAAA": lambda data: socket.inet_ntop(socket.AF_INET6, data) if len(data) == 16 else None,
    "TXT": _read_strings,
}


def _read_any(question: Question, wire: bytes) -> tuple[Status, tuple[Any, ...], str, float]:
    """Read any answer, by dnspython: status, values, name behind the aliases, time to live."""
    message = dns.message.from_wire(wire, ignore_trailing=True)
    shown, kind = question
    ttl: float = _LONGEST_TTL
    name = message.question[0].name
    sets = {(one.name, int(one.rdtype)): one for one in message.answer if one.rdclass == dns.rdataclass.IN}
    for _ in range(_MAX_CHAIN + 1):
        found = sets.get((name, _KINDS[kind]))
        if found is not None:
            return "ok", tuple(map(_READ[kind], found)), shown, min(ttl, found.ttl)
        alias = sets.get((name, dns.rdatatype.CNAME))
        if alias is None:
            break
        ttl = min(ttl, alias.ttl)
        name = alias[0].target
        shown = _text(name)
    else:
        raise ValueError("CNAME chain too long")
    soas = [
        one
        for one in message.authority
        if one.rdtype == dns.rdatatype.SOA and one.rdclass == dns.rdataclass.IN
    ]
    ttl = min([ttl, soas[0].ttl, soas[0][0].minimum]) if soas else 0.0  # RFC 2308 §5
    return ("nxdomain" if wire[3] & 0x0F else "nodata"), (), shown, ttl


def _text(name: Any) -> str:
    return str(name.to_text(omit_final_dot=True)).lower()


_READ: Final[dict[str, Callable[[Any], Any]]] = {
    "A": lambda rdata: rdata.address,
    "AAAA": lambda rdata: rdata.address,
    "TXT": lambda rdata: b"".join(rdata.strings),
    "MX": lambda rdata: (rdata.preference, _text(rdata.exchange)),
    "PTR": lambda rdata: _text(rdata.target),
    "CNAME": lambda rdata: _text(rdata.target),
    "TLSA": lambda rdata: (rdata.usage, rdata.selector, rdata.mtype, rdata.cert),
}
