# SPDX-License-Identifier: GPL-2.0-or-later
"""The public suites on sender authentication, run against a DNS stub. Data, not tests: see test_auth.py.

Each suite is a function from its folder's parent to outcomes. `DEVIATIONS` lists the rows that
we answer otherwise on purpose, with the reason; they count as not passed.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from contrib.lab.dns import DnsStub
from gateway.auth.arc import check_arc
from gateway.auth.author import author_domain
from gateway.auth.dkim import check_dkim, read_signatures
from gateway.auth.dmarc import (
    MalformedRecordError,
    Method,
    evaluate,
    fetch,
    organizational_domain,
    read_record,
)
from gateway.auth.results import Result, read_results
from gateway.auth.seal import seal
from gateway.auth.settings import AuthSettings
from gateway.auth.sign import SigningKey, read_private_key
from gateway.auth.signature import BadSignatureError, Material, read_key
from gateway.auth.spf import check_spf
from gateway.auth.suffixes import organizational
from gateway.dns import DnsSettings, Lookup, Resolver
from gateway.mail import headers
from gateway.mail.mime import parse
from gateway.mail.types import Dkim, Dmarc, Envelope, Session, Spf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SETTINGS = AuthSettings()

DEVIATIONS = {
    "multiple_2.txt": "all its signatures are rsa-sha1, which never passes (RFC 8301 section 3.1)",
    "test:default-modifier": "default= has no meaning in RFC 7208; the row wants pyspf's lax mode",
    "mox/TestParseRecord#4": "white space behind the last semicolon leaves no doubt; many keys have it",
    "test:default-modifier-harsh": '"ambiguous" is no result of RFC 7208; the row wants pyspf\'s harsh mode',
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of a suite: did we answer as it wants?"""

    case: str
    passed: bool
    detail: str = ""


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def lookup_at(stub: DnsStub) -> Lookup:
    """A lookup with an empty cache, at this stub. It is patient where every question has an answer."""
    settings = DnsSettings(nameservers=(stub.nameserver,), timeout=0.4 if stub.silent else 5.0, attempts=1)
    return Lookup(Resolver(settings), time.monotonic() + 20)


def material_of(raw: bytes) -> Material:
    """A message as signatures see it; LF files are taken for CRLF."""
    raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    section = headers.split(raw)
    return Material(section.fields, raw, section.body_start)


# ---------------------------------------------------------------- SPF


def spf_entry(records: list[Any]) -> dict[str, list[Any]] | str:
    entry: dict[str, list[Any]] = {}
    for record in records:
        if isinstance(record, str):
            entry["*"] = [record]
            continue
        for kind, value in record.items():
            entry.setdefault(kind, []).append(value)
    if "SPF" in entry and "TXT" not in entry:  # the suite's short form for a record published as both
        entry["TXT"] = entry["SPF"]
    entry["TXT"] = [value for value in entry.get("TXT", []) if value != "NONE"]
    return entry


def spf(root: Path, name: str) -> Iterator[Outcome]:
    with DnsStub({}) as stub:
        for row in rows(root / "spf-openspf" / f"cases-{name}.jsonl"):
            stub.replace({owner: spf_entry(records) for owner, records in row["zone"].items()})
            session = Session(client_ip=row["ip"], helo=row["helo"])
            envelope = Envelope(row["mailfrom"] or "", ("postmaster@example.org",))
            result = check_spf(session, envelope, lookup_at(stub), hostname="mx.example.org")[0]
            yield Outcome(row["id"], result.result in row["expect"], f"{result} not in {row['expect']}")


# ---------------------------------------------------------------- DKIM and ARC


def txt(records: dict[str, str]) -> dict[str, Any]:
    special = {"NXDOMAIN": "NXDOMAIN", "~~Query timed out~~": "TIMEOUT", "~~SERVFAIL~~": "SERVFAIL"}
    return {
        name: special.get(value) or {"TXT": ["" if value == '""' else value.replace("\n", "")]}
        for name, value in records.items()
    }


def dkim_results(material: Material, stub: DnsStub, now: float) -> tuple[Dkim, ...]:
    return check_dkim(material, read_signatures(material, SETTINGS, now), lookup_at(stub), SETTINGS)


def _state(found: tuple[Dkim, ...]) -> str:
    words = {one.result for one in found}
    return "none" if not words else "pass" if "pass" in words else "not-pass"


def dkim_mail_dkim(root: Path) -> Iterator[Outcome]:
    folder = root / "dkim-mail-dkim"
    with DnsStub(txt(json.loads((folder / "dns.json").read_text()))) as stub:
        for row in rows(folder / "cases.jsonl"):
            # The clock of the messages, but for the row on expiry.
            now = time.time() if "expired" in (row["comment"] or "") else 1_100_000_000.0
            if "ed25519" in row["file"]:
                now = time.time()
            found = dkim_results(material_of((folder / row["file"]).read_bytes()), stub, now)
            expected = row["expect_modern"]
            # Which word a bad signature gets is not settled: many here miss v= or use sha1 as well.
            wanted = expected if expected in ("pass", "none") else "not-pass"
            yield Outcome(row["id"], _state(found) == wanted, f"{found} instead of {expected}")


