# SPDX-License-Identifier: GPL-2.0-or-later
"""The REST API: what the pages do, for programs, as JSON; one table of operations.

Reads JSON of whoever has a token; each body and each query is checked against a struct, and what it does not
know is refused. Tokens come in Authorization alone, so that no browser brings one along unasked. Errors are
problems (RFC 9457).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from starlette.responses import JSONResponse, Response

from gateway.mail.shown import content_dict
from gateway.mail.types import ID_PATTERN
from gateway.policy.brief import brief
from gateway.policy.counterfactual import answers, words
from gateway.store import options
from gateway.store.held import as_dict
from gateway.store.states import OPEN, State
from gateway.web.held import BULK, AbsentError
from gateway.web.may import Act
from gateway.web.plot import date
from gateway.web.site import AskedError, StrangerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from gateway.store.people import Person
    from gateway.store.search import Search
    from gateway.web.held import HeldMail, Many
    from gateway.web.site import Site

BASE: Final = "/api/v1"
TEXT: Final = 20_000  # characters of each text of a message
_MOST: Final = 500  # messages of one answer

Words = Annotated[str, msgspec.Meta(max_length=500, description="Why, for the audit.")]
Id = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-HJKMNP-TV-Za-z]{16}\Z", description="A message's id.")]


class Why(msgspec.Struct, forbid_unknown_fields=True):
    """A reason, for the audit."""

    why: Words = ""


class Release(msgspec.Struct, forbid_unknown_fields=True):
    """How a message goes out."""

    why: Words = ""
    to: Annotated[str, msgspec.Meta(max_length=320, description="In place of its recipients.")] = ""
    attached: Annotated[bool, msgspec.Meta(description="As the attachment of a message of ours.")] = False
    infected: Annotated[bool, msgspec.Meta(description="Malware as well; for administrators.")] = False


class Label(msgspec.Struct, forbid_unknown_fields=True):
    """What a message is."""

    spam: bool


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """What is ruled about a sender, for everybody."""

    rule: Literal["block", "allow"]
    why: Words = ""


class Decision(msgspec.Struct, forbid_unknown_fields=True):
    """The same for many messages."""

    action: Literal["request", "release", "deny", "delete"]
    items: Annotated[list[Id], msgspec.Meta(min_length=1, max_length=BULK)]
    why: Words = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, of somebody who is known."""

    site: Site
    request: Request
    person: Person
    held: HeldMail
    body: Any

    @property
    def item(self) -> str:
        """The message that the address names."""
        return str(self.request.path_params["id"]).upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing that the API does."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    name: str
    summary: str
    answer: str  # the name of a schema in `openapi.py`, "" for what is no JSON
    handler: Callable[[Call], Any]
    body: type[msgspec.Struct] | None = None
    query: tuple[str, ...] = ()


# ---------------------------------------------------------------- looking


def _me(call: Call) -> Any:
    person = call.person
    return {
        "name": person.name,
        "role": person.role.name.lower(),
        "addresses": list(person.addresses),
        "domains": list(person.domains),
    }


def _messages(call: Call) -> Any:
    query = call.request.query_params
    try:
        limit = int(query.get("limit", "100"))
    except ValueError as error:
        raise AskedError("limit is a number") from error
    if not 1 <= limit <= _MOST:
        raise AskedError(f"limit is 1 to {_MOST}")
    page = call.held.page(_search(query, limit))
    return {"items": [as_dict(item) for item in page.items], "next": page.following or None}


def _search(query: Mapping[str, str], limit: int) -> Search:
    cursor = query.get("cursor", "")
    if cursor and not ID_PATTERN.fullmatch(cursor):
        raise AskedError("cursor is what the answer before had as next")
    name = query.get("state", "open")
    if name not in ("open", "all", *State):
        raise AskedError(f"state is one of open, all, {', '.join(State)}")
    states = OPEN if name == "open" else None if name == "all" else State(name)
    try:
        given = {key: query[key] for key in options.READERS if key in query}
        return options.search({}, given, states, limit=limit, before=cursor)
    except ValueError as error:
        raise AskedError(str(error)) from error


def _message(call: Call) -> Any:
    item = call.held.find(call.item)
    judged = call.held.judgements(item.id)
    return {
        **as_dict(item),
        "may": sorted(call.held.may(item.id)),
        "explanation": brief(call.site.wording("en"), judged[0].verdict) if judged else "",
        "content": content_dict(call.held.content(item.id), TEXT),
    }


