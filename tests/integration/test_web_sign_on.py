# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins of the web page at an OpenID Connect server of other people's making, and in a real browser."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import httpx2
import msgspec
import pytest
from oidc_provider_mock import User, app
from werkzeug.serving import make_server

from contrib.lab.certificates import Authority
from contrib.lab.gateway import Gateway
from contrib.lab.process import free_port, listens, program, wait_for
from gateway.store.database import StoreSettings, open_database
from gateway.store.people import People
from gateway.store.quarantine import Quarantine
from gateway.web.settings import OidcSettings, WebSettings
from tests.stored import hold, mail_for
from tests.websites import PEOPLE, Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The server's own library tells it of what it should not use any more.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
USERS = (
    User(sub="7", claims={"email": "Bob@example.com", "email_verified": True}),
    User(sub="8", claims={"email": "bob@example.com", "email_verified": False}),
    User(sub="9", claims={"email": "nobody@example.org", "email_verified": True}),
)


@pytest.fixture(scope="module")
def oidc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcSettings]:
    """A running server, and the settings for it."""
    directory = tmp_path_factory.mktemp("oidc")
    authority = Authority(directory / "ca")
    secret = directory / "secret"
    secret.write_text("any\n")
    secret.chmod(0o600)
    pair = authority.issue("localhost")
    made = app(user_claims=USERS, require_nonce=True)
    files = str(pair.certificate), str(pair.key)
    server = make_server("localhost", 0, made, threaded=True, ssl_context=files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    issuer = f"https://localhost:{server.server_port}"
    yield OidcSettings(
        issuer=issuer,
        client_id="mailwarden",
        client_secret_file=str(secret),
        ca_file=str(authority.certificate),
        name="Example ID",
    )
    server.shutdown()
    thread.join()


@pytest.mark.parametrize(("user", "name"), [("7", "bob"), ("8", ""), ("9", "")])
def test_a_login(oidc: OidcSettings, tmp_path: Path, user: str, name: str) -> None:
    place = Place(tmp_path, WebSettings(oidc=oidc))
    browser = place.browser()
    to = browser.client.get("/login/oidc?next=/account", follow_redirects=False).headers["location"]
    assert to.startswith(f"{oidc.issuer}/oauth2/authorize?")
    back = httpx2.post(to, data={"sub": user}, verify=False, timeout=30).headers["location"]  # it is a test's
    assert back.startswith("http://localhost/login/oidc/callback?")
    done = browser.client.get(back, follow_redirects=False)
    assert done.status_code == (303 if name else 403)
    if name:
        assert done.headers["location"] == "/account"
        assert f"<h1>{name}</h1>" in browser.get("/account")
    else:
        browser.get("/account", 303)
    place.close()


@pytest.mark.server("chromium")
def test_a_login_in_a_browser(oidc: OidcSettings, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    port, milter = free_port(), free_port()
    store = StoreSettings(database=f"sqlite:///{tmp_path}/store/test.db")
    config = {
        "milter": {"listen": [f"inet:127.0.0.1:{milter}"], "workers": 1},
        "http": {"listen": ""},
        "antivirus": {"enabled": False},
        "store": {"database": store.database},
        "web": {"enabled": True, "listen": f"127.0.0.1:{port}", "oidc": msgspec.to_builtins(oidc)},
    }
    with Gateway(tmp_path, config), sync_playwright() as driver:
        wait_for(lambda: listens(("127.0.0.1", port)), 60, "the web page")
        database = open_database(store)
        for person in PEOPLE:
            People(database).put(person, "cli:root")
        held = hold(Quarantine(database, store), mail_for("bob@example.com"))
        browser = driver.chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox"], timeout=90_000
        )
        context = browser.new_context(ignore_https_errors=True, base_url=f"http://127.0.0.1:{port}")
        context.set_default_timeout(90_000)
        page = context.new_page()
        page.goto(f"/held/{held.id}")
        page.get_by_role("link", name="Log in with Example ID").click()
        page.locator("button[value='7']").click()
        page.wait_for_url(f"**/held/{held.id}")
        assert page.get_by_role("button", name="Request release").is_visible()
        cookies = {cookie["name"] for cookie in context.cookies() if cookie["domain"] == "127.0.0.1"}
        assert cookies == {"mailwarden"}
        browser.close()
        database.close()
