# SPDX-License-Identifier: GPL-2.0-or-later
"""The REST API: its description, its tokens, its answers, and what it does not tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from gateway.store.filters import Filters
from gateway.store.states import Actor, State
from gateway.web.api import BASE, OPERATIONS
from gateway.web.app import _routes
from gateway.web.openapi import ANSWERS, description
from tests.stored import RAW, execute
from tests.websites import Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOB, CAROL, OTHER = "bob@example.com", "carol@example.com", "dan@example.org"


@dataclass
class Program:
    """A program with somebody's token. Each answer is checked against the description."""

    client: TestClient
    token: str

    def call(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        headers = {"authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        answer = self.client.request(method, BASE + path, headers=headers, **options)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text[:300])
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == status
            return answer.json()
        if answer.headers["content-type"] == "application/octet-stream":
            return answer.content
        found = answer.json()
        fits(found, ANSWERS[operation_of(method, path).answer])
        return found


def operation_of(method: str, path: str) -> Any:
    for one in OPERATIONS:
        pattern = re.sub(r"{[a-z]+}", "[^/]+", one.path)
        if one.method == method and re.fullmatch(pattern, path.partition("?")[0]):
            return one
    raise AssertionError(path)


def fits(value: Any, schema: dict[str, Any]) -> None:
    """Check a value against the few words of JSON Schema that the description uses."""
    if "$ref" in schema:
        fits(value, ANSWERS[schema["$ref"].rpartition("/")[2]])
    for one in schema.get("allOf", ()):
        fits(value, one)
    if "oneOf" in schema:
        fits(value, schema["oneOf"][value is None])
    if "enum" in schema:
        assert value in schema["enum"]
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds
    types = {
        "string": str,
        "number": (int, float),
        "integer": int,
        "boolean": bool,
        "object": dict,
        "array": list,
        "null": type(None),
    }
    if kinds:
        assert any(isinstance(value, types[kind]) for kind in kinds), (value, kinds)  # type: ignore[arg-type]  # types
    if isinstance(value, list) and "items" in schema:
        for one in value:
            fits(one, schema["items"])
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value)
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                fits(value[name], inner)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def program(place: Place, name: str) -> Program:
    client = TestClient(place.app, base_url="http://localhost", client=("192.0.2.7", 5))
    return Program(client, place.people.log_in(name, "token", seconds=600))


# ---------------------------------------------------------------- the description


def test_the_description_has_every_route_and_no_other(place: Place) -> None:
    document = description()
    described = {
        (method.upper(), BASE + path) for path, methods in document["paths"].items() for method in methods
    }
    served = {
        (method, route.path)
        for route in _routes(place.site)
        if isinstance(route, Route) and route.path.startswith("/api/")
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served == described | {("GET", f"{BASE}/openapi.json")}
    names = [one.name for one in OPERATIONS]
    assert len(set(names)) == len(names)


def test_the_description_is_served_and_holds_together(place: Place) -> None:
    client = TestClient(place.app, base_url="http://localhost")
    document = client.get(f"{BASE}/openapi.json").json()
    assert document == description()
    assert document["openapi"] == "3.1.0"

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            mine = {value["$ref"]} if "$ref" in value else set()
            return mine | {r for one in value.values() for r in references(one)}
        return {r for one in value for r in references(one)} if isinstance(value, list) else set()

    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= schemas
    assert schemas - references(document) == set(), "schemas that nothing uses"


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer x", "Bearer " + "x" * 43, "Basic Ym9iOng=", "bearer \xff"]
)
def test_without_a_token_there_is_nothing(place: Place, value: str) -> None:
    client = TestClient(place.app, base_url="http://localhost")
    headers = {b"authorization": value.encode("latin-1")} if value else {}
    for one in OPERATIONS:
        path = BASE + re.sub(r"{[a-z]+}", "1M80JFSJGNG4SMAS", one.path)
        answer = client.request(one.method, path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_browsers_session_is_no_token_and_the_other_way_round(place: Place) -> None:
    browser = place.browser("anna")
    assert browser.client.get(f"{BASE}/me").status_code == 401
    session = place.people.log_in("anna", "session", seconds=60)
    assert Program(browser.client, session).call("GET", "/me", 401)
    token = program(place, "anna").token
    other = place.browser()
    other.client.cookies.set(place.site.cookie, token)
    other.get("/held", 303)


def test_a_token_ends_with_its_person_or_by_itself(place: Place) -> None:
    bob = program(place, "bob")
    assert bob.call("GET", "/me")["addresses"] == [BOB]
    place.people.log_out("bob", "token")
    bob.call("GET", "/me", 401)
    carol = program(place, "carol")
    place.people.remove("carol", "cli:root")
    carol.call("GET", "/me", 401)


# ---------------------------------------------------------------- looking


def test_others_mail_does_not_exist(place: Place) -> None:
    mail = place.hold(OTHER)
    for name in ("bob", "rita"):
        caller = program(place, name)
        assert caller.call("GET", "/messages?state=all")["items"] == []
        bodies = {"learn": {"spam": True}, "sender": {"rule": "block"}}
        for one in OPERATIONS:
            if "{id}" not in one.path:
                continue
            path = one.path.replace("{id}", mail.id)
            body = bodies.get(path.rpartition("/")[2], {}) if one.body else None
            options = {} if body is None else {"json": body}
            caller.call(one.method, path, 404, **options)
        done = caller.call("POST", "/decisions", json={"action": "request", "items": [mail.id]})
        assert done["failed"] == [{"id": mail.id, "why": "no such message"}]
    assert len(place.quarantine.history(mail.id)) == 1


def test_a_message_and_its_explanation(place: Place) -> None:
    mail = place.hold(BOB, CAROL)
    bob, rita = program(place, "bob"), program(place, "rita")
    found = bob.call("GET", f"/messages/{mail.id}")
    assert [one["address"] for one in found["recipients"]] == [BOB]
    assert found["may"] == ["request", "see", "withdraw"]
    assert "held back" in found["explanation"]
    assert CAROL not in str(found)
    bob.call("GET", f"/messages/{mail.id}/explanation", 404)
    assert bob.call("GET", f"/messages/{mail.id}/history") == {"events": []}
    bob.call("GET", f"/messages/{mail.id}/source", 409)
    explained = rita.call("GET", f"/messages/{mail.id}/explanation")
    assert explained["verdicts"][0]["verdict"]["score"] == 9.5
    assert rita.call("GET", f"/messages/{mail.id}/history")["events"][0]["action"] == "held"
    assert rita.call("GET", f"/messages/{mail.id}/source") == RAW


def test_pages_by_cursor(place: Place) -> None:
    ids = {place.hold(BOB).id for _ in range(5)}
    place.hold(OTHER)
    rita = program(place, "rita")
    seen: list[str] = []
    cursor = ""
    while True:
        page = rita.call("GET", f"/messages?limit=2{cursor}")
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert len(seen) == len(set(seen)) == 5
    assert set(seen) == ids


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "cursor=x",
        "state=none",
        "since=x",
        "score=1",
        "unknown=1",
        "sender=%00",
    ],
)
def test_a_wrong_query_is_refused(place: Place, query: str) -> None:
    assert program(place, "rita").call("GET", f"/messages?{query}", 400)["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"why": 5}',
        b'{"other": 1}',
        b"\xff",
        b"[" * 5_000,
        b'{"why": "' + b"x" * 600 + b'"}',
        b"null",
    ],
)
def test_a_wrong_body_is_refused(place: Place, body: bytes) -> None:
    mail = place.hold(BOB)
    kind = {"content-type": "application/json"}
    program(place, "rita").call("POST", f"/messages/{mail.id}/release", 400, content=body, headers=kind)
    assert not place.quarantine.decisions.orders(item=mail.id)


