# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy matrix: mail through MX hosts of a real Postfix, under all that may be asked of them.

Names come from a stub that sets DNSSEC's bit, and from a real unbound that validates zones signed for each
row; MTA-STS has a web server. The rows are in tests/tls_matrix.toml. Under enforcement nothing arrives in
clear, and nothing is sent either.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.dns import DnsStub
from contrib.lab.postfix import Postfix
from contrib.lab.process import free_port
from contrib.lab.sink import EXTENSIONS, Sink
from contrib.lab.unbound import Unbound, Zone
from contrib.lab.web import WebServer
from gateway.delivery.relay import RecipientResult, relay
from gateway.delivery.routes import parse_route
from gateway.delivery.watch import Watch
from gateway.delivery.ways import Ways
from gateway.dns import DnsSettings, Resolver
from gateway.log import LogSettings, open_log
from gateway.store.database import open_database
from gateway.store.hosts import Hosts, StsPolicies
from gateway.store.tlsrpt import TlsResults, results, summaries
from gateway.tls import outbound
from gateway.tls.dane import public_key
from gateway.tls.demands import Demands
from gateway.tls.fetch import Web
from gateway.tls.outbound import OutboundTlsRule
from gateway.tls.policies import Policies
from gateway.tls.settings import TlsSettings
from tests.stored import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrib.lab.certificates import Pair
    from contrib.lab.unbound import State

pytestmark = pytest.mark.server("postfix")

ROWS: list[dict[str, Any]] = tomllib.loads(
    (Path(__file__).parents[1] / "tls_matrix.toml").read_text("utf-8")
)["row"]
DOMAIN = "example.com"
ALIAS = "alias.example.com"
REAL = frozenset(("com", "net", "tcp", "alias", "far"))  # what only a real resolver can make of a row


def host(server: str) -> str:
    return f"mx.{server}.example.net"


class Site:
    """The MX hosts: listeners of one Postfix, which hands on to a sink, and a sink that offers REQUIRETLS."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory / "ca")
        self.stranger = Authority(directory / "stranger", "Stranger")
        self.pairs: dict[str, Pair] = {
            "good": self.authority.issue(host("good")),
            "requiretls": self.authority.issue(host("requiretls")),
            "name": self.authority.issue("other.example.net"),
            "expired": self.authority.issue(host("expired"), days=-1),
            "stranger": self.stranger.issue(host("stranger")),
        }
        self.ports = {name: free_port() for name in (*self.pairs, "plain")}
        self.behind = Sink()
        tls = self.authority.server_context(self.pairs["requiretls"])
        self.modern = Sink(tls=tls, port=self.ports["requiretls"], extensions=(*EXTENSIONS, "REQUIRETLS"))
        services = [f"127.0.0.1:{self.ports['plain']} inet n - n - - smtpd"]
        services += [self.listener(name, directory) for name in ("good", "name", "expired", "stranger")]
        self.postfix = Postfix(
            directory / "postfix",
            relay_to=f"127.0.0.1:{self.behind.port}",
            domains=[DOMAIN],
            parameters={"smtpd_tls_received_header": "yes", "smtp_tls_security_level": "none"},
            services=services,
        )

    def issuer(self, name: str) -> Authority:
        return self.stranger if name == "stranger" else self.authority

    def listener(self, name: str, directory: Path) -> str:
        """The lines of master.cf for one host, whose chain has its authority as well."""
        pair = self.pairs[name]
        chain = directory / f"{name}.chain.pem"
        chain.write_text(
            pair.key.read_text() + pair.certificate.read_text() + self.issuer(name).certificate.read_text()
        )
        return (
            f"127.0.0.1:{self.ports[name]} inet n - n - - smtpd\n"
            f"  -o smtpd_tls_security_level=may -o smtpd_tls_chain_files={chain}"
        )

    def tlsa(self, name: str, kind: str) -> str:
        """A record of that kind for a host."""
        if kind == "fails":
            return "SERVFAIL"
        if kind.startswith("unusable"):
            return f"{'0 0' if kind == 'unusable-ta' else '1 1'} 1 {'ab' * 32}"
        server = self.pairs.get(name, self.pairs["good"]).der
        if kind.startswith("ee"):
            data = server if kind == "ee" else self.pairs["expired" if name != "expired" else "good"].der
            return f"3 1 1 {hashlib.sha256(public_key(data)).hexdigest()}"
        authority = self.stranger if kind == "ta-other" else self.issuer(name)
        certificate = ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())
        if kind == "ta-key":
            return f"2 1 1 {hashlib.sha256(public_key(certificate)).hexdigest()}"
        return f"2 0 1 {hashlib.sha256(certificate).hexdigest()}"


@pytest.fixture(scope="module")
def hosts(lab: Path) -> Iterator[Site]:
    directory = lab / "matrix"
    directory.mkdir(mode=0o755)
    made = Site(directory)
    with made.behind, made.modern, made.postfix:
        yield made


@pytest.fixture
def trusted(hosts: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system trusts our authority, and no other."""
    monkeypatch.setenv("SSL_CERT_FILE", str(hosts.authority.certificate))
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    outbound._context.cache_clear()
    yield
    outbound._context.cache_clear()