def _explanation(call: Call) -> Any:
    item = call.held.find(call.item)
    if Act.EXPLAIN not in call.held.may(item.id):
        raise AbsentError
    judged = call.held.judgements(item.id)
    if not judged:
        raise AbsentError
    found = msgspec.to_builtins(
        {
            "verdicts": [{"time": one.time, "verdict": one.verdict} for one in judged],
            "signals": judged[0].signals,
            "pass": answers(judged[0].verdict),
            "classifier": words(judged[0].verdict),
        }
    )
    return {"id": item.id, **found}


def _history(call: Call) -> Any:
    return {"events": [asdict(event) for event in call.held.history(call.item)]}


def _source(call: Call) -> Response:
    raw = call.held.source(call.item)
    named = {"Content-Disposition": f"attachment; filename={call.held.find(call.item).id}.eml"}
    return Response(raw, media_type="application/octet-stream", headers=named)


def _statistics(call: Call) -> Any:
    told = call.site.counts.of(call.person)
    return {
        "states": told.states,
        "held": [{"day": date(one.day), "counts": one.counts} for one in told.held],
        "judged": [{"day": date(one.day), "counts": one.counts} for one in told.judged],
    }


def _filters(call: Call) -> Any:
    if call.person.role < call.person.role.REVIEWER:
        raise AbsentError
    return {"filters": call.site.filters().all()}


# ---------------------------------------------------------------- deciding


def _copies(name: str) -> Callable[[Call], Any]:
    def decide(call: Call) -> Any:
        people = getattr(call.held, name)(call.item, why=call.body.why)
        return {"id": call.item, "recipients": list(people)}

    return decide


def _release(call: Call) -> Any:
    body: Release = call.body
    order = call.held.release(
        call.item, why=body.why, to=body.to, wrapped=body.attached, infected=body.infected
    )
    return _ordered(order)


def _approve(call: Call) -> Any:
    return _ordered(call.held.release(call.item, why=call.body.why, approve=True))


def _ordered(order: Any) -> Any:
    return {"id": order.item, "recipients": list(order.recipients), "batch": order.batch, "due": order.due}


def _undo(call: Call) -> Any:
    return {"items": call.held.undo(call.item)}


def _undo_batch(call: Call) -> Any:
    batch = str(call.request.path_params["batch"]).upper()
    if not ID_PATTERN.fullmatch(batch):
        raise AbsentError
    return {"items": call.held.undo_batch(batch)}


def _delete(call: Call) -> Any:
    order = call.held.delete(call.item, why=call.body.why)
    return _ordered(order) if order else {"id": call.item, "recipients": [], "batch": "", "due": 0.0}


def _learn(call: Call) -> Any:
    return {"id": call.item, "counts": dict(call.held.learn([call.item], spam=call.body.spam))}


def _rule(call: Call) -> Any:
    return {"id": call.item, "pattern": call.held.rule(call.item, call.body.rule, why=call.body.why)}


def _unrule(call: Call) -> Any:
    call.held.unrule(call.item)
    return {"id": call.item, "pattern": ""}


def _many(call: Call) -> Any:
    what: Many = call.body.action
    done = call.held.each([one.upper() for one in call.body.items], what, call.body.why)
    failed = [{"id": name, "why": why} for name, why in done.failed]
    return {"done": list(done.done), "failed": failed, "batch": done.batch}


_SEARCH: Final = (*options.READERS, "state", "limit", "cursor")
_ONE: Final = "/messages/{id}"

