# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins that a real slapd answers for: by a bind at once and after a search, and what may not get in."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.process import free_port
from contrib.lab.slapd import BASE, READER, SECRET, Slapd, person
from gateway.logins.owners import LIMITS
from gateway.logins.settings import LdapSettings, LoginSettings, SenderRow
from gateway.logins.sources import Answer, Credentials, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.server("slapd")
DN = f"uid={{local}},ou=people,{BASE}"
ADDRESSES = ("alice@example.com", "SMTP:sales@example.com")
GRANTED = ("alice@example.com", "sales@example.com")


class Place:
    """A directory, and how it is asked."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory / "ca")
        # Names that are syntax: of a filter, of a DN, and one that a wildcard would find.
        self.server = Slapd(
            directory / "slapd",
            self.authority.issue("localhost", names=("127.0.0.1",)),
            person(
                "alice",
                "right",
                "mail: alice@example.com",
                "mail: SMTP:sales@example.com",
                "mail: @example.com",
            ),
            person("bob", "bob's", "mail: bob@example.com"),
            person("twin1", "twin", "mail: twin@example.com"),
            person("twin2", "twin", "mail: twin@example.com"),
        )
        self.secret = directory / "reader"
        self.secret.write_text(f"{SECRET}\n")
        self.secret.chmod(0o600)
        self.users = {
            "ldaps": f"ldaps:localhost:{self.server.secure}",
            "uri": f"ldaps://localhost:{self.server.secure}/",
            "loopback": f"ldap:127.0.0.1:{self.server.port}",
            "ldapi": f"ldapi:{self.server.path}",
        }

    def login(self, users: str = "ldaps", *, search: bool = True, **changes: Any) -> LoginSettings:
        looked = {"base": BASE, "bind_dn": READER, "bind_password_file": str(self.secret)}
        ldap = LdapSettings(**{**(looked if search else {"dn": DN}), **changes.pop("ldap", {})})
        values = {
            "users": self.users.get(users, users),
            "ca_file": str(self.authority.certificate),
            "ldap": ldap,
        }
        return LoginSettings(**{**values, "timeout": 15.0, **changes})

    def ask(self, name: str, password: str, *how: Any, **changes: Any) -> Answer:
        logins = load(self.login(*how, **changes), LIMITS)
        assert logins is not None
        return logins.source.check(Credentials(name, password, "192.0.2.1"))


@pytest.fixture(scope="module")
def place(lab: Path) -> Iterator[Place]:
    directory = lab / "ldap"
    directory.mkdir()
    made = Place(directory)
    with made.server:
        yield made


@pytest.mark.parametrize("users", ["ldaps", "uri", "loopback", "ldapi"])
@pytest.mark.parametrize("search", [True, False])
def test_a_directory_says_who_may_log_in(place: Place, users: str, search: bool) -> None:
    def ask(name: str, password: str) -> Answer:
        return place.ask(name, password, users, search=search)

    assert ask("alice", "right") == Answer("yes", "alice", addresses=GRANTED)
    assert ask("ALICE@example.com", "right") == Answer("yes", "alice", addresses=GRANTED), "it has one name"
    assert ask(" alice ", "right").login in ("alice", ""), "and no other one"
    for name, password in (("alice", "wrong"), ("alice", "bob's"), ("nobody", "right"), ("reader", SECRET)):
        assert ask(name, password) == Answer("no")


@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "*",
        "al*",
        "alice)(uid=*",
        "*)(|(uid=*",
        "nobody)(|(uid=alice",
        "\\61lice",
        "alice,ou=people,dc=example,dc=com",
        f"alice,ou=people,{BASE}+x",
        "x+uid=alice",
        "alice,ou=people",
        "#616c696365",
        '"alice"',
        "alice\\",
        "{login}",
        "{local}",
        ",",
        "=",
        "(",
        " ",
        "ü" * 200,
    ],
)
def test_nothing_in_a_name_is_syntax(place: Place, name: str, search: bool) -> None:
    assert place.ask(name, "right", search=search) == Answer("no")


@pytest.mark.parametrize("search", [True, False])
def test_an_empty_password_is_no_password(place: Place, search: bool) -> None:
    """The directory takes a bind without one for anonymous, and says yes (RFC 4513 §5.1.2)."""
    assert place.ask("alice", "", search=search) == Answer("no")


def test_several_entries_are_nobody(place: Place) -> None:
    answer = place.ask("twin@example.com", "twin")
    assert answer.status == "later"
    assert "several entries" in answer.why
    assert place.ask("twin1", "twin").status == "yes"


def test_what_cannot_be_found_out_is_neither_right_nor_wrong(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("not this")
    other.chmod(0o600)
    away = f"ldaps:localhost:{free_port()}"
    for answer, why in (
        (place.ask("alice", "right", ldap={"bind_password_file": str(other)}), "bind_dn"),
        (place.ask("alice", "right", ldap={"base": "dc=example,dc=net"}), "No such object"),
        (place.ask("alice", "right", away), "refused"),
    ):
        assert answer.status == "later"
        assert why in answer.why
        assert "alice" not in answer.why
        assert "right" not in answer.why
    both = f"{away} {place.users['ldaps']}"
    assert place.ask("alice", "right", both).status == "yes", "another one stands in"


def test_a_directory_that_cannot_be_trusted_is_told_no_password(place: Place, tmp_path: Path) -> None:
    stranger = str(Authority(tmp_path).certificate)
    answer = place.ask("alice", "right", ca_file=stranger)
    assert (answer.status, answer.login) == ("later", "")


def test_nothing_is_said_in_clear_to_a_directory_elsewhere(place: Place) -> None:
    """One that is not on loopback by its name: it hears StartTLS first, and, refusing it, nothing else."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen() -> None:
            connection, _ = listening.accept()
            with connection:
                heard.append(connection.recv(4096))
                # ExtendedResponse: protocolError, "no StartTLS here" (RFC 4511 §4.14)
                connection.sendall(bytes.fromhex("300c02010178070a010204000400"))
                heard.append(connection.recv(4096))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        answer = place.ask(
            "alice", "right", f"ldap:{socket.gethostname()}.invalid:{port} ldap:[::ffff:127.0.0.1]:{port}"
        )
        thread.join(10)
    assert answer.status == "later"
    assert b"1.3.6.1.4.1.1466.20037" in heard[0]
    assert all(b"right" not in one and b"alice" not in one and SECRET.encode() not in one for one in heard)


