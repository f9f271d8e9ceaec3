# SPDX-License-Identifier: GPL-2.0-or-later
"""The full-screen review: a list, a preview, and a key for each decision.

Draws hostile text, made safe by `desk`; no markup in it is obeyed. Items are read page by page, so that a
million of them start as quickly as ten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from gateway.cli.desk import PAGE, Desk
from gateway.cli.output import moment, safe
from gateway.store.database import StoreError
from gateway.store.decisions import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from textual.app import ComposeResult
    from textual.events import Key, Resize

    from gateway.store.held import Item

# Within 36 columns, so that it reads well in the smallest terminal.
HELP = """\
r  release to its recipients
R  release malware as well
d  delete
h  learn as ham
s  learn as spam
b  block its sender
a  allow its sender
u  undo what was released or
   deleted last, for some seconds

j, n, down  next message
k, p, up    previous message
space       read on in the message
/           filter: part of a subject,
            or of a sender with its @
escape      show all again
g           read the list anew
q           leave

Nothing in a message is opened,
fetched or obeyed. Any key but the
arrows and space closes this."""

_NARROW = 70  # columns below which the list is what people know a message by, and no more
_SCROLLS = ("up", "down", "pageup", "pagedown", "home", "end", "space")


class Help(ModalScreen[None]):
    """What the keys do."""

    def compose(self) -> ComposeResult:
        """One text."""
        with VerticalScroll(id="help"):
            yield Static(HELP, markup=False)

    def on_key(self, event: Key) -> None:
        """Any key leaves that does not read on."""
        if event.key == "space":
            self.query_one("#help", VerticalScroll).scroll_page_down(animate=False)
        if event.key not in _SCROLLS:
            self.dismiss()


class Review(App[None]):
    """Works through held messages. All that is decided, the desk does."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    DataTable { height: 1fr; }
    #preview { height: 1fr; border-top: solid $primary; padding: 0 1; }
    #said { height: 1; background: $panel; padding: 0 1; }
    #filter { display: none; height: 1; border: none; }
    #filter.open { display: block; }
    Help { align: center middle; }
    #help { width: 40; max-width: 100%; height: auto; max-height: 100%; }
    #help { border: round $primary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[Any]] = [
        Binding("question_mark", "help", "Help"),
        Binding("r", "release", "Release"),
        Binding("R", "release_infected", show=False),
        Binding("d", "delete", "Delete"),
        Binding("h", "learn(False)", "Ham"),
        Binding("s", "learn(True)", "Spam"),
        Binding("b", "rule('block')", "Block"),
        Binding("a", "rule('allow')", "Allow"),
        Binding("u", "undo", "Undo"),
        Binding("slash", "filter", "Filter"),
        Binding("q", "quit", "Quit"),
        Binding("j,n", "move(1)", show=False),
        Binding("k,p", "move(-1)", show=False),
        Binding("space", "scroll", show=False),
        Binding("escape", "unfilter", show=False),
        Binding("g", "reload", show=False),
    ]

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.items: list[Item] = []
        self._whole = False  # whether all pages are read
        self._drawn = 0  # columns of the terminal that the list is drawn for

    def compose(self) -> ComposeResult:
        """List above, preview below, and what was done last between them and the keys."""
        yield DataTable(cursor_type="row", zebra_stripes=True)
        with VerticalScroll(id="preview", can_focus=False):
            yield Static("", id="message", markup=False)
        yield Input(placeholder="part of a subject, or of a sender with its @", id="filter")
        yield Static("", id="said", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Read the first page and begin to do what is due."""
        self._layout(self.size.width)
        self.action_reload()
        self.query_one(DataTable).focus()
        self.set_interval(1.0, self._settle)

    def on_resize(self, event: Resize) -> None:
        """Draw the list anew, in the columns that there are now."""
        if self._drawn not in (0, event.size.width):
            at = self.current()
            self._layout(event.size.width)
            self._draw(at)

    def _layout(self, width: int) -> None:
        """Columns for so wide a terminal; each has a space on both sides, and the list a scroll bar."""
        table = self.query_one(DataTable)
        table.clear(columns=True)
        if width < _NARROW:
            columns = {"Subject": max(width - 18, 8), "Sender": 12}
        else:
            columns = {"Held": 11, "Points": 6, "Sender": 24, "Subject": width - 51}
        for name, wide in columns.items():
            table.add_column(name, width=wide, key=name)
        self._drawn = width

    def _draw(self, at: Item | None) -> None:
        """Draw all items that were read, with the cursor at one of them."""
        table = self.query_one(DataTable)
        table.clear()
        self._add(self.items)
        if at in self.items:
            table.move_cursor(row=self.items.index(at))
        self._show()

    def _add(self, items: Iterable[Item]) -> None:
        """Rows for these items, below the others."""
        table = self.query_one(DataTable)
        for item in items:
            cells = {
                "Held": moment(item.held_at)[5:16],
                "Points": f"{item.score:.1f}",
                "Sender": f"<{item.sender}>",
                "Subject": item.subject,
            }
            table.add_row(*(safe(cells[str(column.value)], 300) for column in table.columns), key=item.id)

    # -------------------------------------------------------------- the list

    def action_reload(self) -> None:
        """Read the list anew."""
        self.items, self._whole = [], False
        self.query_one(DataTable).clear()
        self._more()
        count = self.desk.count()
        many = "1 message waits" if count == 1 else f"{count} messages wait"
        self.say(f"{'at least ' if count == 10_000 else ''}{many}; ? explains the keys")

    def _more(self) -> None:
        """Read the next page."""
        page = self.desk.page(self.items[-1].id if self.items else "")
        self._whole = not page
        self._add(page)
        self.items += page
        if not self.items:
            self.query_one("#message", Static).update(safe("Nothing waits for a decision."))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the item under the cursor, and read on before the end is reached."""
        if event.cursor_row >= len(self.items) - PAGE // 2 and not self._whole:
            self._more()
        self._show()

    def _show(self) -> None:
        """Preview the item under the cursor."""
        item = self.current()
        if item is not None:
            self.query_one("#message", Static).update(self.desk.preview(item))
            self.query_one("#preview", VerticalScroll).scroll_home(animate=False)

    def current(self) -> Item | None:
        """The item under the cursor."""
        row = min(self.query_one(DataTable).cursor_row, len(self.items) - 1)
        return self.items[row] if row >= 0 else None

    def action_move(self, steps: int) -> None:
        """Go to the next or the previous item."""
        table = self.query_one(DataTable)
        table.move_cursor(row=table.cursor_row + steps)

    def action_scroll(self) -> None:
        """Read on in the preview."""
        self.query_one("#preview", VerticalScroll).scroll_page_down(animate=False)

    def _leave(self, item: Item) -> None:
        """Take an item out of the list."""
        self.items.remove(item)
        self.query_one(DataTable).remove_row(item.id)
        if len(self.items) < PAGE // 2 and not self._whole:
            self._more()
        if not self.items:
            self.query_one("#message", Static).update(safe("Nothing waits for a decision."))
        self._show()

    # -------------------------------------------------------------- decisions

    def action_release(self) -> None:
        """Release the item."""
        self._decide(self.desk.release, leaves=True)

    def action_release_infected(self) -> None:
        """Release the item, malware or not."""
        self._decide(lambda item: self.desk.release(item, infected=True), leaves=True)

    def action_delete(self) -> None:
        """Delete the item."""
        self._decide(self.desk.delete, leaves=True)

    def action_rule(self, rule: Any) -> None:
        """Block or allow the sender."""
        self._decide(lambda item: self.desk.rule(item, rule))

    def action_learn(self, spam: bool) -> None:
        """Teach the classifier; that takes a moment, so it is done aside."""
        item = self.current()
        if item is None:
            return
        self.say("learning ...")

        def learn() -> None:
            try:
                told = self.desk.learn(item, spam=spam)
            except (RefusedError, StoreError, OSError) as error:
                told = str(error)
            self.call_from_thread(self.say, told)

        self.run_worker(learn, thread=True, group="learn")

    def action_undo(self) -> None:
        """Take back the last decision, and go on with its message."""
        try:
            item = self.desk.undo()
        except (RefusedError, StoreError) as error:
            self.say(str(error))
            return
        self.items = sorted({one.id: one for one in (*self.items, item)}.values(), key=_id, reverse=True)
        self._draw(item)
        self.say(f"{item.id} is held again")

    def _decide(self, decision: Callable[[Item], str], *, leaves: bool = False) -> None:
        item = self.current()
        if item is None:
            return
        try:
            told = decision(item)
        except (RefusedError, StoreError) as error:
            if not self.desk.waits(item):  # somebody else was faster
                self._leave(item)
            self.say(f"{item.id}: {error}")
            return
        if leaves:
            self._leave(item)
        self.say(told)

    def _settle(self) -> None:
        """Do what is due, aside: a next hop may be slow."""
        due = self.desk.due()

        def settle() -> None:
            for one in due:
                self.call_from_thread(self.say, self.desk.settle(one))

        if due:
            self.run_worker(settle, thread=True, group="settle")

    # -------------------------------------------------------------- filter, help

    def action_filter(self) -> None:
        """Ask for a text."""
        field = self.query_one("#filter", Input)
        field.add_class("open")
        field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Show only what fits."""
        self._filtered(event.value.strip())

    def action_unfilter(self) -> None:
        """Show all again."""
        self.query_one("#filter", Input).value = ""
        self._filtered("")

    def _filtered(self, text: str) -> None:
        self.desk.filter(text)
        self.query_one("#filter", Input).remove_class("open")
        self.query_one(DataTable).focus()
        self.action_reload()

    def action_help_quit(self) -> None:
        """Say how to leave: this is what Ctrl-C does."""
        self.say("q leaves; u takes back what was decided last")

    def action_help(self) -> None:
        """Say what the keys do."""
        self.push_screen(Help())

    def say(self, text: str) -> None:
        """Tell the reviewer."""
        self.query_one("#said", Static).update(safe(text, 200))


def _id(item: Item) -> str:
    return item.id