OPERATIONS: Final = (
    Operation(
        method="GET", path="/me", name="me", summary="Who the token belongs to.", answer="Person", handler=_me
    ),
    Operation(
        method="GET",
        path="/messages",
        name="listMessages",
        summary="Messages that match, newest first, page by page.",
        answer="Messages",
        handler=_messages,
        query=_SEARCH,
    ),
    Operation(
        method="GET",
        path=_ONE,
        name="getMessage",
        summary="One message: its copies, a short explanation, and what it contains, as text.",
        answer="Message",
        handler=_message,
    ),
    Operation(
        method="GET",
        path=f"{_ONE}/explanation",
        name="explainMessage",
        summary="Every verdict about it, what weighed, and what would have let it pass; for reviewers.",
        answer="Explanation",
        handler=_explanation,
    ),
    Operation(
        method="GET",
        path=f"{_ONE}/history",
        name="getHistory",
        summary="Who did what to it; empty for who reviews only some of its copies.",
        answer="History",
        handler=_history,
    ),
    Operation(
        method="GET",
        path=f"{_ONE}/source",
        name="getSource",
        summary="The message as it was received.",
        answer="",
        handler=_source,
    ),
    Operation(
        method="POST",
        path=f"{_ONE}/request",
        name="requestRelease",
        summary="Ask for one's copies.",
        answer="Decided",
        handler=_copies("request"),
        body=Why,
    ),
    Operation(
        method="POST",
        path=f"{_ONE}/withdraw",
        name="withdrawRequest",
        summary="Take a request back.",
        answer="Decided",
        handler=_copies("withdraw"),
        body=Why,
    ),
    Operation(
        method="POST",
        path=f"{_ONE}/release",
        name="releaseMessage",
        summary="Release the copies within reach; they go out when the time to undo is over.",
        answer="Ordered",
        handler=_release,
        body=Release,
    ),
    Operation(
        method="POST",
        path=f"{_ONE}/approve",
        name="approveRequest",
        summary="Release what was requested, and nothing else.",
        answer="Ordered",
        handler=_approve,
        body=Why,
    ),
    Operation(
        method="POST",
        path=f"{_ONE}/deny",
        name="denyRequest",
        summary="Say no to a request, or before there is one.",
        answer="Decided",
        handler=_copies("deny"),
        body=Why,
    ),
    Operation(
        method="POST",
        path=f"{_ONE}/undo",
        name="undoRelease",
        summary="Take back a release or a deletion that is not done yet.",
        answer="Undone",
        handler=_undo,
    ),
    Operation(
        method="POST",
        path=f"{_ONE}/delete",
        name="deleteMessage",
        summary="Delete it for good when the time to undo is over; the audit stays.",
        answer="Ordered",
        handler=_delete,
        body=Why,
    ),
    Operation(
        method="POST",
        path=f"{_ONE}/learn",
        name="learnMessage",
        summary="Teach the classifier what it is.",
        answer="Learned",
        handler=_learn,
        body=Label,
    ),
    Operation(
        method="PUT",
        path=f"{_ONE}/sender",
        name="ruleSender",
        summary="Block or allow its envelope sender, for everybody.",
        answer="Ruled",
        handler=_rule,
        body=Rule,
    ),
    Operation(
        method="DELETE",
        path=f"{_ONE}/sender",
        name="forgetSender",
        summary="Forget what is ruled about its envelope sender.",
        answer="Ruled",
        handler=_unrule,
    ),
    Operation(
        method="POST",
        path="/decisions",
        name="decideMany",
        summary="Do the same to many messages; what cannot be done to one does not stop the others.",
        answer="Many",
        handler=_many,
        body=Decision,
    ),
    Operation(
        method="DELETE",
        path="/batches/{batch}",
        name="undoBatch",
        summary="Take back a release or a deletion of many that is not done yet.",
        answer="Undone",
        handler=_undo_batch,
    ),
    Operation(
        method="GET",
        path="/statistics",
        name="getStatistics",
        summary="Messages within reach by state, and those of the last days; who reviews all: all mail too.",
        answer="Statistics",
        handler=_statistics,
    ),
    Operation(
        method="GET",
        path="/filters",
        name="listFilters",
        summary="Saved searches, as the options of the command line.",
        answer="Filters",
        handler=_filters,
    ),
)


def answer(site: Site, operation: Operation, request: Request) -> Response:
    """Do what an operation says. Raises StrangerError, AskedError, and what the handler raises."""
    person = _caller(site, request)
    unknown = set(request.query_params) - set(operation.query)
    if unknown:
        raise AskedError(f"known here: {', '.join(operation.query) or 'no parameter'}")
    body = _body(request, operation.body) if operation.body else None
    found = operation.handler(Call(site, request, person, site.held(person), body))
    return found if isinstance(found, Response) else JSONResponse(found)


def _caller(site: Site, request: Request) -> Person:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    login = None
    if kind.lower() == "bearer" and 20 <= len(secret) <= 100:
        login = site.people.known(secret, "token")
    person = site.people.find(login.person) if login else None
    if person is None:
        raise StrangerError
    return person


def _body(request: Request, kind: type[msgspec.Struct]) -> msgspec.Struct:
    raw = request.state.body
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if raw and given != "application/json":
        raise AskedError("a body is application/json")
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise AskedError(str(error)) from error


def problem(status: int, title: str, detail: str = "") -> Response:
    """An error as RFC 9457 has it."""
    said = {"type": "about:blank", "title": title, "status": status}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(
        json.dumps(said | ({"detail": detail} if detail else {})),
        status,
        headers,
        media_type="application/problem+json",
    )
