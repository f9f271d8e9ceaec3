# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden check`: what does not start is not called good, and who is asked must answer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from contrib.lab.gateway import to_toml
from contrib.lab.process import free_port
from gateway.cli.check import check
from gateway.cli.main import EX_CONFIG, Context

if TYPE_CHECKING:
    from pathlib import Path

QUIET: dict[str, Any] = {
    "milter": {"listen": ["inet:127.0.0.1:8894"]},
    "antivirus": {"enabled": False},
    "dns": {"nameservers": ["127.0.0.1"]},
}


def checked(tmp_path: Path, config: dict[str, Any], *words: str) -> Result:
    file = tmp_path / "mailwarden.toml"
    file.write_text(to_toml({"store": {"database": f"sqlite:///{tmp_path}/store/mail.db"}, **config}))
    return CliRunner().invoke(check, words, obj=Context(file, given=True))


def test_good(tmp_path: Path) -> None:
    done = checked(tmp_path, QUIET)
    assert done.exit_code == 0, done.output
    assert "The configuration is good." in done.output
    assert not (tmp_path / "store").exists()


def test_what_is_switched_on_and_what_cannot_be_released_is_told(tmp_path: Path) -> None:
    told = json.loads(checked(tmp_path, QUIET, "--json").stdout)
    assert (told["facts"]["web page"], told["facts"]["digests"]) == ("off", "off")
    assert any("released to nobody" in text for text in told["warnings"])
    digest = {"enabled": True, "domains": ["example.com"], "email": "held@example.com"}
    more = {"release": {"next_hop": "smtp:127.0.0.1:10026"}, "web": {"enabled": True}, "digest": digest}
    told = json.loads(checked(tmp_path, {**QUIET, **more}, "--json").stdout)
    assert (told["facts"]["web page"], told["facts"]["digests"]) == ("127.0.0.1:8895", "example.com")
    assert not any("released to nobody" in text for text in told["warnings"])


def test_the_age_of_the_suffix_list_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads(checked(tmp_path, QUIET, "--json").stdout)
    assert re.fullmatch(r"of 20\d\d-\d\d-\d\d, \d+ days old", told["facts"]["public suffix list"])
    assert not any("Suffix" in text for text in told["warnings"])
    monkeypatch.setattr("gateway.auth.suffixes.version", lambda: "2001-02-03_04-05-06_UTC")
    assert any("Suffix" in text for text in json.loads(checked(tmp_path, QUIET, "--json").stdout)["warnings"])


def test_no_door(tmp_path: Path) -> None:
    done = checked(tmp_path, {})
    assert done.exit_code == EX_CONFIG
    assert "no door is open" in done.output
    assert "good" not in done.output


def test_nobody_to_run_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root changes to `user`, so only for root is one that is missing in the way."""
    config = {"user": "no-such-user", **QUIET}
    monkeypatch.setattr("os.getuid", lambda: 0)
    done = checked(tmp_path, config)
    assert done.exit_code == EX_CONFIG
    assert "there is no account 'no-such-user'" in done.output
    monkeypatch.setattr("os.getuid", lambda: 1000)
    assert checked(tmp_path, config).exit_code == 0


@pytest.mark.parametrize("words", [("--probe",), ("--probe", "--json")])
def test_who_does_not_answer_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    silent = {"enabled": True, "addresses": [f"127.0.0.1:{free_port()}"]}
    done = checked(tmp_path, {**QUIET, "antivirus": silent}, *words)
    assert done.exit_code == 1
    if "--json" in words:
        told = json.loads(done.stdout)
        assert told["ok"] is False
        assert told["facts"]["clamd answers"].startswith("error")
        assert told["facts"]["database answers"] == "ok"
    else:
        assert "no good answer from clamd" in done.output