def dkim_verifier(root: Path) -> Iterator[Outcome]:
    folder = root / "dkim-verifier-ext"
    for row in rows(folder / "cases.jsonl"):
        records = json.loads((folder / row["dns"]).read_text()) if isinstance(row["dns"], str) else row["dns"]
        with DnsStub(txt(records)) as stub:
            material = material_of((folder / row["file"]).read_bytes())
            found = dkim_results(material, stub, 2_000_000_000.0)
        right = len(found) >= len(row["signatures"]) and all(
            (found[expected["idx"]].result == "pass") == (expected["result"] == "pass")
            for expected in row["signatures"]
        )
        yield Outcome(row["id"], right, f"{found} instead of {row['signatures']}")


def arc_validation(root: Path) -> Iterator[Outcome]:
    for row in rows(root / "arc-valimail" / "cases-validation.jsonl"):
        with DnsStub(txt(row["txt"])) as stub:
            found = check_arc(material_of(row["message"].encode()), lookup_at(stub), SETTINGS)
        # An empty cv asks for no new verdict on a chain that was sealed as failed: it stays failed.
        expected = row["cv"].lower() or "fail"
        yield Outcome(row["id"], found.result == expected, f"{found} instead of {expected}")


def _consolidated(material: Material, authserv_id: str) -> str:
    """The results of all fields of `authserv_id`, in order, as the signing suite wants them sealed."""
    found = []
    for index in material.indexes("authentication-results"):
        value = " ".join(material.fields[index].value.decode().split())
        name, _, results = value.partition(";")
        if name.strip().lower() == authserv_id:
            found.append(results.strip().rstrip(";"))
    return "; ".join((authserv_id, *found))


def _tag_values(text: str) -> dict[str, str]:
    tags = (tag.partition("=") for tag in "".join(text.split()).split(";") if tag)
    return {name: value for name, _, value in tags}


def arc_signing(root: Path) -> Iterator[Outcome]:
    for row in rows(root / "arc-valimail" / "cases-sign.jsonl"):
        material = material_of(row["message"].encode())
        with DnsStub(txt(row["txt"])) as stub:
            chain = check_arc(material, lookup_at(stub), SETTINGS)
        key = SigningKey(row["domain"], row["sel"], read_private_key(row["privatekey"].encode()))
        names = row["sig-headers"].split(":")
        results = _consolidated(material, row["srv-id"])
        fields = dict(seal(material, chain, results, key, now=row["t"], names=names))
        wrong = [
            f"{short}: {fields.get(name)} instead of {row[short]}"
            for short, name in (("AS", "ARC-Seal"), ("AMS", "ARC-Message-Signature"))
            if _tag_values(fields.get(name, "")) != _tag_values(row[short])
        ]
        if "".join(fields.get("ARC-Authentication-Results", "").split()) != "".join(row["AAR"].split()):
            wrong.append(f"AAR: {fields.get('ARC-Authentication-Results')} instead of {row['AAR']}")
        yield Outcome(row["id"], not wrong, "; ".join(wrong))


def dkim_keys(root: Path) -> Iterator[Outcome]:
    for row in rows(root / "mox" / "cases-dkim-key-record.jsonl"):
        try:
            read_key(row["input"].encode())
            state = "valid"
        except BadSignatureError as error:
            # A revoked key is well formed, and of no use.
            state = "valid" if str(error) == "key revoked" else "invalid"
        yield Outcome(
            row["id"], state == row["expect"], f"{state} instead of {row['expect']}: {row['comment']}"
        )


# ---------------------------------------------------------------- DMARC


def dmarc_records(root: Path) -> Iterator[Outcome]:
    for row in rows(root / "mox" / "cases-dmarc-record.jsonl"):
        try:
            record = read_record(row["input"])
            state = "valid" if record and record.p else "invalid"
        except MalformedRecordError:
            state = "invalid"
        yield Outcome(
            row["id"], state == row["expect"], f"{state} instead of {row['expect']}: {row['comment']}"
        )


def _disposition(found: Dmarc) -> str:
    """What a receiver does that honours the policy in full, and t=y or pct=0 by one step less."""
    if found.result != "fail" or not found.policy:
        return "none"
    milder = {"reject": "quarantine", "quarantine": "none", "none": "none"}
    return milder[found.policy] if found.percent == 0 else found.policy


