# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of the review: the list, one message, decisions about one or many, and what to undo.

Shows hostile mail, as text that the templates escape; links are not links. Everything works without script.
A GET changes nothing. Functions here run in threads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urlencode

from starlette.responses import Response

from gateway.mail.headers import printable
from gateway.mail.shown import content_dict
from gateway.mail.types import ID_PATTERN
from gateway.policy.brief import brief
from gateway.policy.counterfactual import answers, words
from gateway.store import options
from gateway.store.decisions import RefusedError
from gateway.store.states import OPEN, WAITING, Role, State
from gateway.web import figures
from gateway.web.held import BULK, AbsentError
from gateway.web.may import Act
from gateway.web.site import AskedError, redirect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.store.held import Item, Judgement
    from gateway.store.search import Search
    from gateway.web.held import HeldMail, Many
    from gateway.web.site import Visit

STATES: Final = ("open", *(state.value for state in State), "all")
_TEXT: Final = 20_000  # characters of each text that a page shows
_PREVIEW: Final = 25  # messages named before a decision about many
_ASKED: Final = (*options.READERS, "state", "filter")

# What was done, as a later page says it. Only these words, so that no address makes a page say others.
DONE: Final = (
    *("requested", "withdrawn", "released", "approved", "denied", "undone", "deleted", "password"),
    *("learned-ham", "learned-spam", "not-learned", "blocked", "allowed", "unruled"),
)


# ---------------------------------------------------------------- looking


def listing(visit: Visit) -> Response:
    """The list, newest first, with its filters."""
    query = {name: visit.request.query_params.get(name, "").strip() for name in _ASKED}
    problem = ""
    try:
        wanted = searched(visit, query, visit.request.query_params.get("before", ""))
    except ValueError as error:
        problem, wanted = visit.say(error), None
    page = visit.held.page(wanted) if wanted else None
    total = len(page.items) if page else 0
    if wanted and page and (page.following or wanted.before):
        total = visit.held.count(replace(wanted, before=""), 1_000)
    here = urlencode({name: value for name, value in query.items() if value})
    return visit.page(
        "list.html",
        status=400 if problem else 200,
        items=page.items if page else (),
        following=page.following if page else "",
        total=total,
        query=query,
        here=here,
        states=STATES,
        filters=visit.site.filters().all() if visit.person.role >= Role.REVIEWER else {},
        done=told(visit),
        problem=problem,
        waiting=figures.shown(visit.site.counts.waiting(visit.person), visit.say),
        reviewer=visit.person.role >= Role.REVIEWER,
    )


def told(visit: Visit) -> str:
    """What was done, if the address says so by a word that is known."""
    word = visit.request.query_params.get("done", "")
    return str(visit.words.say(f"done-{word}")) if word in DONE else ""


def searched(visit: Visit, query: Mapping[str, str], before: str = "", limit: int = 0) -> Search:
    """The search that a query asks for. Raises ValueError with what to write instead."""
    if before and not ID_PATTERN.fullmatch(before):
        raise ValueError("no such page")
    saved: dict[str, str] = {}
    if name := query.get("filter", ""):
        if visit.person.role < Role.REVIEWER or name not in (known := visit.site.filters().all()):
            raise ValueError("no filter has this name")
        saved = known[name]
    read = {name: options.READERS[name](query[name]) for name in options.READERS if query.get(name)}
    state = query.get("state") or "open"
    if state not in STATES:
        raise ValueError(f"write one of {', '.join(STATES)}")
    states = OPEN if state == "open" else None if state == "all" else State(state)
    return options.search(read, saved, states, limit=limit or visit.site.settings.page, before=before)


def item(visit: Visit, problem: str = "", status: int = 200) -> Response:
    """One message: what it is, why it is held, and what can be done."""
    held, found = visit.held, visit.held.find(visit.item)
    content = content_dict(held.content(found.id), _TEXT)
    judged = held.judgements(found.id)
    may = held.may(found.id)
    return visit.page(
        "item.html",
        status=status,
        item=found,
        content=content,
        brief=brief(visit.site.wording(visit.words.code), judged[0].verdict) if judged else "",
        full=_full(judged[0]) if judged and Act.EXPLAIN in may else None,
        judged=judged if Act.EXPLAIN in may else (),
        history=held.history(found.id),
        may=possible(may, found),
        ruled=held.ruled(found.id) if Act.RULE in may else "",
        done=told(visit),
        problem=problem,
        undo=visit.site.settings.undo_seconds,
    )


def possible(may: frozenset[Act], found: Item) -> frozenset[Act]:
    """What may be done to a message, in the states of its copies."""
    states = {one.state for one in found.recipients}
    fitting = {
        Act.REQUEST: State.HELD in states,
        Act.WITHDRAW: State.REQUESTED in states,
        Act.RELEASE: bool(states & set(WAITING if Act.EXPLAIN in may else (State.HELD, State.REQUESTED))),
        Act.APPROVE: State.REQUESTED in states,
        Act.DENY: bool(states & {State.HELD, State.REQUESTED}),
        Act.UNDO: bool(states & {State.SCHEDULED, State.DELETING}),
        Act.LEARN: found.content,
        Act.SOURCE: found.content,
        Act.DELETE: found.content and not states & {State.RELEASING, State.DELETING},
        Act.INFECTED: "VIRUS" in set(found.reasons) - set(found.answered),
        Act.RULE: bool(found.sender),
    }
    return frozenset(act for act in may if fitting.get(act, True))


