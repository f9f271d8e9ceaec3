# SPDX-License-Identifier: GPL-2.0-or-later
"""The full-screen review, at 80 by 24: keys do what they say, and what is decided can be undone."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from textual.widgets import DataTable, Static

from gateway.cli import review as review_module
from gateway.cli.desk import PAGE, Desk
from gateway.cli.main import Failure
from gateway.cli.screen import Help, Review
from gateway.delivery.relay import RecipientResult
from gateway.delivery.release import Sender
from gateway.delivery.wrap import wrapper
from gateway.store.decisions import RefusedError
from gateway.store.quarantine import Quarantine
from gateway.store.senders import Senders
from gateway.store.states import Actor, State
from tests.stored import RAW, execute, hold, mail_for

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from textual.pilot import Pilot

    from gateway.mail.types import Envelope
    from gateway.store.database import Database
    from gateway.store.held import Item

BOB = "bob@example.com"
HOSTILE = (
    RAW.replace(b"A chance", b"=?utf-8?q?=1B[31m[red]=E2=80=AEwin?=") + b"\x1b]0;owned\x07 [bold]text\r\n"
)


class Table:
    """A quarantine, a desk, and what was sent and learned."""

    def __init__(self, database: Database, window: float) -> None:
        self.quarantine = Quarantine(database)
        self.senders = Senders(database)
        self.sent: list[str] = []
        self.learned: list[tuple[str, bool]] = []
        sender = Sender(self.deliver, wrapper("gw.example.com"))
        self.desk = Desk(self.quarantine, sender, Actor("me"), window=window, learn=self.learn)

    def deliver(self, envelope: Envelope, _raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
        self.sent += envelope.recipients
        return dict.fromkeys(envelope.recipients, RecipientResult("delivered", 250, "2.0.0", "Ok"))

    def learn(self, item: str, spam: bool) -> str:
        self.learned.append((item, spam))
        return "1 learned"

    def state(self, item: str) -> State:
        found = self.quarantine.find(item)
        assert found is not None
        return found.state


@pytest.fixture
def desk(database: Database) -> Table:
    return Table(database, 60.0)


def drive(desk: Table, work: Callable[[Review, Pilot[None]], Coroutine[Any, Any, None]]) -> None:
    """Run `work` with the screen, 80 by 24."""

    async def go() -> None:
        app = Review(desk.desk)
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            await work(app, pilot)

    asyncio.run(go())


def text(app: Review, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).render())


def held(desk: Table, count: int, **options: Any) -> list[str]:
    """So many messages, newest first."""
    ids = []
    for _ in range(count):
        ids.append(hold(desk.quarantine, **options).id)
        time.sleep(0.002)
    return ids[::-1]


def test_release_delete_and_undo(desk: Table, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = held(desk, 3)

    async def work(app: Review, pilot: Pilot[None]) -> None:
        assert first in text(app, "message")
        await pilot.press("r")
        assert desk.state(first) is State.SCHEDULED
        assert second in text(app, "message")
        await pilot.press("d")
        assert desk.state(second) is State.DELETING
        assert [item.id for item in app.items] == [third]
        await pilot.press("u")
        assert [item.id for item in app.items] == [second, third]
        assert desk.state(second) is State.HELD
        await pilot.press("u")
        assert desk.state(first) is State.HELD
        await pilot.press("u")
        assert "nothing to undo" in text(app, "said")
        await pilot.press("d", "r")

    drive(desk, work)
    assert not desk.sent
    desk.desk.pending = [replace(one, due=0.0) for one in desk.desk.pending]
    execute(database, "UPDATE quarantine_orders SET due = 0")  # as if the time to undo were over,
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)  # for which it must wait
    told = [desk.desk.settle(one) for one in desk.desk.due()]
    assert told == [f"{first} deleted", f"{second} released"]
    assert not desk.desk.pending
    assert 30 < max(waits) <= 60
    assert desk.state(first) is State.DELETED
    assert desk.state(second) is State.RELEASED


def test_what_is_due_is_done(database: Database) -> None:
    desk = Table(database, 0.0)
    [item] = held(desk, 1)

    async def work(app: Review, pilot: Pilot[None]) -> None:
        await pilot.press("r")
        end = time.monotonic() + 30
        while "released" not in text(app, "said") and time.monotonic() < end:
            await pilot.pause(0.1)
        assert "released" in text(app, "said")

    drive(desk, work)
    assert desk.sent == [BOB]
    assert desk.state(item) is State.RELEASED


def test_learning_and_senders(desk: Table) -> None:
    first, second = held(desk, 2)

    async def work(app: Review, pilot: Pilot[None]) -> None:
        await pilot.press("h", "j", "s", "b")
        await app.workers.wait_for_complete()
        await pilot.pause()

    drive(desk, work)
    assert desk.learned == [(first, False), (second, True)]
    [entry] = desk.senders.all()
    assert (entry.pattern, entry.rule) == ("alice@example.net", "block")
    assert desk.quarantine.history(second)[-1].action == "sender blocked"


def test_malware_is_refused(desk: Table) -> None:
    [item] = held(desk, 1, reasons=["VIRUS"])

    async def work(app: Review, pilot: Pilot[None]) -> None:
        await pilot.press("r")
        assert "administrator" in text(app, "said")
        await pilot.press("R")
        assert "administrator" in text(app, "said")

    drive(desk, work)
    assert desk.state(item) is State.HELD


def test_thousands_are_read_page_by_page(desk: Table) -> None:
    ids = held(desk, PAGE * 2 + 10)
    read: list[str] = []
    page = desk.desk.page

    def counted(before: str = "") -> list[Item]:
        read.append(before)
        return page(before)

    desk.desk.page = counted  # type: ignore[method-assign]  # counted

    async def work(app: Review, pilot: Pilot[None]) -> None:
        assert len(app.items) == PAGE
        app.query_one(DataTable).move_cursor(row=PAGE - 1)
        await pilot.pause()
        assert len(app.items) == 2 * PAGE
        app.query_one(DataTable).move_cursor(row=2 * PAGE - 1)
        await pilot.pause()
        assert [item.id for item in app.items] == ids

    drive(desk, work)
    assert read[0] == ""


def test_filter_and_help(desk: Table) -> None:
    wanted = hold(desk.quarantine, mail_for(sender="news@example.org")).id
    held(desk, 2)

    async def work(app: Review, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"news@", "enter")
        assert [item.id for item in app.items] == [wanted]
        await pilot.press("escape")
        assert len(app.items) == 3
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        await pilot.press("x")
        assert not isinstance(app.screen, Help)

    drive(desk, work)


def test_undo_goes_on_where_it_was(desk: Table) -> None:
    """Who takes one of hundreds back does not begin anew at the top."""
    ids = held(desk, 5)

    async def work(app: Review, pilot: Pilot[None]) -> None:
        await pilot.press("j", "j", "r", "u")
        await pilot.pause()
        assert [item.id for item in app.items] == ids
        assert app.query_one(DataTable).cursor_row == 2
        assert ids[2] in text(app, "message")

    drive(desk, work)


@pytest.mark.parametrize("key", ["r", "d"])
def test_what_others_decided_meanwhile_leaves_the_list(desk: Table, key: str) -> None:
    first, second = held(desk, 2)

    async def work(app: Review, pilot: Pilot[None]) -> None:
        desk.quarantine.delete(first, Actor("eve"))
        await pilot.press(key)
        assert [item.id for item in app.items] == [second]
        assert "deleted" in text(app, "said")
        assert not desk.desk.pending
        assert second in text(app, "message")

    drive(desk, work)


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (200, 50), (10, 4)])
def test_what_a_message_is_known_by_is_in_sight(desk: Table, size: tuple[int, int]) -> None:
    held(desk, 3)

    async def go() -> None:
        app = Review(desk.desk)
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.press("j")
            await pilot.resize_terminal(*size)
            await pilot.pause()
            table = app.query_one(DataTable)
            assert table.cursor_row == 1
            assert "Subject" in [str(column.label) for column in table.columns.values()]
            assert table.virtual_size.width <= max(size[0], 30)
            assert text(app, "message").splitlines()[0].startswith(" Subject  A chance")
            await pilot.press("question_mark")
            await pilot.pause()
            box = app.screen.query_one("#help")
            assert box.outer_size.width <= size[0]
            assert box.outer_size.height <= size[1]
            await pilot.press("down", "space")
            assert isinstance(app.screen, Help)
            await pilot.press("r")
            assert not isinstance(app.screen, Help)

    asyncio.run(go())


def test_who_leaves_waits_for_what_was_decided_or_takes_it_back(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Table(database, 60.0)
    first, second = held(desk, 2)

    async def work(_app: Review, pilot: Pilot[None]) -> None:
        await pilot.press("r", "d", "ctrl+c")
        await pilot.pause()

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    drive(desk, work)
    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(Failure, match="2 messages are held again"):
        review_module._finish(desk.desk)
    assert "2 decisions are carried out within" in capsys.readouterr().out
    assert [desk.state(one) for one in (first, second)] == [State.HELD, State.HELD]
    drive(desk, work)
    execute(database, "UPDATE quarantine_orders SET due = 0")
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    review_module._finish(desk.desk)
    assert [desk.state(one) for one in (first, second)] == [State.RELEASED, State.DELETED]
    assert desk.sent == [BOB]


def test_an_empty_quarantine(desk: Table) -> None:
    async def work(app: Review, pilot: Pilot[None]) -> None:
        assert "Nothing waits" in text(app, "message")
        await pilot.press("r", "d", "h", "b", "j", "space")

    drive(desk, work)


def test_nothing_hostile_is_obeyed(desk: Table) -> None:
    hostile = "\x1b[31m\u202e[red]eve[/red]"
    hold(desk.quarantine, mail_for(f"{hostile}@example.com", raw=HOSTILE, sender=hostile, helo=hostile))

    async def work(app: Review, pilot: Pilot[None]) -> None:
        shown = text(app, "message")
        assert "[red]" in shown
        assert all(line.isprintable() for line in shown.split("\n"))
        for row in app.query_one(DataTable).get_row_at(0):
            assert str(row).isprintable()
        await pilot.press("b")
        assert "no sender" in text(app, "said")

    drive(desk, work)


def test_a_desk_without_a_next_hop(database: Database) -> None:
    quarantine = Quarantine(database)
    mail = hold(quarantine)
    desk = Desk(quarantine, None, Actor("me"), window=1.0, learn=lambda _item, _spam: "")
    item = quarantine.find(mail.id)
    assert item is not None
    with pytest.raises(RefusedError, match="no next hop"):
        desk.release(item)


# ---------------------------------------------------------------- the command


def test_without_a_terminal() -> None:
    done = CliRunner().invoke(review_module.review, [])
    assert done.exit_code == 64
    assert "terminal" in done.output
