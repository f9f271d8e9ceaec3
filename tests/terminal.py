# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of the quarantine, run in this process on an empty database."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner, Result

from gateway.cli.explain import explain
from gateway.cli.person import operator
from gateway.cli.quarantine import quarantine
from gateway.delivery import release as release_module
from gateway.delivery.relay import RecipientResult
from gateway.delivery.settings import ReleaseSettings
from gateway.dns import DnsSettings
from gateway.scanners.clamd import ClamdSettings
from gateway.smarthost.settings import SmarthostSettings
from gateway.store.database import Database, StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from gateway.tls.settings import TlsSettings
from tests.stored import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pytest

ME = operator().removeprefix("cli:")
BOB, CAROL = "bob@example.com", "carol@example.com"
HOSTILE = (
    b"From: \x1b]0;owned\x07\x1b[31mEve <eve@example.org>\r\n"
    b"Subject: [red]win[/red] =?utf-8?q?=1B=5B2J=E2=80=AE_now?=\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    b"<a href='http://bad.example/\x1b[1m'>http://good.example</a>\x1b[5m[blink]x\r\n"
    b'--b\r\nContent-Type: image/png; name="\x1b[7m../../a.png.exe"\r\n\r\nMZ\r\n--b--\r\n'
)


class Bench:
    """A configuration, its database, and the commands run against them."""

    def __init__(self, settings: StoreSettings, database: Database) -> None:
        self.database = database
        self.quarantine = Quarantine(database)
        self.sent: list[tuple[tuple[str, ...], bytes]] = []
        self.answer = RecipientResult("delivered", 250, "2.0.0", "Ok")
        self.config = SimpleNamespace(
            store=settings,
            routes=(),
            next_hop="smtp:192.0.2.1:25",
            release=ReleaseSettings(undo_seconds_bulk=0.0, administrators=(ME,)),
            antivirus=ClamdSettings(enabled=False),
            tls=TlsSettings(),
            next_hop_logins="",
            dns=DnsSettings(nameservers=("192.0.2.53",)),
            smarthost=SmarthostSettings(),
            name="gw.example.com",
            queue_lifetime=0.0,
        )

    def run(self, *words: str, typed: str = "") -> Result:
        command = explain if words[0] == "explain" else quarantine
        arguments = words[1:] if words[0] == "explain" else words
        return CliRunner().invoke(command, arguments, obj=SimpleNamespace(config=self.config), input=typed)

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


@contextlib.contextmanager
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench on an empty database; whatever is sent is kept."""
    settings = settings_for(tmp_path)
    database = open_database(settings)
    made = Bench(settings, database)

    def relay_sync(
        _hop: object, _tls: object, _sender: str, recipients: Sequence[str], message: bytes, **_: object
    ) -> dict[str, RecipientResult]:
        made.sent.append((tuple(recipients), message))
        return dict.fromkeys(recipients, made.answer)

    monkeypatch.setattr(release_module, "relay_sync", relay_sync)
    yield made
    database.close()
