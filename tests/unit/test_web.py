# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of the review: what each person sees and does, and what nobody gets past."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from gateway.store.database import TooSlowError
from gateway.store.quarantine import Quarantine
from gateway.store.senders import Senders
from gateway.store.states import State
from gateway.web.guard import POLICY
from tests.stored import execute
from tests.websites import Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOB, CAROL, OTHER = "bob@example.com", "carol@example.com", "dan@example.org"
STRANGE = (
    b"From: <script>alert(1)</script> <eve@example.org>\r\n"
    b"Subject: </title><script>alert(document.cookie)</script>\"'><img src=x onerror=alert(1)>\r\n"
    b"X-Evil: <svg onload=alert(1)>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    b"<p>hello &lt;script&gt;alert(2)&lt;/script&gt;</p><script>alert(3)</script>"
    b"<img src='http://tracker.example/x.png'><a href='javascript:alert(4)'>click</a>"
    b"<a href='http://bad.example/?q=\"><script>alert(5)</script>'>http://good.example</a>\xe2\x80\xae\r\n"
    b'--b\r\nContent-Type: image/svg+xml; name="<svg onload=alert(6)>.svg"\r\n'
    b"Content-Disposition: attachment\r\n\r\n<svg onload=alert(7)>\r\n--b--\r\n"
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


# ---------------------------------------------------------------- who sees what


@pytest.mark.parametrize(
    ("name", "sees"),
    [("bob", "ab"), ("carol", "b"), ("rita", "ab"), ("otto", "bc"), ("rosa", "abc"), ("anna", "abc")],
)
def test_everybody_sees_their_own(place: Place, name: str, sees: str) -> None:
    mails = {"a": place.hold(BOB), "b": place.hold(BOB, CAROL, OTHER), "c": place.hold(OTHER)}
    browser = place.browser(name)
    listed = browser.get("/held?state=all")
    for letter, mail in mails.items():
        assert (mail.id in listed) is (letter in sees)
        for path in (f"/held/{mail.id}", f"/held/{mail.id.lower()}"):
            browser.get(path, 200 if letter in sees else 404)
        if letter not in sees:
            for act in ("request", "release", "delete", "learn-spam", "block", "undo"):
                browser.post(f"/held/{mail.id}/{act}", 404, sure="1")
            browser.get(f"/held/{mail.id}/source", 404)
            browser.post("/held", 200, what="request", item=[mail.id])
            assert mail.id not in browser.page
    assert not [
        e for mail in mails.values() for e in place.quarantine.history(mail.id) if e.who.startswith("web:")
    ]


def test_a_copy_tells_of_no_other(place: Place) -> None:
    mail = place.hold(BOB, CAROL, OTHER)
    for name, hidden in (("bob", (CAROL, OTHER)), ("rita", (OTHER,)), ("otto", (BOB, CAROL))):
        browser = place.browser(name)
        # The header fields are the message's own, and this one names only Bob.
        for page in (browser.get("/held"), browser.get(f"/held/{mail.id}").partition("Header fields")[0]):
            assert not [one for one in hidden if one in page], name
    place.browser("rita").post(f"/held/{mail.id}/deny")
    assert "denied" not in place.browser("otto").get("/held").partition("<ol")[2].partition("</ol>")[0]
    assert "History" not in place.browser("otto").get(f"/held/{mail.id}")


def test_what_each_role_may_do_stands_on_the_page(place: Place) -> None:
    mail = place.hold(BOB)

    def acts(name: str) -> set[str]:
        page = place.browser(name).get(f"/held/{mail.id}")
        return {one.partition('"')[0] for one in page.split(f'action="/held/{mail.id}/')[1:]}

    deciding = {"release", "deny", "delete", "learn-spam", "learn-ham"}
    assert acts("bob") == {"request"}
    assert acts("rita") == deciding
    assert acts("rosa") == acts("anna") == deciding | {"block", "allow"}


def test_the_author_is_shown_beside_the_envelope_sender(place: Place) -> None:
    """What people know a message by is its From field; of a forgery the two differ."""
    raw = b"From: =?utf-8?q?Your_B=C3=A4nk?= <service@bank.example>\r\nSubject: x\r\n\r\nx\r\n"
    mail = place.hold(BOB, raw=raw, sender="eve@example.net")
    page = place.browser("bob").get(f"/held/{mail.id}").partition("Header fields")[0]
    assert "<bdi>Your B\u00e4nk</bdi> <bdi>&lt;service@bank.example&gt;</bdi>" in page
    assert "<bdi>eve@example.net</bdi>" in page


@pytest.mark.parametrize("act", ["release", "approve", "deny", "delete", "learn-ham", "block", "undo"])
def test_a_user_does_nothing_that_is_a_reviewers(place: Place, act: str) -> None:
    mail = place.hold(BOB)
    browser = place.browser("bob")
    browser.post(f"/held/{mail.id}/{act}", 409, sure="1")
    browser.post("/held", 200, what="delete", item=[mail.id], sure="1")
    assert "not yours to decide" in browser.page
    found = place.quarantine.find(mail.id)
    assert found is not None
    assert found.state is State.HELD


# ---------------------------------------------------------------- deciding


def test_request_approve_and_undo(place: Place) -> None:
    mail = place.hold(BOB, CAROL)
    bob, rita = place.browser("bob"), place.browser("rita")
    assert bob.post(f"/held/{mail.id}/request", why="an invoice").endswith("done=requested")
    assert "A reviewer decides" in bob.get(f"/held/{mail.id}?done=requested")
    assert mail.id in rita.get("/held?state=requested")
    rita.post(f"/held/{mail.id}/approve")
    found = place.quarantine.find(mail.id)
    assert found is not None
    assert [one.state for one in found.recipients] == [State.SCHEDULED, State.HELD], "Carol asked for nothing"
    assert "an invoice" in rita.get(f"/held/{mail.id}")
    rita.post(f"/held/{mail.id}/undo")
    assert place.quarantine.decisions.due(2e9 * 2) == []
    history = [(e.who, e.action) for e in place.quarantine.history(mail.id)]
    assert history[1:] == [
        ("web:bob", "requested"),
        ("web:rita", "answered"),
        ("web:rita", "approved"),
        ("web:rita", "undone"),
    ]


def test_a_reviewer_releases_only_their_domains_copies(place: Place) -> None:
    mail = place.hold(BOB, OTHER)
    otto, rita = place.browser("otto"), place.browser("rita")
    otto.post(f"/held/{mail.id}/release")
    orders = place.quarantine.decisions.orders(item=mail.id)
    assert [order.recipients for order in orders] == [(OTHER,)]
    rita.post(f"/held/{mail.id}/undo", 409)
    rita.post(f"/held/{mail.id}/delete", 409, sure="1")
    rita.post(f"/held/{mail.id}/release", 409, to="eve@example.net")
    rita.get(f"/held/{mail.id}/source", 409)


def test_malware_takes_an_administrator_who_says_so(place: Place) -> None:
    mail = place.hold(BOB, reasons=("VIRUS", "score"))
    for name in ("rita", "rosa"):
        place.browser(name).post(f"/held/{mail.id}/release", 409)
        place.browser(name).post(f"/held/{mail.id}/release", 409, infected="1")
    anna = place.browser("anna")
    anna.post(f"/held/{mail.id}/release", 409)
    anna.post(f"/held/{mail.id}/release", infected="1")
    assert place.quarantine.decisions.orders(item=mail.id)[0].aloud


def test_a_deletion_is_confirmed(place: Place) -> None:
    mail = place.hold(BOB)
    rita = place.browser("rita")
    assert "for good" in rita.post(f"/held/{mail.id}/delete", 200)
    assert place.quarantine.raw(mail.id)
    assert rita.post(f"/held/{mail.id}/delete", sure="1") == f"/held/{mail.id}?done=deleted"
    page = rita.get(f"/held/{mail.id}?done=deleted")
    assert "when the time to undo is over" in page
    assert "Undo the deletion" in page
    rita.post(f"/held/{mail.id}/delete", 409, sure="1")
    rita.post(f"/held/{mail.id}/undo")
    rita.get(f"/held/{mail.id}/source")
    rita.post(f"/held/{mail.id}/delete", sure="1")
    [order] = place.quarantine.decisions.doomed(time.time() + 60)
    assert 0 < order.due - time.time() <= 30
    execute(place.database, "UPDATE quarantine_orders SET due = 0")
    assert place.quarantine.delete_due(order)
    assert "deleted" in rita.get(f"/held/{mail.id}")
    rita.get(f"/held/{mail.id}/source", 503)
    rita.post(f"/held/{mail.id}/undo", 409)


def test_many_deletions_are_undone_together(place: Place) -> None:
    chosen = [place.hold(BOB).id for _ in range(2)]
    rita = place.browser("rita")
    page = rita.post("/held", 200, what="delete", item=chosen, sure="1")
    assert "They are deleted in 30 seconds." in page
    assert {i.state for i in place.quarantine.known(chosen).values()} == {State.DELETING}
    batch = page.partition('name="batch" value="')[2][:16]
    place.browser("anna").post("/undo", 404, batch=batch)
    assert "2 messages are held again" in rita.post("/undo", 200, batch=batch)
    assert {i.state for i in place.quarantine.known(chosen).values()} == {State.HELD}


@pytest.mark.parametrize("sender", ["@example.net", ".example.net", "example.net", '"a b"@example.net'])
def test_a_sender_that_is_no_address_is_not_ruled(place: Place, sender: str) -> None:
    """A hostile sender makes no rule about a domain, and removes none."""
    mail = place.hold(BOB, sender=sender)
    Senders(place.database).put("example.net", "block", "cli:root")
    rosa = place.browser("rosa")
    for act in ("allow", "block", "unrule"):
        assert "no sender" in rosa.post(f"/held/{mail.id}/{act}", 409) or "no address" in rosa.page
    assert [(one.pattern, one.rule) for one in Senders(place.database).all()] == [("example.net", "block")]


def test_many_are_shown_first_and_undone_together(place: Place) -> None:
    mails = [place.hold(BOB) for _ in range(3)]
    infected = place.hold(BOB, reasons=("VIRUS",))
    other = place.hold(OTHER)
    rita = place.browser("rita")
    page = rita.post("/held", 200, what="release", scope="all", state="held")
    assert "Release 4 messages?" in page
    assert other.id not in page
    assert not place.quarantine.decisions.orders(item=mails[0].id), "looking changes nothing"
    chosen = [mail.id for mail in (*mails, infected)]
    page = rita.post("/held", 200, what="release", item=[*chosen, other.id, "../../etc/passwd"], sure="1")
    assert "Released: 3" in page
    assert "Not done: 3" in page
    batch = page.partition('name="batch" value="')[2][:16]
    place.browser("anna").post("/undo", 404, batch=batch)
    assert "3 messages are held again" in rita.post("/undo", 200, batch=batch)
    assert {i.state for i in place.quarantine.known(chosen).values()} == {State.HELD}


def test_learning_waits_for_the_service(place: Place) -> None:
    mail = place.hold(BOB)
    rita = place.browser("rita")
    assert rita.post(f"/held/{mail.id}/learn-spam").endswith("done=learned-spam")
    assert ("web:rita", "labelled") in [(e.who, e.action) for e in place.quarantine.history(mail.id)]


def test_senders_are_ruled_and_that_is_taken_back(place: Place) -> None:
    mail = place.hold(BOB)
    rosa = place.browser("rosa")
    rosa.post(f"/held/{mail.id}/block")
    assert "Sender is blocked: take back" in rosa.get(f"/held/{mail.id}")
    rosa.post(f"/held/{mail.id}/unrule")
    rosa.post(f"/held/{mail.id}/unrule", 409)


# ---------------------------------------------------------------- hostile mail and requests


def test_nothing_in_a_message_becomes_markup(place: Place) -> None:
    mail = place.hold(BOB, raw=STRANGE, sender="<script>alert(8)</script>@example.org", helo="<b>")
    rosa = place.browser("rosa")
    for page in (
        rosa.get("/held"),
        rosa.get(f"/held/{mail.id}"),
        rosa.post(f"/held/{mail.id}/delete", 200),
        rosa.post("/held", 200, what="release", item=[mail.id]),
        rosa.get("/held?subject=%22%3E%3Cscript%3Ealert(9)%3C/script%3E"),
        rosa.get("/held?since=%3Cscript%3Ealert(9)", 400),
        rosa.get(f"/held/{mail.id}?done=%3Cscript%3Ealert(9)"),
        rosa.get("/held/%3Cscript%3Ealert(9)", 404),
        rosa.get("/%3Cscript%3Ealert(9)", 404),
    ):
        lower = page.lower().replace('<script src="/static/live.js" defer></script>', "")
        assert "<script" not in lower
        assert "<svg" not in lower
        assert "<img" not in lower
        assert "onerror=alert(1)>" not in lower.replace("&gt;", "")
        assert 'href="javascript' not in lower
        assert "src=" not in lower.replace("img src=x", "").replace("img src=&#39;", "")
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
        assert "http://tracker.example" not in page.replace("<bdi>http://tracker.example", "")
    assert "&lt;script&gt;alert(document.cookie)" in rosa.get("/held")


def test_a_source_is_a_file_and_never_a_page(place: Place) -> None:
    mail = place.hold(BOB, raw=STRANGE)
    answer = place.browser("rosa").client.get(f"/held/{mail.id}/source")
    assert answer.content == STRANGE
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "item",
    ["..%2f..%2fetc%2fpasswd", "-rf", "a;id", "%00", "A" * 3_000, "1%27%20OR%201=1", "0" * 16, "%ff%fe", "é"],
)
def test_what_is_no_id_is_no_message(place: Place, item: str) -> None:
    place.hold(BOB)
    place.browser("anna").get(f"/held/{item}", 404)


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "score=x",
        "state=everything",
        "filter=none",
        "before=%27",
        "size=1T..",
        "sender=" + "x" * 400,
    ],
)
def test_a_wrong_search_is_explained(place: Place, query: str) -> None:
    assert 'role="alert"' in place.browser("rosa").get(f"/held?{query}", 400)