def source(visit: Visit) -> Response:
    """The message as it was received, to keep as a file, never to be shown."""
    raw = visit.held.source(visit.item)
    name = quote(f"{visit.held.find(visit.item).id}.eml")
    return Response(
        raw,
        media_type="application/octet-stream",
        headers={"Content-Disposition": f"attachment; filename={name}", "Content-Security-Policy": "sandbox"},
    )


def _full(judged: Judgement) -> dict[str, Any]:
    """The whole explanation, for reviewers."""
    verdict = judged.verdict
    told = words(verdict)
    return {
        "contributions": sorted(
            (c for c in verdict.contributions if c.points or c.decides),
            key=lambda c: (c.decides is None, -abs(c.points)),
        ),
        "answers": answers(verdict),
        "words": told,
        "outcomes": verdict.outcomes,
        "versions": verdict.versions,
        "reason": ": ".join(filter(None, (verdict.reason, verdict.reason_text))),
    }


# ---------------------------------------------------------------- deciding about one


def decide(visit: Visit) -> Response:
    """Do what the form says to one message, and show what became of it."""
    act = str(visit.request.path_params["act"])
    if act not in _DECISIONS:
        raise AbsentError
    if act == "delete" and not visit.field("sure"):
        return visit.page("delete.html", item=visit.held.find(visit.item))
    try:
        done = _DECISIONS[act](visit, visit.held, visit.field("why"))
    except RefusedError as error:
        return item(visit, problem=f"{visit.words.say('not-done')}: {visit.say(error)}.", status=409)
    return redirect(f"/held/{visit.item}?done={done}")


def _release(visit: Visit, held: HeldMail, why: str) -> str:
    held.release(
        visit.item,
        why=why,
        to=visit.field("to").strip(),
        wrapped=bool(visit.field("attached")),
        infected=bool(visit.field("infected")),
    )
    if visit.field("learn"):
        held.learn([visit.item], spam=False)
    return "released"


def _approve(visit: Visit, held: HeldMail, why: str) -> str:
    held.release(visit.item, why=why, approve=True)
    return "approved"


def _delete(visit: Visit, held: HeldMail, why: str) -> str:
    if visit.field("learn"):
        held.learn([visit.item], spam=True)
    held.delete(visit.item, why=why)
    return "deleted"


def _learn(*, spam: bool) -> Callable[[Visit, HeldMail, str], str]:
    def learn(visit: Visit, held: HeldMail, _why: str) -> str:
        taken = held.learn([visit.item], spam=spam)
        return ("learned-spam" if spam else "learned-ham") if taken.get("waiting") else "not-learned"

    return learn


def _do(word: str, name: str) -> Callable[[Visit, HeldMail, str], str]:
    def do(visit: Visit, held: HeldMail, why: str) -> str:
        getattr(held, name)(visit.item, why=why)
        return word

    return do


def _undo(visit: Visit, held: HeldMail, _why: str) -> str:
    held.undo(visit.item)
    return "undone"


def _unrule(visit: Visit, held: HeldMail, _why: str) -> str:
    held.unrule(visit.item)
    return "unruled"


def _block(visit: Visit, held: HeldMail, why: str) -> str:
    held.rule(visit.item, "block", why=why)
    return "blocked"


def _allow(visit: Visit, held: HeldMail, why: str) -> str:
    held.rule(visit.item, "allow", why=why)
    return "allowed"


_DECISIONS: Final[Mapping[str, Callable[[Visit, HeldMail, str], str]]] = {
    "request": _do("requested", "request"),
    "withdraw": _do("withdrawn", "withdraw"),
    "deny": _do("denied", "deny"),
    "release": _release,
    "approve": _approve,
    "undo": _undo,
    "delete": _delete,
    "learn-ham": _learn(spam=False),
    "learn-spam": _learn(spam=True),
    "block": _block,
    "allow": _allow,
    "unrule": _unrule,
}


# ---------------------------------------------------------------- deciding about many

MANY: Final = ("request", "release", "deny", "delete")


def many(visit: Visit) -> Response:
    """Show what a decision about many is about; with `sure`, do it."""
    what = visit.field("what")
    if what not in MANY:
        raise AskedError("This cannot be done to many messages at once.")
    if visit.field("sure"):
        done = visit.held.each(visit.form.get("item", []), cast("Many", what), visit.field("why"))
        return visit.page("done.html", what=what, done=done, undo=visit.site.settings.undo_seconds)
    if visit.field("scope") == "all":
        query = {name: visit.field(name).strip() for name in _ASKED}
        try:
            wanted = searched(visit, query, limit=BULK)
        except ValueError as error:
            raise AskedError(str(error)) from error
        page = visit.held.page(wanted)
        chosen, more = page.items, bool(page.following)
    else:
        chosen = tuple(visit.held.known(visit.form.get("item", [])[:BULK]))
        more = False
    return visit.page("many.html", what=what, items=chosen, shown=chosen[:_PREVIEW], more=more, most=BULK)


def undo_many(visit: Visit) -> Response:
    """Take back a release of many."""
    batch = printable(visit.field("batch"), 40).upper()
    if not ID_PATTERN.fullmatch(batch):
        raise AbsentError
    undone = visit.held.undo_batch(batch)
    return visit.page("undone.html", count=len(undone))