def test_a_body_is_json_and_bounded(place: Place) -> None:
    mail = place.hold(BOB)
    rita = program(place, "rita")
    rita.call("POST", f"/messages/{mail.id}/release", 400, data={"why": "x"})
    many = {"action": "deny", "items": [mail.id] * 501}
    rita.call("POST", "/decisions", 400, json=many)
    rita.call("POST", "/decisions", 400, json={"action": "deny", "items": ["../../etc/passwd"]})
    rita.call("POST", "/decisions", 400, json={"action": "burn", "items": [mail.id]})
    rita.call("PUT", f"/messages/{mail.id}", 405)


# ---------------------------------------------------------------- deciding


def test_the_whole_way_of_a_request(place: Place) -> None:
    mail = place.hold(BOB, CAROL)
    bob, rita = program(place, "bob"), program(place, "rita")
    assert bob.call("POST", f"/messages/{mail.id}/request", json={"why": "mine"})["recipients"] == [BOB]
    bob.call("POST", f"/messages/{mail.id}/withdraw")
    bob.call("POST", f"/messages/{mail.id}/request")
    bob.call("POST", f"/messages/{mail.id}/approve", 409)
    order = rita.call("POST", f"/messages/{mail.id}/approve")
    assert order["recipients"] == [BOB]
    assert rita.call("POST", f"/messages/{mail.id}/undo") == {"items": [mail.id]}
    assert rita.call("POST", f"/messages/{mail.id}/deny")["recipients"] == [BOB, CAROL]
    order = rita.call("POST", f"/messages/{mail.id}/release", json={"attached": True})
    assert place.quarantine.decisions.orders(batch=order["batch"])[0].wrapped
    rita.call("POST", f"/messages/{mail.id}/release", 409)
    rita.call("POST", f"/messages/{mail.id}/undo")
    order = rita.call("POST", f"/messages/{mail.id}/delete")
    assert order["recipients"] == [BOB, CAROL]
    assert rita.call("POST", f"/messages/{mail.id}/undo") == {"items": [mail.id]}
    rita.call("POST", f"/messages/{mail.id}/delete")
    assert rita.call("GET", f"/messages/{mail.id}")["state"] == State.DELETING
    [doomed] = place.quarantine.decisions.orders(item=mail.id)
    execute(place.database, "UPDATE quarantine_orders SET due = 0")
    assert place.quarantine.delete_due(doomed)
    assert rita.call("GET", f"/messages/{mail.id}")["state"] == State.DELETED
    assert rita.call("GET", f"/messages/{mail.id}")["content"] is None