def test_sql_is_text(place: Place) -> None:
    mail = place.hold(BOB)
    rosa = place.browser("rosa")
    for text in ("' OR 1=1 --", "%", "_", "\\", "'; DROP TABLE quarantine; --", "\x00"):
        for field in ("subject", "sender", "recipient", "domain", "reason"):
            page = rosa.client.get("/held", params={field: text})
            assert page.status_code == (400 if text == "\x00" else 200)
            assert mail.id not in page.text
    assert mail.id in rosa.get("/held")


def test_pages_follow_each_other(tmp_path: Path) -> None:
    from gateway.web.settings import WebSettings

    place = Place(tmp_path, WebSettings(page=5))
    ids = [place.hold(BOB if n % 2 else OTHER).id for n in range(24)]
    browser, seen, path = place.browser("rita"), [], "/held?state=held"
    while path:
        page = browser.get(path)
        seen += [one[:16] for one in page.split('value="1')[0:0]] or [i for i in ids if f'id="s-{i}"' in page]
        path = page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert sorted(seen) == sorted(ids[1::2])
    place.close()


# ---------------------------------------------------------------- headers, forms, hosts


def test_browsers_are_told_what_not_to_do(place: Place) -> None:
    mail = place.hold(BOB)
    rosa = place.browser("rosa")
    for path in ("/held", f"/held/{mail.id}", "/nowhere", "/login", "/static/style.css"):
        answer = rosa.client.get(path, follow_redirects=False)
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        if path != "/static/style.css":
            assert answer.headers["cache-control"] == "no-store"
    assert POLICY.startswith("default-src 'none'")
    assert "unsafe" not in POLICY
    assert "frame-ancestors 'none'" in POLICY


