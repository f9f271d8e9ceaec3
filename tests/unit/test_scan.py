# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden scan`: what is asked wrongly is not judged as if it had been asked rightly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gateway.cli.main import EX_USAGE, Context
from gateway.cli.scan import scan

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("ip", ["nonsense", "192.0.2.1/24", "192.0.2.256"])
def test_no_address(tmp_path: Path, ip: str) -> None:
    """An address that is none would be a client without one: SPF would not be asked at all."""
    message = tmp_path / "message.eml"
    message.write_bytes(b"Subject: x\r\n\r\nx\r\n")
    context = Context(tmp_path / "none.toml")
    done = CliRunner().invoke(scan, ["--offline", "--ip", ip, str(message)], obj=context)
    assert done.exit_code == EX_USAGE
    assert "is no IP address" in done.output


def test_what_would_be_stripped(tmp_path: Path) -> None:
    """The cut is shown, with what stood there; nothing is kept."""
    config, message = tmp_path / "mailwarden.toml", tmp_path / "message.eml"
    config.write_text('[policy.actions]\nATTACHMENT_EXECUTABLE = "strip"\n')
    part = b'Content-Type: application/octet-stream; name="a\x1b.exe"\r\n\r\nnothing\r\n'
    message.write_bytes(
        b"From: a@example.net\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + part
    )
    with message.open("ab") as file:
        file.write(b"--b--\r\n")
    context = Context(config, given=True)
    done = CliRunner().invoke(scan, ["--offline", "--json", str(message)], obj=context)
    assert done.exit_code == 1
    told = json.loads(done.output)["verdict"]
    assert told["action"] == "strip"
    [cut] = told["cuts"]
    assert message.read_bytes()[cut["start"] : cut["end"]] + b"\r\n" == part
    done = CliRunner().invoke(scan, ["--offline", str(message)], obj=context)
    assert done.exit_code == 1
    assert f"{cut['start']}-{cut['end']}  a?.exe, application/octet-stream, 7 octets" in done.output
