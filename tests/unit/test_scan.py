# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden scan`: what is asked wrongly is not judged as if it had been asked rightly."""

from __future__ import annotations

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
