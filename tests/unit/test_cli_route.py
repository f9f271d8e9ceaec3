# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden route`: the servers of a recipient in order, what they must offer, or why there is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from contrib.lab.dns import DnsStub
from contrib.lab.gateway import to_toml
from gateway.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ZONE: dict[str, Any] = {
    "example.net": {"MX": ["10 mx.example.net", "20 far.example.net"]},
    "mx.example.net": {"A": ["203.0.113.1"]},
    "far.example.net": {"A": ["203.0.113.2"]},
    "null.example.net": {"MX": ["0 ."]},
}


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    logins = tmp_path / "logins"
    logins.write_text("smart.example.com:587 gw s3cret\n")
    logins.chmod(0o600)
    with DnsStub(ZONE) as dns:
        file = tmp_path / "mailwarden.toml"
        file.write_text(
            to_toml(
                {
                    "hostname": "gw.example.com",
                    "next_hop": "mx",
                    "next_hop_logins": str(logins),
                    "dns": {"nameservers": [dns.nameserver]},
                    "store": {"database": f"sqlite:///{tmp_path}/store/mailwarden.db"},
                }
            )
            + '\n[[routes]]\ndomains = ["example.com"]\nnext_hop = "smtp:smart.example.com:587, smtps:b"\n'
        )
        yield file


def run(config: Path, *words: str) -> Any:
    return CliRunner().invoke(cli, ["--config", str(config), "route", *words])


def test_servers_in_order(config: Path) -> None:
    done = run(config, "bob@example.net", "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output)
    assert shown["route"] == "mx:example.net"
    assert [(one["server"], one["address"]) for one in shown["servers"]] == [
        ("smtp:mx.example.net:25", "203.0.113.1"),
        ("smtp:far.example.net:25", "203.0.113.2"),
    ]
    table = run(config, "example.net").output
    assert table.index("203.0.113.1") < table.index("203.0.113.2")


def test_a_login_is_named_and_its_password_is_not(config: Path) -> None:
    done = run(config, "example.com", "--json")
    rows = json.loads(done.output)["servers"]
    assert [(one["server"], one["tls"], one["login"]) for one in rows] == [
        ("smtp:smart.example.com:587", "verify", "gw"),
        ("smtps:b:465", "encrypt", ""),
    ]
    assert "s3cret" not in done.output


@pytest.mark.parametrize(
    ("recipient", "told"),
    [("bob@null.example.net", "takes no mail"), ("missing.example.net", "does not exist")],
)
def test_why_there_is_no_server(config: Path, recipient: str, told: str) -> None:
    done = run(config, recipient)
    assert done.exit_code == 1
    assert told in " ".join(done.output.split())
    assert run(config, "@").exit_code == 65
