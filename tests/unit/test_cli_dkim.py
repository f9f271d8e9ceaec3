# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden dkim`: a key that is made can sign, and what is printed of it can be published."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import dns.zone
import pytest
from click.testing import CliRunner, Result

from contrib.lab.dns import DnsStub
from gateway.auth.sign import load_keys
from gateway.cli.main import cli
from gateway.config import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Bench:
    """A configuration with the keys that were made, and a DNS."""

    def __init__(self, directory: Path, stub: DnsStub) -> None:
        self.directory = directory
        self.stub = stub
        self.file = directory / "mailwarden.toml"
        self.file.write_text(f'[dns]\nnameservers = ["{stub.nameserver}"]\ntimeout = 1.5\nattempts = 1\n')

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(cli, ["--config", str(self.file), "dkim", *words])

    def make(self, selector: str, *options: str, domain: str = "example.com") -> dict[str, Any]:
        """Make a key, and configure it."""
        place = ("--out", str(self.directory / "keys"), "--json")
        done = self.run("keygen", "--domain", domain, "--selector", selector, *place, *options)
        assert done.exit_code == 0, done.output
        made: dict[str, Any] = json.loads(done.stdout)
        with self.file.open("a") as file:
            file.write(
                f'[[signing.keys]]\ndomain = "{domain}"\n'
                f'selector = "{selector}"\nkey_file = "{made["file"]}"\n'
            )
        return made

    def states(self, *words: str, status: int) -> dict[str, str]:
        done = self.run("check", "--json", *words)
        assert done.exit_code == status, done.output
        return {one["name"].partition(".")[0]: one["state"] for one in json.loads(done.stdout)}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with DnsStub({}) as stub:
        yield Bench(tmp_path, stub)


@pytest.mark.parametrize(
    ("options", "algorithm", "bits"),
    [
        ((), "rsa-sha256", 2048),
        (("--bits", "3072"), "rsa-sha256", 3072),
        (("--ed25519",), "ed25519-sha256", 0),
    ],
)
def test_a_key_that_is_made_can_sign(
    bench: Bench, options: tuple[str, ...], algorithm: str, bits: int
) -> None:
    before = os.umask(0)
    try:
        made = bench.make("s1", *options)
    finally:
        os.umask(before)
    mode = os.stat(made["file"]).st_mode  # noqa: PTH116  # a path from JSON
    assert mode & 0o777 == 0o600
    assert (bench.directory / "keys").stat().st_mode & 0o777 == 0o700
    assert made["file"].endswith("/keys/example.com.s1.pem")
    [key] = load_keys(load(bench.file).signing)
    assert (key.domain, key.selector, key.algorithm) == ("example.com", "s1", algorithm)
    assert getattr(key.private, "key_size", 0) == bits
    bench.stub.add(made["name"], {"TXT": [made["record"]]})
    assert bench.states(status=0) == {"s1": "good"}


def test_a_domain_beyond_ascii_has_one_spelling(bench: Bench) -> None:
    made = bench.make("s1", "--ed25519", domain="b\u00fccher.example")
    assert made["name"] == "s1._domainkey.xn--bcher-kva.example"
    assert made["file"].endswith("/keys/xn--bcher-kva.example.s1.pem")
    for spelling in ("b\u00fccher.example", "B\u00dcCHER.example", "xn--bcher-kva.example"):
        done = bench.run("dns", "--domain", spelling)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("s1._domainkey.xn--bcher-kva.example. 3600 IN TXT")


def test_nothing_is_overwritten(bench: Bench) -> None:
    made = bench.make("s1", "--ed25519")
    with open(made["file"], "rb") as file:  # noqa: PTH123  # a path from JSON
        before = file.read()
    done = bench.run(
        "keygen", "--domain", "example.com", "--selector", "s1", "--out", str(bench.directory / "keys")
    )
    assert done.exit_code == 73
    assert "there already" in done.output
    with open(made["file"], "rb") as file:  # noqa: PTH123
        assert file.read() == before


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--domain", "not a domain", "--selector", "s", "--out", "x"), 64),
        (("--domain", "example.com", "--selector", "../s", "--out", "x"), 64),
        (("--domain", "example.com", "--selector", "s", "--out", "x", "--bits", "1024"), 64),
        (("--domain", "example.com", "--selector", "s", "--out", "x", "--bits", "2048", "--ed25519"), 64),
        (("--domain", "example.com", "--out", "x"), 64),
        (("--domain", "example.com", "--selector", "s", "--out", "/nowhere/at/all"), 73),
    ],
)
def test_wrong_usage(bench: Bench, options: tuple[str, ...], status: int) -> None:
    done = bench.run("keygen", *options)
    assert done.exit_code == status, done.output
    assert not list(bench.directory.glob("**/*.pem"))