@pytest.mark.parametrize("users", ["ldap:[::ffff:127.0.0.1]", "ldaps:localhost", "ldap:localhost"])
def test_a_directory_that_hangs_takes_no_longer_than_the_time_for_it(place: Place, users: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        begin = time.monotonic()
        answer = place.ask("alice", "right", f"{users}:{listening.getsockname()[1]}", timeout=1.0)
        assert time.monotonic() - begin < 8.0
        both = f"{users}:{listening.getsockname()[1]} {place.users['ldaps']}"
        assert place.ask("alice", "right", both, timeout=6.0).status == "yes", (
            "it leaves time for another one"
        )
    assert answer.status == "later"


def test_addresses_of_the_directory_are_the_logins(place: Place) -> None:
    rows = (SenderRow(logins=("alice",), addresses=("@lists.example.com",)),)
    logins = load(place.login(senders=rows, domain="example.com"), LIMITS)
    assert logins is not None
    answer = logins.source.check(Credentials("alice", "right"))

    def owns(address: str) -> bool:
        return logins.owners.owns(answer.login, address, answer.addresses)

    assert all(map(owns, ("alice@example.com", "Sales@Example.com", "x@lists.example.com")))
    assert not any(map(owns, ("bob@example.com", "any@example.com", "alice@example.net")))
    mail = b"From: Sales <sales@example.com>\r\n\r\n"
    assert logins.owners.foreign_author(answer.login, mail, answer.addresses) == ""
    assert logins.owners.foreign_author(answer.login, mail) == "sales@example.com"


@pytest.mark.parametrize(
    "changes",
    [
        {"ldap": LdapSettings()},
        {"ldap": LdapSettings(dn=DN, base=BASE)},
        {"users": "ldap:"},
        {"users": "ldaps:localhost:x"},
        {"users": "ldapi:relative"},
        {"users": "ldaps:a.example.com imaps:b.example.com"},
    ],
)
def test_settings_that_cannot_be_used(place: Place, changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {"users": place.users["ldaps"], "ldap": LdapSettings(base=BASE), **changes}
    with pytest.raises(ValueError, match=r"."):
        load(LoginSettings(**values), LIMITS)


def test_a_password_file_that_everybody_may_read(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "reader"
    file.write_text(SECRET)
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod o=") as caught:
        load(place.login(ldap={"bind_password_file": str(file)}), LIMITS)
    assert SECRET not in str(caught.value).replace(str(file), "")
