# SPDX-License-Identifier: GPL-2.0-or-later
"""The public rows about MTA-STS and TLS-RPT. Data, not tests: see test_tls.py.

The answer table of a Postfix policy map needs its zone and its web server, which are made here of the
configuration that comes with it.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrib.lab.certificates import Authority
from contrib.lab.dns import DnsStub
from contrib.lab.web import WebServer
from gateway.dns import DnsSettings, Resolver
from gateway.log import LogSettings, open_log
from gateway.socketmap import Answerer
from gateway.tls import mta_sts, tlsrpt
from gateway.tls.demands import Demands
from gateway.tls.fetch import Web
from gateway.tls.policies import InMemory, Policies
from gateway.tls.settings import TlsSettings
from tests.conformance.auth_suites import Outcome, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def parsed(path: Path, reader: Callable[[str, str], object]) -> Iterator[Outcome]:
    """Whether each row is read, or refused, as it wants."""
    for row in rows(path):
        try:
            reader(row["id"], row["input"])
        except (mta_sts.PolicyError, tlsrpt.RecordError) as error:
            yield Outcome(row["id"], row["expect"] == "invalid", str(error))
        else:
            yield Outcome(row["id"], row["expect"] == "valid", "taken for valid")


def mta_sts_mox(root: Path) -> Iterator[Outcome]:
    def read(row: str, text: str) -> object:
        return mta_sts.read_record(text) if "Record" in row else mta_sts.read_policy(text.encode())

    yield from parsed(root / "mox" / "cases-mta-sts.jsonl", read)


def tlsrpt_mox(root: Path) -> Iterator[Outcome]:
    yield from parsed(root / "mox" / "cases-tlsrpt-record.jsonl", lambda _row, text: tlsrpt.read_record(text))


def mta_sts_zone(text: str) -> dict[str, Any]:
    """The zone of a dnsmasq configuration."""
    zone: dict[str, Any] = {"*.loc": {"A": ["127.0.0.1"]}}
    for line in text.splitlines():
        if found := re.match(r"address=/([^/]+)/", line):
            zone.setdefault(found[1], {"A": ["127.0.0.1"]})
        elif found := re.match(r'txt-record=([^,]+),"(.*)"', line):
            zone[found[1]] = {"TXT": [found[2]]}
    return zone


def mta_sts_sites(web: WebServer, text: str, folder: Path) -> Authority:
    """Serve what an nginx configuration serves; those with a bad certificate have one."""
    authority, stranger = Authority(folder / "ca"), Authority(folder / "stranger")
    for block in text.split("server_name ")[1:]:
        host = block.partition(";")[0]
        answer = re.search(r'return (\d+) "([^"]*)"', block)
        if answer is None:
            continue
        pair = (stranger if "bad-cert1" in host else authority).issue(
            "other.loc" if "bad-cert2" in host else host, file=host
        )
        body = answer[2].replace("\\n", "\n").encode()
        kind = "text/html" if "text/html" in block else "text/plain"
        web.serve(host, pair, body, status=f"{answer[1]} Answer", kind=kind)
    return authority


def mta_sts_postfix(root: Path) -> Iterator[Outcome]:
    data = root / "mta-sts" / "data"
    log = open_log(LogSettings(level="error"))
    zone = mta_sts_zone((data / "dnsmasq.conf.appendix").read_text())
    with DnsStub(zone) as stub, WebServer() as web, tempfile.TemporaryDirectory() as folder:
        authority = mta_sts_sites(web, (data / "nginx.conf").read_text(), Path(folder))
        resolver = Resolver(DnsSettings(nameservers=(stub.nameserver,), timeout=5.0, attempts=1))
        reach = Web(resolver, web.port, str(authority.certificate), lambda _address: True)
        demands = Demands(TlsSettings(), resolver, Policies(resolver, reach, InMemory()))
        answerer = Answerer(demands, log)
        for number, line in enumerate((data / "refdata.tsv").read_text().splitlines(), 1):
            question, _, wanted = line.partition("\t")
            said = asyncio.run(answerer.answer(question.encode()))
            yield Outcome(f"{number} {question}", said == wanted, said)


SUITES: dict[str, Callable[[Path], Iterator[Outcome]]] = {
    "mta-sts-mox": mta_sts_mox,
    "mta-sts-postfix": mta_sts_postfix,
    "tlsrpt-mox": tlsrpt_mox,
}
