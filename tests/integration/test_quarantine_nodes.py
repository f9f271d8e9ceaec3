# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes on one PostgreSQL: the same quarantine, worked on by both at once."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from contrib.lab.gateway import ROOT
from contrib.lab.postgresql import Postgresql
from gateway.auth.outgoing import Signing
from gateway.data import data_dir
from gateway.delivery.relay import RecipientResult
from gateway.delivery.routes import routes
from gateway.digest import words
from gateway.digest.send import Post, send_all
from gateway.digest.settings import DigestSettings
from gateway.store import retention
from gateway.store.database import Database, StoreSettings, open_database
from gateway.store.decisions import RefusedError
from gateway.store.grants import Deed, Grant, GrantError, Grants
from gateway.store.quarantine import Quarantine
from gateway.store.search import Search
from gateway.store.senders import Senders
from gateway.store.states import OPEN, Actor, State
from tests.stored import RAW, hold, mail_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from gateway.mail.types import Envelope

pytestmark = pytest.mark.server
ITEMS = 20
# A node: holds some messages, and releases all that there are, its own and the other's.
NODE = """
import hashlib, os, sys, time
sys.path.insert(0, sys.argv[3])
from gateway.delivery.relay import RecipientResult
from gateway.delivery.release import ReleaseError, Sender, release_item
from gateway.delivery.wrap import wrapper
from gateway.store.database import StoreError, StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.search import Search
from gateway.store.states import OPEN, Actor
from tests.stored import hold

name, count = sys.argv[4], int(sys.argv[5])
quarantine = Quarantine(open_database(StoreSettings(database=sys.argv[1])))

def deliver(envelope, raw, token):
    line = f"{hashlib.sha256(raw).hexdigest()} {token.partition('.')[0]} {name}\\n".encode()
    record = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(record, line * len(envelope.recipients))
    os.close(record)
    return dict.fromkeys(envelope.recipients, RecipientResult("delivered", 250, "2.0.0", "Ok"))

sender = Sender(deliver, wrapper("gw.example.com"))
for _ in range(count):
    hold(quarantine, reasons=("score",))
end = time.monotonic() + 60
while time.monotonic() < end:
    waiting = quarantine.search(Search(state=OPEN, limit=1_000))
    if not waiting and quarantine.count(Search()) >= 2 * count:
        break
    for item in waiting:
        try:
            release_item(quarantine, sender, item.id, Actor(f"cli:{name}"))
        except (ReleaseError, StoreError):
            pass
"""


# A node that judges held mail again, as soon as the other is there, too; what has EVIL in it is deleted.
JUDGE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from gateway.mail.types import Scan
from gateway.policy.rescan import RescanSettings
from gateway.rescan import rescan_all
from gateway.store.database import StoreSettings, open_database
from tests.unit.test_rescan import Bench

def scan(parts, deadline):
    evil = any(b"EVIL" in part for part in parts)
    return Scan("infected" if evil else "clean", "Test.Evil" if evil else "", engine="engine 2")

