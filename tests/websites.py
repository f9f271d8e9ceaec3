# SPDX-License-Identifier: GPL-2.0-or-later
"""A web page over a store of its own, with people of each role, and browsers that are logged in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.testclient import TestClient

from gateway.classifier.settings import ClassifierSettings
from gateway.delivery.settings import ReleaseSettings
from gateway.log import LogSettings, open_log
from gateway.store.database import open_database
from gateway.store.people import People, Person
from gateway.store.quarantine import Quarantine
from gateway.store.states import Role
from gateway.web import passwords
from gateway.web.app import application
from gateway.web.parts import Parts
from gateway.web.server import site
from gateway.web.settings import WebSettings
from tests.stored import hold, mail_for, settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.mail.types import Mail

PASSWORD = "correct horse battery"
HASH = passwords.made(PASSWORD)
PEOPLE = (
    Person("bob", Role.USER, ("bob@example.com",), (), HASH),
    Person("carol", Role.USER, ("carol@example.com",), (), HASH),
    Person("rita", Role.REVIEWER, (), ("example.com",), HASH),
    Person("otto", Role.REVIEWER, (), ("example.org",), HASH),
    Person("rosa", Role.REVIEWER, (), (), HASH),
    Person("anna", Role.ADMINISTRATOR, (), (), HASH),
)
_CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@dataclass
class Browser:
    """One browser of one person; posts carry the token of the page that was looked at last."""

    client: TestClient
    csrf: str = ""
    page: str = ""

    def get(self, path: str, status: int = 200, **options: Any) -> str:
        answer = self.client.get(path, follow_redirects=False, **options)
        assert answer.status_code == status, (path, answer.status_code, answer.text[:300])
        return self._keep(answer.text)

    def post(self, path: str, status: int = 303, **fields: Any) -> str:
        answer = self.client.post(path, data={"csrf": self.csrf, **fields}, follow_redirects=False)
        assert answer.status_code == status, (path, answer.status_code, answer.text[:500])
        self._keep(answer.text)
        return answer.headers.get("location", answer.text)

    def log_in(self, name: str, password: str = PASSWORD, status: int = 303) -> str:
        self.get("/login")
        done = self.post("/login", status, name=name, password=password)
        if status == 303:
            self.get("/account")
        return done

    def _keep(self, text: str) -> str:
        if found := _CSRF.search(text):
            self.csrf = found[1]
        self.page = text
        return text


@dataclass
class Place:
    """A store and its web page."""

    directory: Path
    settings: WebSettings = field(default_factory=lambda: WebSettings(undo_seconds=30.0))
    release: ReleaseSettings = field(default_factory=ReleaseSettings)

    def __post_init__(self) -> None:
        store = settings_for(self.directory)
        self.database = open_database(store)
        self.quarantine = Quarantine(self.database, store)
        self.people = People(self.database)
        for person in PEOPLE:
            self.people.put(person, "cli:root")
        self.parts = Parts(self.settings, store, ClassifierSettings(), self.release, 1.0)
        self.site = site(self.parts, self.database, open_log(LogSettings(level="error")))
        self.app = application(self.site)

    def browser(self, name: str = "", base: str = "http://localhost") -> Browser:
        made = Browser(TestClient(self.app, base_url=base, client=("192.0.2.7", 5)))
        if name:
            # Without the form, whose hash costs 50 ms each time; the tests of the login use that.
            secret = self.people.log_in(name, "session", seconds=600)
            made.client.cookies.set(self.site.cookie, secret)
            made.get("/account")
        return made

    def hold(self, *recipients: str, **options: Any) -> Mail:
        raw = options.pop("raw", None)
        reasons = options.pop("reasons", ("score",))
        mail = mail_for(*recipients, **({"raw": raw} if raw else {}), **options)
        return hold(self.quarantine, mail, reasons=reasons)

    def close(self) -> None:
        self.database.close()
