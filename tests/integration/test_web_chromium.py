# SPDX-License-Identifier: GPL-2.0-or-later
"""The web page of a running gateway in a real Chromium: hostile mail, no script, keyboard, narrow, axe."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from contrib.lab.gateway import Gateway
from contrib.lab.process import free_port, listens, program, wait_for
from gateway.store.database import StoreSettings, open_database
from gateway.store.people import People
from gateway.store.quarantine import Quarantine
from gateway.store.states import State
from gateway.web.figures import Counts
from tests.stored import RAW, hold, mail_for
from tests.unit.test_web import STRANGE
from tests.websites import PASSWORD, PEOPLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Dialog, Page

    from gateway.mail.types import Mail

pytestmark = pytest.mark.server("chromium")
BOB = "bob@example.com"
LONG = (
    b"Subject: " + b"x" * 300 + b"\r\n\r\n" + b"y" * 2_000 + b"\r\nhttp://example.org/" + b"z" * 500 + b"\r\n"
)


class Site:
    """A gateway with its web page, and the store behind it."""

    def __init__(self, gateway: Gateway, port: int, store: StoreSettings) -> None:
        self.gateway = gateway
        self.base = f"http://127.0.0.1:{port}"
        self.database = open_database(store)
        self.quarantine = Quarantine(self.database, store)
        self.worst: tuple[Mail, ...] = ()

    def hold(self, raw: bytes = RAW, sender: str = "alice@example.net") -> Mail:
        return hold(self.quarantine, mail_for(BOB, raw=raw, sender=sender))

    def state(self, mail: Mail) -> State:
        found = self.quarantine.find(mail.id)
        assert found is not None
        return found.state


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("web")
    port, milter = free_port(), free_port()
    store = StoreSettings(database=f"sqlite:///{directory}/store/test.db")
    config = {
        "milter": {"listen": [f"inet:127.0.0.1:{milter}"], "workers": 1},
        "http": {"listen": ""},
        "antivirus": {"enabled": False},
        "store": {"database": store.database},
        "web": {"enabled": True, "listen": f"127.0.0.1:{port}", "undo_seconds": 900.0},
    }
    with Gateway(directory, config) as gateway:
        wait_for(lambda: listens(("127.0.0.1", port)), 60, "the web page")
        made = Site(gateway, port, store)
        people = People(made.database)
        for person in PEOPLE:
            people.put(person, "cli:root")
        made.worst = (
            made.hold(STRANGE, "<script>alert(8)</script>@example.org"),
            made.hold(LONG, "s" * 60 + "@" + "d" * 60 + ".example.org"),
        )
        yield made
        made.database.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox"], timeout=90_000
        )
        yield browser
        browser.close()


@contextmanager
def opened(
    site: Site,
    chromium: Browser,
    name: str = "rosa",
    *,
    width: int = 1_000,
    script: bool = True,
    dark: bool = False,
    locale: str = "en-GB",
) -> Iterator[Page]:
    """A page of somebody who is logged in, that may talk to nobody else, and break no rule."""
    context = chromium.new_context(
        viewport={"width": width, "height": 700},
        java_script_enabled=script,
        base_url=site.base,
        color_scheme="dark" if dark else "light",
        locale=locale,
    )
    context.set_default_timeout(90_000)
    page = context.new_page()
    wrong: list[str] = []

    def refused(message: str, dialog: Dialog) -> None:
        wrong.append(f"dialog {message}")
        dialog.dismiss()

    def said_wrong(kind: str, text: str) -> None:
        if kind == "error" and " 404 " not in text:
            wrong.append(text)

    def asked_wrong(url: str) -> None:
        if not url.startswith(site.base):
            wrong.append(f"request {url}")

    page.on("dialog", lambda dialog: refused(dialog.message, dialog))
    page.on("pageerror", lambda error: wrong.append(f"script {error}"))
    page.on("console", lambda said: said_wrong(said.type, said.text))
    page.on("request", lambda asked: asked_wrong(asked.url))
    log_in(page, name)
    yield page
    context.close()
    assert not wrong


def log_in(page: Page, name: str) -> None:
    """By keyboard alone: the first field is three tabs away, behind what skips to the content."""
    page.goto("/login?next=/account")
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.locator("input[name=everywhere]").wait_for(state="attached")


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus; each element on the way shows that it has it."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.locator(selector).first.evaluate("e => e === document.activeElement"):
            return
    raise AssertionError(f"{selector} cannot be reached by keyboard")


def pages(site: Site) -> list[str]:
    """All pages, with the worst that a message can do to them."""
    items = [f"/held/{mail.id}" for mail in site.worst]
    return ["/held", "/held?state=all&recipient=bob", "/statistics", "/account", *items]


def test_hostile_mail_does_nothing(site: Site, chromium: Browser) -> None:
    mail = site.hold(STRANGE)
    with opened(site, chromium) as page:
        page.goto("/held")
        page.get_by_text("</title><script>alert(document.cookie)").first.wait_for()
        page.goto(f"/held/{mail.id}")
        page.get_by_text("Header fields").click()
        assert page.locator("main a[href^='http']").count() == 0, "links in mail are not links"
        assert page.locator("main script, main img, main iframe, main svg").count() == 0
        assert page.evaluate("document.cookie") == "", "the session is hidden from scripts"
        time.sleep(0.2)


def test_review_without_script_by_keyboard(site: Site, chromium: Browser) -> None:
    mail, other = site.hold(), site.hold()
    with opened(site, chromium, script=False) as page:
        page.goto(f"/held/{mail.id}")
        tab_to(page, "button:text-is('Release')")
        page.keyboard.press("Enter")
        page.get_by_role("status").wait_for()
        assert site.state(mail) is State.SCHEDULED
        tab_to(page, "button:text-is('Undo the release')")
        page.keyboard.press("Enter")
        page.get_by_text("It is held again").wait_for()
        assert site.state(mail) is State.HELD
        page.goto("/held")
        for one in (mail, other):
            tab_to(page, f"#c-{one.id}")
            page.keyboard.press("Space")
        tab_to(page, "button:text-is('Delete')")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Delete 2 messages?").wait_for()
        assert site.state(mail) is State.HELD
        tab_to(page, "button:text-is('Delete (2)')")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Deleted: 2").wait_for()
        assert {site.state(mail), site.state(other)} == {State.DELETING}
        tab_to(page, "button:text-is('Undo')")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Undone").wait_for()
        assert {site.state(mail), site.state(other)} == {State.HELD}


def test_a_user_asks_for_their_mail(site: Site, chromium: Browser) -> None:
    mail = site.hold()
    with opened(site, chromium, "bob", width=320) as page:
        page.goto(f"/held/{mail.id}")
        page.get_by_role("button", name="Request release").click()
        page.get_by_text("The release was requested").wait_for()
        assert site.state(mail) is State.REQUESTED
        assert page.get_by_role("button", name="Delete").count() == 0


@pytest.mark.parametrize("locale", ["en-GB", "id-ID"])
def test_nothing_is_wider_than_320_pixels(site: Site, chromium: Browser, locale: str) -> None:
    with opened(site, chromium, width=320, locale=locale) as page:
        for path in pages(site):
            page.goto(path)
            assert page.locator("html").get_attribute("lang") == locale[:2]
            for closed in page.locator("details").all():
                closed.evaluate("e => e.open = true")
            assert page.evaluate("document.documentElement.scrollWidth") <= 320, path


@pytest.mark.parametrize("width", [320, 1_000])
def test_numbers_and_pages_names_stay_whole(site: Site, chromium: Browser, width: int) -> None:
    """A number of points is on one line, and so is what leads to another page."""
    lines = """all => all.filter(e => {
        const range = document.createRange();
        range.selectNodeContents(e);
        return new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1;
    }).map(e => e.textContent)"""
    with opened(site, chromium, width=width, locale="id-ID") as page:
        page.goto(f"/held/{site.worst[0].id}")
        assert page.locator("td.number").count() > 0
        assert page.locator("td.number, header nav a").evaluate_all(lines) == []


@pytest.mark.parametrize(("dark", "locale"), [(False, "en-GB"), (True, "id-ID")])
def test_axe_finds_nothing_serious(site: Site, chromium: Browser, dark: bool, locale: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    wrong = []
    with opened(site, chromium, dark=dark, locale=locale) as page:
        for path in [*pages(site), "/nowhere"]:
            page.goto(path)
            for closed in page.locator("details").all():
                closed.evaluate("e => e.open = true")
            answer = Axe().run(page).response
            assert answer["passes"], "it has looked at something"
            found = answer["violations"]
            wrong += [
                f"{path}: {one['id']}: {node['html'][:120]}"
                for one in found
                if one["impact"] in ("serious", "critical")
                for node in one["nodes"]
            ]
        page.context.clear_cookies()
        page.goto("/login")
        wrong += [one["id"] for one in Axe().run(page).response["violations"]]
    assert not wrong


def test_counters_follow(site: Site, chromium: Browser) -> None:
    rosa = next(person for person in PEOPLE if person.name == "rosa")
    with opened(site, chromium) as page:
        page.goto("/held")
        counter = page.locator("[data-count=open]")
        # The page may show what was counted some seconds ago: what it must come to is counted here.
        before = int(counter.inner_text())
        site.hold()
        now = Counts(site.quarantine).waiting(rosa)["open"]
        assert now > before

        def follows() -> bool:
            page.evaluate("look()")  # what the page does every half minute
            return int(counter.inner_text()) == now

        wait_for(follows, 60, "the counter")
