# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden user`: the command itself, and that whom it adds is who may log in."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gateway.cli.main import cli
from gateway.store.people import People, Person
from gateway.store.states import Role
from gateway.web import passwords

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store.database import Database, StoreSettings

PASSWORD = "pässword of hers"


@pytest.fixture
def config(tmp_path: Path, store_settings: StoreSettings, database: Database) -> str:
    assert database
    file = tmp_path / "mailwarden.toml"
    file.write_text(f'[store]\ndatabase = "{store_settings.database}"\n', "utf-8")
    return str(file)


def run(config: str, *words: str, typed: str = "", status: int = 0) -> str:
    done = CliRunner().invoke(cli, ["--config", config, "user", *words], input=typed)
    assert done.exit_code == status, done.output
    return done.output


def kept(database: Database, name: str) -> Person:
    found = People(database).find(name)
    assert found is not None
    return found


def test_the_command_of_the_readme_adds_who_may_log_in(config: str, database: Database) -> None:
    command = [sys.executable, "-m", "gateway", "--config", config, "user", "add", "Anna"]
    done = subprocess.run(
        [*command, "--role", "administrator"],
        input=f"{PASSWORD}\nanother line\n".encode(),
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"anna: added\n", b"")
    anna = kept(database, "anna")
    assert (anna.role, anna.reach.everything) == (Role.ADMINISTRATOR, True)
    assert passwords.fits(PASSWORD, anna.password)
    assert not passwords.fits("another line", anna.password)


def test_users_and_reviewers_see_what_they_are_added_with(config: str, database: Database) -> None:
    mine = ("--address", "bob@example.com", "--address", "sales@example.com")
    assert run(config, "add", "bob", *mine, "--no-password") == "bob: added\n"
    run(config, "add", "carol", "--role", "reviewer", "--domain", ".example.org", typed=f"{PASSWORD}\n")
    bob, carol = kept(database, "bob"), kept(database, "carol")
    assert bob.reach.covers("Sales@example.com")
    assert not bob.reach.covers("carol@example.com")
    assert carol.reach.covers("eve@sub.example.org")
    assert not carol.reach.covers("bob@example.com")
    assert not passwords.fits("", bob.password)
    rows = json.loads(run(config, "list", "--json"))
    assert [(one["name"], one["role"], one["password"]) for one in rows] == [
        ("bob", "user", False),
        ("carol", "reviewer", True),
    ]


def test_a_change_and_a_new_password_end_logins(config: str, database: Database) -> None:
    run(config, "add", "bob", "--address", "bob@example.com", "--no-password")
    token = run(config, "token", "add", "bob").strip()
    people = People(database)
    assert people.known(token, "token") is not None
    added = ("add", "BOB", "--address", "robert@example.com", "--no-password")
    assert run(config, *added) == "bob: changed; all logins were ended\n"
    assert people.known(token, "token") is None
    assert kept(database, "bob").addresses == ("robert@example.com",)
    run(config, "password", "bob", typed=f"{PASSWORD}\n")
    assert passwords.fits(PASSWORD, kept(database, "bob").password)
    run(config, "remove", "bob")
    assert people.find("bob") is None
    run(config, "remove", "bob", status=66)


@pytest.mark.parametrize(
    ("words", "typed", "status"),
    [
        (("add", "bob"), "", 65),  # a user without addresses
        (("add", "a b", "--role", "administrator"), f"{PASSWORD}\n", 65),
        (("add", "bob", "--address", "bob"), f"{PASSWORD}\n", 65),
        (("add", "bob", "--address", "bob@example.com", "--domain", "example.com"), "", 65),
        (("add", "bob", "--role", "reviewer", "--domain", "*"), f"{PASSWORD}\n", 65),
        (("add", "bob", "--address", "bob@example.com"), "short\n", 65),
        (("add", "bob", "--address", "bob@example.com"), "", 65),
        (("add", "bob", "--role", "root"), f"{PASSWORD}\n", 64),
        (("password", "nobody"), f"{PASSWORD}\n", 66),
        (("token", "add", "nobody"), "", 66),
    ],
)
def test_nobody_is_added_by_mistake(
    config: str, database: Database, words: tuple[str, ...], typed: str, status: int
) -> None:
    run(config, *words, typed=typed, status=status)
    assert People(database).all() == []