def zone(hosts: Site, row: dict[str, Any]) -> dict[str, Any]:
    server = row["server"]
    found: dict[str, Any] = {
        DOMAIN: {"MX": [f"10 {ALIAS if 'alias' in row else host(server)}"]},
        host(server): {"A": ["127.0.0.1"]},
    }
    if "alias" in row:
        found[ALIAS] = {"CNAME": [host(server)]}
    for name, kinds in ((host(server), row.get("tlsa")), (ALIAS, row.get("alias"))):
        if kinds:
            records = [hosts.tlsa(server, kind) for kind in kinds.split()]
            found[f"_{hosts.ports[server]}._tcp.{name}"] = {"TLSA": records}
    if "sts" in row:
        found[f"_mta-sts.{DOMAIN}"] = {"TXT": ["v=STSv1; id=1;"]}
        found[f"mta-sts.{DOMAIN}"] = {"A": ["127.0.0.1"]}
    return found


@contextlib.contextmanager
def stub(records: dict[str, Any], row: dict[str, Any], _directory: Path) -> Iterator[str]:
    with DnsStub(records) as server:
        server.authentic = row.get("signed", True)
        server.insecure.update([] if row.get("mx_signed", True) else [DOMAIN])
        yield server.nameserver


@contextlib.contextmanager
def unbound(records: dict[str, Any], row: dict[str, Any], directory: Path) -> Iterator[str]:
    """The same names in signed zones, those that the row says in another state."""
    whole: State = "signed" if row.get("signed", True) else "unsigned"
    com = row.get("com", whole if row.get("mx_signed", True) else "unsigned")
    zones: dict[str, State] = {DOMAIN: com, "example.net": row.get("net", whole)}
    if "tcp" in row or row.get("tlsa") == "fails":
        zones[f"_tcp.{host(row['server'])}"] = row.get("tcp", "dead")
    placed: dict[str, dict[str, Any]] = {name: {} for name in zones}
    for name, kinds in records.items():
        home = max((one for one in zones if f".{name}".endswith(f".{one}")), key=len)
        if zones[home] != "dead":
            placed[home][name] = kinds
    made = [Zone("com"), Zone("net")]  # so that it is proved of unsigned zones that they are
    made += [Zone(name, placed[name], state) for name, state in zones.items()]
    where = own_address() if row.get("far") else "127.0.0.1"
    with Unbound(directory / "unbound", made, where) as server:
        yield server.nameserver


def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address: str = probe.getsockname()[0]
    return address


def policy(row: dict[str, Any]) -> bytes:
    mode = "enforce" if row["sts"] == "other" else row["sts"]
    allowed = "other.example.org" if row["sts"] == "other" else host(row["server"])
    return f"version: STSv1\nmode: {mode}\nmx: {allowed}\nmax_age: 1000\n".encode()