def test_a_form_of_others_does_nothing(place: Place) -> None:
    mail = place.hold(BOB)
    rosa, anna = place.browser("rosa"), place.browser("anna")
    path = f"/held/{mail.id}/release"
    token = rosa.csrf
    for wrong in ("", "0" * 64, anna.csrf, "\N{SNOWMAN}"):
        rosa.csrf = wrong
        rosa.post(path, 403)
    for name, value in (
        ("sec-fetch-site", "cross-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ):
        answer = rosa.client.post(path, data={"csrf": token}, headers={name: value})
        assert answer.status_code == 403, name
    assert rosa.client.post(path, json={"csrf": token}).status_code == 400
    assert not place.quarantine.decisions.orders(item=mail.id)
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": "http://localhost"}):
        rosa.client.post(path, data={"csrf": token}, headers=headers, follow_redirects=False)
    assert place.quarantine.decisions.orders(item=mail.id)


def test_a_get_changes_nothing(place: Place) -> None:
    mail = place.hold(BOB)
    rosa = place.browser("rosa")
    for act in ("release", "delete", "deny", "undo", "block"):
        rosa.get(f"/held/{mail.id}/{act}", 405)
    rosa.get("/logout", 405)
    assert len(place.quarantine.history(mail.id)) == 1


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io", "192.0.2.1"]
)
def test_another_host_is_not_served(place: Place, host: str) -> None:
    answer = place.browser("rosa").client.get("/held", headers={"host": host})
    assert answer.status_code == 421


def test_requests_are_bounded(place: Place) -> None:
    rosa = place.browser("rosa")
    assert rosa.client.post("/held", content=b"x" * 70_000).status_code == 413
    assert rosa.client.post("/held", content=iter([b"x" * 40_000] * 2)).status_code == 413
    assert rosa.client.get("/held?x=" + "y" * 5_000).status_code == 414
    assert rosa.client.request("TRACE", "/held").status_code == 405
    many = "&".join(["a=1"] * 2_000)
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert rosa.client.post("/held", content=many, headers=kind).status_code == 400


def test_static_files_are_those_that_are_there(place: Place) -> None:
    browser = place.browser()
    assert "color-scheme" in browser.get("/static/style.css")
    for path in ("/static/../site.py", "/static/%2e%2e%2fsite.py", "/static/x.css", "/templates/base.html"):
        browser.get(path, 404)


def test_a_failing_page_says_nothing_of_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    rosa = place.browser("rosa")

    def broken(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(type(place.people), "known", broken)
    answer = rosa.client.get("/held")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"] == POLICY


def test_a_store_that_is_gone_is_503(place: Place) -> None:
    rosa = place.browser("rosa")
    path = place.database.path
    if path is None:
        pytest.skip("a file")
    path.rename(path.with_name("away"))
    rosa.get("/held", 503)


def test_a_search_that_takes_too_long_is_told_as_that(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> None:
        raise TooSlowError("given up")

    rosa = place.browser("rosa")
    program = {"Authorization": f"Bearer {place.people.log_in('rosa', 'token', seconds=600)}"}
    monkeypatch.setattr(Quarantine, "search", slow)
    assert "narrow it" in rosa.get("/held?subject=x", 503)
    assert "persempit" in rosa.get("/held?subject=x", 503, headers={"Accept-Language": "id"})
    answer = place.browser().client.get("/api/v1/messages?subject=x", headers=program)
    assert (answer.status_code, "narrow it" in answer.json()["title"]) == (503, True)
