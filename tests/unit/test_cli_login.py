# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden login`: hashes that are good for a file of logins, and trying one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gateway.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str, typed: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["login", *arguments], input=typed)
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("login")
    status, line = run("hash", "alice@example.com", typed="pässword\n")
    assert status == 0, line
    assert line.startswith("alice@example.com:$argon2id$")
    assert "pässword" not in line
    (directory / "users").write_text(line)
    file = directory / "mailwarden.toml"
    file.write_text(f'[login]\nusers = "file:{directory}/users"\n')
    return str(file)


def test_a_hash_that_was_made_is_good(config: str) -> None:
    status, said = run("--config", config, "test", "Alice@example.com", typed="pässword\n")
    assert (status, said) == (0, "yes alice@example.com\n")
    status, said = run("--config", config, "test", "alice@example.com", typed="wrong\n")
    assert (status, said) == (77, "no\n")


@pytest.mark.parametrize(("sender", "owns"), [("alice@example.com", True), ("bob@example.com", False)])
def test_whose_address_it_is(config: str, sender: str, owns: bool) -> None:
    status, said = run(
        "--config", config, "test", "--json", "--sender", sender, "alice@example.com", typed="pässword\n"
    )
    found = json.loads(said)
    assert (found["status"], found["owns"]) == ("yes", owns)
    assert status == (0 if owns else 77)


def test_what_cannot_be_done(config: str, tmp_path: Path) -> None:
    assert run("hash", "a:b", typed="x\n")[0] == 65
    assert run("hash", "a", typed="\n")[0] == 65
    assert run("hash", "a", typed="x" * 513 + "\n")[0] == 65
    nobody = tmp_path / "mailwarden.toml"
    nobody.write_text("")
    assert run("--config", str(nobody), "test", "alice", typed="x\n")[0] == 78
    nobody.write_text(f'[login]\nusers = "dovecot:{tmp_path}/nothing"\n')
    assert run("--config", str(nobody), "test", "alice", typed="x\n")[0] == 75
    nobody.write_text(f'[login]\nusers = "file:{tmp_path}/nothing"\n')
    assert run("--config", str(nobody), "test", "alice", typed="x\n")[0] == 78
    assert config