def send(hosts: Site, ways: Ways, row: dict[str, Any], word: str) -> RecipientResult:
    route = parse_route(f"mx:{DOMAIN}:{hosts.ports[row['server']]}")
    target = ways.target(route, DOMAIN, row.get("wish", ""))
    options = ("REQUIRETLS",) if row.get("wish") == "requiretls" else ()
    recipient = f"bob@{DOMAIN}"
    message = f"Subject: {word}\r\n\r\nsecret\r\n".encode()
    sent = relay(
        target, ways, "alice@example.org", (recipient,), message, helo="gw.example.org", options=options
    )
    return asyncio.run(sent)[recipient]


def arrived(hosts: Site, word: str, server: str) -> tuple[bool, bool]:
    """Whether the message arrived, and over TLS: as the MX host says in its trace field."""
    if server == "requiretls":
        found = [one for one in hosts.modern.transactions if word.encode() in one.data]
        assert all("REQUIRETLS" in one.options for one in found)
        return bool(found), all(one.tls for one in found)
    hosts.postfix.wait_empty()
    datas = [one.data for one in hosts.behind.transactions if word.encode() in one.data]
    return bool(datas), all(b"(using TLSv1.3 with cipher" in data for data in datas)


def name_of(row: dict[str, Any]) -> str:
    return "-".join(
        str(value) for key, value in row.items() if key not in ("why", "comes_to", "told", "code")
    )


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("row", "names"),
    [
        *(pytest.param(row, stub, id=f"{name_of(row)}-stub") for row in ROWS if not REAL & row.keys()),
        *(
            pytest.param(row, unbound, id=f"{name_of(row)}-unbound", marks=pytest.mark.server("unbound"))
            for row in ROWS
        ),
    ],
)
def test_matrix(hosts: Site, tmp_path: Path, row: dict[str, Any], names: Any) -> None:
    counted: list[str] = []
    word = f"matrix{ROWS.index(row)}{names.__name__}x"
    rules = (OutboundTlsRule(domains=(DOMAIN,), level=row["level"]),) if "level" in row else ()
    settings = TlsSettings(outbound=rules, downgrade=row.get("downgrade", "report"))
    database = open_database(settings_for(tmp_path))
    with names(zone(hosts, row), row, tmp_path) as nameserver, WebServer() as web:
        if row.get("sts", "broken") != "broken":
            web.serve(f"mta-sts.{DOMAIN}", hosts.authority.issue(f"mta-sts.{DOMAIN}"), policy(row))
        resolver = Resolver(DnsSettings(nameservers=(nameserver,), timeout=2.0, attempts=1))
        reach = Web(resolver, web.port, str(hosts.authority.certificate), lambda _address: True)
        memory = Hosts(database, 30)
        if "before" in row:
            memory.saw(host(row["server"]), row["before"])
        demands = Demands(settings, resolver, Policies(resolver, reach, StsPolicies(database)), memory)
        remembers = memory if settings.downgrade != "ignore" else None
        watch = Watch(open_log(LogSettings(level="error")), remembers, TlsResults(database), counted.append)
        ways = Ways(rules=rules, resolver=resolver, demands=demands, watch=watch)
        result = send(hosts, ways, row, word)
        watch.close()
    check(hosts, row, result, counted, word)
    day = int(time.time()) // 86_400
    noted = {one.result for one, _ in results(database, day, DOMAIN, 10)} if summaries(database) else set()
    database.close()
    if "reported" in row:
        assert noted == {row["reported"]}
    assert ("downgraded" in counted) == row.get("told", False)


def check(hosts: Site, row: dict[str, Any], result: RecipientResult, counted: list[str], word: str) -> None:
    """Compare what came of it with the row."""
    comes_to = row["comes_to"]
    there, encrypted = arrived(hosts, word, row["server"])
    assert there == (comes_to in ("verified", "encrypted", "clear")), result
    if comes_to != "clear":
        assert encrypted
    if there:
        assert result.status == "delivered"
        assert comes_to in counted
    else:
        assert result.status == comes_to
        wanted = row.get("code", "5." if comes_to == "refused" else "4.7.")
        assert result.enhanced.startswith(wanted), result