def test_a_zone_file_can_take_what_is_printed(bench: Bench) -> None:
    """For people, `keygen` prints the same record, and the configuration that goes with it."""
    place = ("--out", str(bench.directory / "keys"))
    done = bench.run("keygen", "--domain", "example.com", "--selector", "big", "--bits", "4096", *place)
    assert done.exit_code == 0
    with bench.file.open("a") as file:
        file.write(done.stdout[done.stdout.index("[[signing.keys]]") :])
    made = bench.make("small", "--ed25519")
    zone_text = bench.run("dns").stdout
    assert zone_text.splitlines()[0] in done.stdout
    assert max(map(len, re.findall(r'"([^"]*)"', zone_text))) <= 255
    text = f"@ 300 IN SOA ns hostmaster 1 2 3 4 5\n@ 300 IN NS ns\n{zone_text}"
    zone = dns.zone.from_text(text, origin="example.com.", relativize=False)
    found = {
        str(name): b"".join(next(iter(data)).strings).decode() for name, data in zone.iterate_rdatasets("TXT")
    }
    assert {data.ttl for _, data in zone.iterate_rdatasets("TXT")} == {3600}
    assert found["small._domainkey.example.com."] == made["record"]
    for name, record in found.items():
        bench.stub.add(name, {"TXT": [record]})
    assert bench.states(status=0) == {"big": "good", "small": "good"}


def test_only_one_domain(bench: Bench) -> None:
    bench.make("s1", "--ed25519")
    made = bench.make("s2", "--ed25519", domain="example.net")
    listed = json.loads(bench.run("dns", "--domain", "Example.NET", "--json").stdout)
    assert listed == [{"name": made["name"], "record": made["record"]}]
    assert bench.states("--domain", "example.com", status=1) == {"s1": "missing"}
    done = bench.run("check", "--domain", "example.org")
    assert (done.exit_code, "no key of example.org" in done.output) == (66, True)


@pytest.mark.parametrize(
    ("published", "state", "status"),
    [
        ("{}", "good", 0),
        ("{}; t=y", "good", 0),
        ("{}; h=sha1:sha256; s=email", "good", 0),
        ("other", "different", 1),
        ("{}; h=sha1", "broken", 1),
        ("{}; s=tlsrpt", "broken", 1),
        ("v=DKIM1; p=", "broken", 1),
        ("v=DKIM1; p=AAAA", "broken", 1),
        ("two", "broken", 1),
        ("nonsense", "broken", 1),
        ("NXDOMAIN", "missing", 1),
        ("", "missing", 1),
        ("SERVFAIL", "unknown", 75),
        ("TIMEOUT", "unknown", 75),
    ],
)
def test_what_is_published_is_compared(bench: Bench, published: str, state: str, status: int) -> None:
    made = bench.make("s1", "--ed25519")
    other = bench.make("s2", "--ed25519", domain="example.net")
    values = [published.format(made["record"])]
    if published == "two":
        values = [made["record"], "v=spf1 -all"]
    elif published == "other":
        values = [other["record"]]
    special = published.isupper()
    bench.stub.add(
        made["name"], published if special else {"TXT": values} if published else {"A": ["192.0.2.1"]}
    )
    assert bench.states("--domain", "example.com", status=status) == {"s1": state}
    shown = bench.run("check", "--domain", "example.com")
    assert (shown.exit_code, state in shown.output) == (status, True)


def test_a_key_that_everybody_can_read_is_refused(bench: Bench) -> None:
    made = bench.make("s1", "--ed25519")
    os.chmod(made["file"], 0o644)  # noqa: PTH101  # a path from JSON
    for command in ("dns", "check"):
        done = bench.run(command)
        assert done.exit_code == 78
        assert "chmod o=" in done.output