def test_many_learning_and_senders(place: Place) -> None:
    mails = [place.hold(BOB).id for _ in range(2)]
    rosa = program(place, "rosa")
    done = rosa.call("POST", "/decisions", json={"action": "release", "items": [*mails, "0" * 16]})
    assert sorted(done["done"]) == sorted(mails)
    assert len(done["failed"]) == 1
    program(place, "anna").call("DELETE", f"/batches/{done['batch']}", 404)
    assert sorted(rosa.call("DELETE", f"/batches/{done['batch']}")["items"]) == sorted(mails)
    assert rosa.call("POST", f"/messages/{mails[0]}/learn", json={"spam": True})["counts"]["waiting"] == 1
    assert rosa.call("PUT", f"/messages/{mails[0]}/sender", json={"rule": "allow"})["pattern"]
    rosa.call("DELETE", f"/messages/{mails[0]}/sender")
    rosa.call("DELETE", f"/messages/{mails[0]}/sender", 409)
    Filters(place.database).save("news", {"subject": "news"}, "cli:x")
    assert rosa.call("GET", "/filters") == {"filters": {"news": {"subject": "news"}}}
    program(place, "bob").call("GET", "/filters", 404)


def test_figures_are_of_ones_own_mail(place: Place) -> None:
    other = place.hold(OTHER)
    place.hold(BOB)
    place.quarantine.delete(other.id, Actor("cli:x"))
    told = program(place, "bob").call("GET", "/statistics")
    assert told["states"] == {"held": 1}
    assert told["judged"] == []
    assert [day["counts"] for day in told["held"]][-1] == {"held": 1}
    assert len(told["held"]) == 14
    assert program(place, "anna").call("GET", "/statistics")["states"] == {"held": 1, "deleted": 1}