with ThreadPoolExecutor(4) as pool:
    bench = Bench(open_database(StoreSettings(database=sys.argv[1])), pool)
    bench.scanner.scan = scan
    here = Path(sys.argv[2])
    (here / sys.argv[4]).touch()
    end = time.monotonic() + 60
    while len(list(here.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.001)
    settings = RescanSettings(infected="delete")
    print(len(list(rescan_all(bench.gateway, bench.quarantine, "engine 2", settings))))
"""


@pytest.fixture
def url(lab: Path, tmp_path: Path) -> Iterator[str]:
    if not Postgresql.available():
        pytest.skip("postgresql or psycopg is not installed")
    with Postgresql(lab / f"nodes-{tmp_path.name}") as server:
        yield server.url


@pytest.fixture
def nodes(url: str) -> Iterator[tuple[Database, Database]]:
    opened = [open_database(StoreSettings(database=url)) for _ in range(2)]
    yield opened[0], opened[1]
    for one in opened:
        one.close()


def test_both_hold_and_release_and_each_message_goes_out_once(url: str, tmp_path: Path) -> None:
    arrived = tmp_path / "arrived"
    running = [
        subprocess.Popen([sys.executable, "-c", NODE, url, str(arrived), ROOT, name, str(ITEMS)], cwd=ROOT)
        for name in ("one", "two")
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    lines = [line.split() for line in arrived.read_text("ascii").splitlines()]
    items = [item for _, item, _ in lines]
    assert len(items) == len(set(items)) == 2 * ITEMS
    assert {digest for digest, _, _ in lines} == {hashlib.sha256(RAW).hexdigest()}
    quarantine = Quarantine(open_database(StoreSettings(database=url)))
    assert quarantine.count(Search(state=State.RELEASED)) == 2 * ITEMS
    assert quarantine.count(Search(state=OPEN)) == 0
    assert quarantine.verify_audit() is None
    assert quarantine.unaudited() == []
    quarantine.database.close()


def both(work: Callable[[int], None]) -> None:
    """Do something on both nodes at once."""
    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_both_judge_again_and_each_message_is_judged_once(url: str, tmp_path: Path) -> None:
    """Also while a reviewer decides; what is malware by now is deleted once, and no decision is lost."""
    quarantine = Quarantine(open_database(StoreSettings(database=url)))
    mails = [hold(quarantine, mail_for(raw=RAW + b"EVIL" * (n % 2)), reasons=("score",)) for n in range(120)]
    ready = tmp_path / "ready"
    ready.mkdir()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", JUDGE, url, str(ready), ROOT, name],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    while len(list(ready.iterdir())) < 2 and all(process.poll() is None for process in running):
        time.sleep(0.001)
    denied = set()
    for mail in reversed(mails[::3]):  # where the nodes begin
        with contextlib.suppress(RefusedError):  # it was deleted first
            quarantine.decisions.deny(mail.id, None, Actor("eve"))
            denied.add(mail.id)
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    looks = [int(text) for text in said]
    assert sum(looks) >= len(mails), looks
    for number, mail in enumerate(mails):
        item, told = quarantine.find(mail.id), [event.action for event in quarantine.history(mail.id)]
        assert item is not None
        evil = bool(number % 2)
        assert told.count("judged") == 1, (told, looks)
        assert (told.count("convicted"), told.count("deleted")) == ((1, 1) if evil else (0, 0))
        assert told.count("denied") == (mail.id in denied)
        kept = State.DENIED if mail.id in denied else State.HELD
        assert item.state is (State.DELETED if evil else kept)
        assert len(quarantine.judgements(mail.id)) == (0 if evil else 2)
    assert quarantine.verify_audit() is None
    quarantine.database.close()


def test_a_link_works_at_either_node_and_once(nodes: tuple[Database, Database]) -> None:
    mail = hold(Quarantine(nodes[0]))
    token = Grants(nodes[0]).seal(Grant(Deed.RELEASE, "bob@example.com", time.time() + 60, mail.id, 0))
    assert Grants(nodes[1]).look(token).item == mail.id
    used: list[int] = []

    def use(n: int) -> None:
        for _ in range(5):
            try:
                Grants(nodes[n]).use(token)
                used.append(n)
            except GrantError:
                continue

    both(use)
    assert len(used) == 1


def test_each_is_told_once(nodes: tuple[Database, Database]) -> None:
    people = [f"p{n}@example.com" for n in range(10)]
    mail = mail_for(*people)
    quarantine = Quarantine(nodes[0])
    hold(quarantine, mail, reasons=("score",))
    settings = DigestSettings(enabled=True, domains=("example.com",), email="held@example.com")
    got: list[str] = []

    def deliver(envelope: Envelope, _raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
        time.sleep(0.01)
        got.extend(envelope.recipients)
        return dict.fromkeys(envelope.recipients, RecipientResult("delivered", 250, "2.0.0", "Ok"))

    languages = words.load_all(data_dir("rules"), settings)
    sender = Post(settings, languages, frozenset(), Signing(()), routes(()), deliver)
    slot = time.time()
    # The scanner's answer in these records is "infected", so that there is nothing to tell of them.
    nodes[0].write(
        lambda c: c.exec_driver_sql(
            "UPDATE quarantine_judgements SET evidence = replace(evidence, '\"infected\"', '\"clean\"')"
        )
    )
    both(lambda n: list(send_all(Quarantine(nodes[n]), sender, slot)))  # type: ignore[arg-type]
    assert sorted(got) == sorted(people)


def test_rules_about_senders_reach_the_other_node(nodes: tuple[Database, Database]) -> None:
    there = Senders(nodes[1])
    assert there.lookup("x@example.net", ()) == ()
    Senders(nodes[0]).put("example.net", "block", "cli:eve")
    end = time.monotonic() + 30
    while not there.lookup("x@example.net", ()) and time.monotonic() < end:
        time.sleep(0.1)
    assert [rule.rule for rule in there.lookup("x@example.net", ())] == ["block"]


def test_both_expire_and_make_room(nodes: tuple[Database, Database]) -> None:
    quarantine = Quarantine(nodes[0])
    for _ in range(30):
        hold(quarantine)
    removed = [0, 0]

    def work(n: int) -> None:
        removed[n] = retention.make_room(Quarantine(nodes[n]), 10 * len(RAW))[1]

    both(work)
    left = quarantine.count(Search(state=State.HELD))
    assert sum(removed) == 30 - left
    assert left <= 10
    assert quarantine.verify_audit() is None
