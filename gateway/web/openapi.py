# SPDX-License-Identifier: GPL-2.0-or-later
"""The description of the API, OpenAPI 3.1: the table of operations, with the schemas of its answers."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from gateway import __version__
from gateway.store.states import State
from gateway.web.api import BASE, OPERATIONS, Operation

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "number"}
_WHOLE: Final = {"type": "integer"}
_TRUTH: Final = {"type": "boolean"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_TIME: Final = {"type": "number", "description": "Seconds since 1970."}
_STATE: Final = {"type": "string", "enum": [str(state) for state in State]}


def _object(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _list(inner: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": inner}


def _named(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_COUNTS: Final = {"type": "object", "additionalProperties": _WHOLE}
_DAY: Final = _object(day={"type": "string", "format": "date"}, counts=_COUNTS)
_COPY: Final = _object(address=_TEXT, state=_STATE, delivered_to=_TEXT, note=_TEXT)
_ITEM: Final = _object(
    id=_TEXT,
    queue_id=_TEXT,
    state=_STATE,
    received=_TIME,
    held_at=_TIME,
    changed=_TIME,
    client_ip=_TEXT,
    helo=_TEXT,
    sender=_TEXT,
    subject=_TEXT,
    message_id=_TEXT,
    size=_WHOLE,
    sha256=_TEXT,
    score=_NUMBER,
    reason=_TEXT,
    reasons=_TEXTS,
    answered=_TEXTS,
    recipients=_list(_COPY),
)
_CONTENT: Final = _object(
    fields=_list(_TEXTS),
    authors=_list(_object(name=_TEXT, address=_TEXT)),
    texts=_list(_object(kind=_TEXT, text=_TEXT)),
    urls=_list(_object(target=_TEXT, shown=_TEXT)),
    attachments=_list(
        _object(names=_TEXTS, declared_type=_TEXT, detected_type=_TEXT, size=_WHOLE, sha256=_TEXT)
    ),
    broken=_TEXTS,
)
ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "Person": _object(name=_TEXT, role=_TEXT, addresses=_TEXTS, domains=_TEXTS),
    "Item": _ITEM,
    "Messages": _object(items=_list(_named("Item")), next={"type": ["string", "null"]}),
    "Message": {
        "allOf": [
            _named("Item"),
            _object(may=_TEXTS, explanation=_TEXT, content={"oneOf": [_CONTENT, {"type": "null"}]}),
        ]
    },
    "Explanation": {
        "type": "object",
        "properties": {
            "id": _TEXT,
            "verdicts": _list(_object(time=_TIME, verdict={"type": "object"})),
            "signals": _list({"type": "object"}),
            "pass": _list({"type": "object"}),
            "classifier": {"type": ["object", "null"]},
        },
        "required": ["id", "verdicts", "signals", "pass", "classifier"],
    },
    "History": _object(
        events=_list(_object(number=_WHOLE, time=_TIME, item=_TEXT, who=_TEXT, action=_TEXT, why=_TEXT))
    ),
    "Decided": _object(id=_TEXT, recipients=_TEXTS),
    "Ordered": _object(id=_TEXT, recipients=_TEXTS, batch=_TEXT, due=_TIME),
    "Undone": _object(items=_TEXTS),
    "Learned": _object(id=_TEXT, counts=_COUNTS),
    "Ruled": _object(id=_TEXT, pattern=_TEXT),
    "Many": _object(done=_TEXTS, failed=_list(_object(id=_TEXT, why=_TEXT)), batch=_TEXT),
    "Statistics": _object(states=_COUNTS, held=_list(_DAY), judged=_list(_DAY)),
    "Filters": _object(
        filters={
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": _TEXT},
        }
    ),
    "Problem": {
        "type": "object",
        "properties": {"type": _TEXT, "title": _TEXT, "status": _WHOLE, "detail": _TEXT},
        "required": ["type", "title", "status"],
    },
}

_QUERY: Final = {
    "sender": "Part of the envelope sender, in any case.",
    "recipient": "Part of a recipient's address.",
    "domain": "Domain of the sender or of a recipient.",
    "subject": "Part of the subject.",
    "reason": "Name of a signal it is held for, or score.",
    "since": "Held since: 2d, 12h, or an ISO date or time.",
    "until": "Held before: 2d, 12h, or an ISO date or time.",
    "score": "Points: 8..15, 8.. or ..3, the end left out.",
    "size": "Octets: 1M.., 10k..50k.",
    "state": "A state, open (the default) or all.",
    "limit": "Messages of one answer, 1 to 500.",
    "cursor": "What the answer before had as next.",
}
_FAILURES: Final = {
    "400": "It cannot be understood; detail says why.",
    "401": "No token, or one that is over.",
    "404": "There is no such message, or it is nobody's business of the caller's.",
    "409": "It must not happen, or not now; detail says why.",
    "413": "More than 64 KiB.",
    "503": "The store does not answer, or not within the time that a search has.",
}


def description() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    kinds = {one.body for one in OPERATIONS if one.body is not None}
    _, bodies = msgspec.json.schema_components(
        sorted(kinds, key=lambda kind: kind.__name__), ref_template="#/components/schemas/{name}"
    )
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Mailwarden",
            "version": __version__,
            "description": "The review of held mail. A caller sees the copies within their reach alone.",
            "license": {"name": "GPL-2.0-or-later", "identifier": "GPL-2.0-or-later"},
        },
        "servers": [{"url": BASE}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "As `mailwarden user token add NAME` prints it.",
                }
            },
            "schemas": {**ANSWERS, **bodies},
        },
    }


def _operation(one: Operation) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT}
        for name in re.findall(r"{([a-z]+)}", one.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": _QUERY[name], "schema": _TEXT} for name in one.query
    ]
    content: dict[str, Any] = {"application/octet-stream": {}}
    if one.answer:
        content = {"application/json": {"schema": _named(one.answer)}}
    problems = {"application/problem+json": {"schema": _named("Problem")}}
    answers = {"200": {"description": "Done.", "content": content}}
    answers |= {code: {"description": text, "content": problems} for code, text in _FAILURES.items()}
    made: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "parameters": parameters,
        "responses": answers,
    }
    if one.body is not None:
        named = {"schema": _named(one.body.__name__)}
        made["requestBody"] = {"content": {"application/json": named}}
    return made