def dmarc_evaluation(root: Path) -> Iterator[Outcome]:
    with DnsStub({}) as stub:
        for row in rows(root / "dmarc-mail-dmarc" / "cases-evaluation.jsonl"):
            zone: dict[str, Any] = {name: {"TXT": [value]} for name, value in row["dns"].items()}
            domain = row["header_from"].lower()
            if row["from_domain_exists"]:
                zone[domain] = {"TXT": ["exists"]}
            stub.replace(zone)
            method: Method = "tree-walk" if "/bis-" in row["id"] else "psl"
            lookup = lookup_at(stub)
            spf = [
                Spf("helo" if one["scope"] == "helo" else "mailfrom", one["domain"], one["result"])
                for one in row["spf"]
            ]
            dkim = [Dkim(one["result"], one["domain"]) for one in row["dkim"]]
            above = partial(organizational_domain, lookup=lookup, method=method)
            found = evaluate(fetch(domain, lookup, method), spf, dkim, above)
            got = (found.result, _disposition(found))
            yield Outcome(row["id"], got == (row["expect_result"], row["expect_disposition"]), f"{found}")


def psl(root: Path) -> Iterator[Outcome]:
    for name in ("cases.jsonl", "cases-test_psl.jsonl"):
        for number, row in enumerate(rows(root / "psl" / name), 1):
            found = organizational(row["domain"] or "")
            expected = row["registrable"]
            if expected and not expected.isascii():
                expected = expected.encode("idna").decode()
            yield Outcome(f"{name}:{number}", found == expected, f"{row}: {found}")


# ---------------------------------------------------------------- header fields


def _author(header: str) -> str:
    raw = header if header.lower().startswith(("from:", "subject:")) else "From: " + header
    content = parse((raw.rstrip("\n") + "\n\nbody\n").replace("\n", "\r\n").encode())
    return author_domain(content)[0]


def from_fields(root: Path) -> Iterator[Outcome]:
    for row in rows(root / "mox" / "cases-from-header.jsonl"):
        found = _author(row["headers"])
        yield Outcome(row["id"], found == row["from_addr"].rpartition("@")[2], f"{found!r}: {row}")
    for row in rows(root / "dmarc-mail-dmarc" / "cases-from-domain.jsonl"):
        found = _author(row["header"])
        yield Outcome(row["header"], found == (row["domain"] or ""), f"{found!r}: {row}")


def authres_mox(root: Path) -> Iterator[Outcome]:
    for row in rows(root / "mox" / "cases-authres.jsonl"):
        try:
            found: Any = [f"{one.method}={one.result}" for one in read_results(row["value"].encode())[1]]
        except ValueError:
            found = "invalid"
        yield Outcome(row["id"], found == row["expect"], f"{found} instead of {row['expect']}")


def _authres_value(path: str, found: tuple[str, tuple[Result, ...]]) -> str | None:
    """What a row's assertion path means for us; None where it asks for authres' own text form."""
    if path == "authserv_id":
        return found[0]
    matched = re.fullmatch(r"results\[(\d)\]\.(\w+)(?:\[(\d)\]\.(\w+))?", path)
    if matched is None:
        return None
    result = found[1][int(matched[1])]
    if matched[2] in ("method", "result", "reason"):
        return str(getattr(result, matched[2])) or "None"
    if matched[2] == "properties":
        name, value = result.properties[int(matched[3])]
        return {"type": name.partition(".")[0], "name": name.partition(".")[2], "value": value}[matched[4]]
    return result.get(matched[2].replace("_", ".", 1)) or "None"


def authres(root: Path) -> Iterator[Outcome]:
    for row in rows(root / "authres" / "cases.jsonl"):
        # Four rows hold the Python source around the field too.
        header = row["header"].lstrip("'").partition("')")[0]
        wrong = []
        try:
            found = read_results(header.partition(":")[2].encode(), tolerant=True)
        except ValueError as error:
            wrong = [str(error)] if row["asserts"] else []
        else:
            seen: set[str] = set()
            for path, wanted in row["asserts"]:
                if path == "results[0]" and path in seen:
                    break  # from here on the row speaks of another field, which it does not hold
                seen.add(path)
                value = _authres_value(path, found)
                if value is not None and value != wanted:
                    wrong.append(f"{path}: {value} instead of {wanted}")
        yield Outcome(row["id"], not wrong, "; ".join(wrong))


SUITES: dict[str, Callable[[Path], Iterator[Outcome]]] = {
    "spf-rfc7208": lambda root: spf(root, "rfc7208"),
    "spf-rfc4408": lambda root: spf(root, "rfc4408"),
    "spf-pyspf": lambda root: spf(root, "pyspf"),
    "dkim-mail-dkim": dkim_mail_dkim,
    "dkim-verifier-ext": dkim_verifier,
    "dkim-keys-mox": dkim_keys,
    "arc-validation": arc_validation,
    "arc-signing": arc_signing,
    "dmarc-mail-dmarc": dmarc_evaluation,
    "dmarc-records-mox": dmarc_records,
    "psl": psl,
    "from-fields": from_fields,
    "authres": authres,
    "authres-mox": authres_mox,
}
