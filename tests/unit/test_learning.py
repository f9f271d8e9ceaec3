# SPDX-License-Identifier: GPL-2.0-or-later
"""Teaching the site's model: copies, contradictions, limits, the gate, and the way back."""

import base64
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contrib.evaluate.workers import longest
from contrib.lab.clamd import EICAR
from gateway import learning
from gateway.classifier import gate, stored
from gateway.classifier.features import extract
from gateway.classifier.mapping import ModelError
from gateway.classifier.order import BLOCK, one_sided, spread
from gateway.classifier.settings import ClassifierSettings
from gateway.classifier.site import SiteFile, SiteModel
from gateway.learning import Labelled, Learner, Outcome
from gateway.mail.mime import parse
from gateway.policy.examine import GTUBE
from gateway.store.database import Database, StoreError, StoreSettings
from gateway.store.samples import FOLDER, OPERATOR, REPORT, REVIEW, Samples, SampleState
from tests.stored import POSTGRESQL

WORDS = {
    False: "agenda minutes budget kernel patch review meeting project quarter report lunch",
    True: "pills winner lottery cheap click offer casino meds replica bonus prize urgent",
}


def message(number: int, *, spam: bool) -> bytes:
    """An invented message; each number has words of its own."""
    chance = random.Random(f"{number} {spam}")
    own = ["".join(chance.choices("bcdfghklmnprst", k=7)) for _ in range(12)]
    words = chance.choices(WORDS[spam].split(), k=10) + own
    chance.shuffle(words)
    sender = "offers" if spam else "colleague"
    return (
        f"From: {sender}{number}@example.com\r\nTo: bob@example.net\r\nSubject: {words[0]} {words[1]}\r\n"
        f"\r\n{' '.join(words)}\r\n"
    ).encode()


def mail(count: int, first: int = 0, origin: str = "operator", source: str = "") -> Iterator[Labelled]:
    for number in range(first, first + count):
        for spam in (False, True):
            yield Labelled(message(number, spam=spam), spam, origin, source)


@pytest.fixture
def learner(tmp_path: Path, database: Database) -> Learner:
    return Learner(Samples(database), ClassifierSettings(), None, tmp_path / "site.npy")


def states(learner: Learner) -> dict[str, int]:
    found: dict[str, int] = {}
    for (state, _), count in learner.samples.counts().items():
        found[state] = found.get(state, 0) + count
    return found


def test_what_is_learned_reaches_a_reader_and_equals_the_fold_over_the_samples(learner: Learner) -> None:
    reader = SiteFile(learner.path)
    assert reader.current() is None
    assert learner.learn(mail(20)).learned == 40
    time.sleep(0.5)
    found = reader.current()
    assert found is not None
    assert (found.ham, found.spam) == (20, 20)
    learner.learn(mail(5, first=100))
    live = learner.live()
    learner.path.unlink()
    time.sleep(0.3)
    assert learner.behind()
    assert learner.catch_up()
    time.sleep(0.3)
    assert not learner.behind()
    anew = learner.live()
    assert anew.upto == live.upto
    assert np.array_equal(anew._state, live._state)
    assert not learner.catch_up()


@pytest.mark.parametrize("first", [False, True])
def test_a_folder_of_one_kind_after_one_of_the_other_is_learned_as_if_they_were_mixed(
    learner: Learner, tmp_path: Path, *, first: bool
) -> None:
    for spam in (first, not first):
        outcome = learner.learn(Labelled(message(n, spam=spam), spam) for n in range(60))
        assert (outcome.learned, outcome.refused) == (60, 0)
    live = learner.live()
    assert (live.ham, live.spam) == (60, 60)
    few = [Labelled(message(n, spam=True), spam=True) for n in range(500, 509)]
    assert learner.learn(few).learned == 9  # in order, after what was spread
    live = learner.live()
    other = Learner(learner.samples, ClassifierSettings(), None, tmp_path / "node" / "site.npy")
    other.path.parent.mkdir()
    assert other.catch_up()
    assert np.array_equal(other.live()._state, live._state)


def test_labels_are_spread_block_by_block_and_keep_their_order() -> None:
    kinds = [Labelled(b"%d" % n, spam=n >= 30) for n in range(40)]
    found = list(spread(kinds))
    assert [one.raw for one in found if one.spam] == [b"%d" % n for n in range(30, 40)]
    assert [one.raw for one in found if not one.spam] == [b"%d" % n for n in range(30)]
    assert all(sum(one.spam for one in found[at : at + 8]) == 2 for at in range(0, 40, 8))
    assert [one.raw for one in spread(kinds * 60)][:BLOCK] == [
        one.raw for one in spread((kinds * 60)[:BLOCK])
    ]
    assert one_sided(kinds[:30], 0)
    assert not one_sided(kinds[:30], 1_000)
    assert not one_sided(kinds, 0)
    assert not one_sided(kinds[:9], 0)


def test_a_folder_of_one_kind_that_the_model_is_sure_is_of_the_other_is_doubted() -> None:
    passed = gate.Report(True, "", *[0] * 6)
    sure = [3.0] * 60 + [-3.0] * 60
    assert gate.doubt(passed, [False] * 120, sure).why == "60 of 120 look very much like spam"
    assert gate.doubt(passed, [True] * 120, sure).why == "60 of 120 look very much like ham"
    assert gate.doubt(passed, [False] * 120, [-3.0] * 90 + [3.0] * 30).passed
    assert gate.doubt(passed, [False] * 50, [3.0] * 50).passed  # what the model is wrong about


def test_a_damaged_model_is_refused_with_the_mend_and_a_missing_one_made_anew(learner: Learner) -> None:
    learner.learn(mail(15))
    whole = learner.path.read_bytes()
    learner.path.write_bytes(whole[:5_000])
    with pytest.raises(ModelError, match=r"size is not what its head says; .*model relearn"):
        learner.learn(mail(1, first=50))
    assert learner.path.read_bytes() == whole[:5_000]
    learner.path.unlink()
    assert learner.learn(mail(1)).known == 2
    assert learner.path.read_bytes() == whole
    learner.path.unlink()
    learner.relearn()
    assert (learner.live().ham, learner.live().spam) == (15, 15)


def test_copies_count_once_and_near_copies_a_few_times(learner: Learner) -> None:
    one = message(1, spam=True)
    near = [one.replace(b"offers1@", b"offers%d@" % number) for number in range(100, 130)]
    delivered = b"Return-Path: <x@example.com>\r\nReceived: from mx\r\n\tby us\r\nX-Spam-Flag: YES\r\n" + one
    outcome = learner.learn([Labelled(raw, spam=True) for raw in (one, one, delivered)])
    assert (outcome.learned, outcome.known) == (1, 2)
    outcome = learner.learn([Labelled(raw, spam=True) for raw in near])
    assert (outcome.learned, outcome.known) == (19, 11)
    reported = Labelled(one.replace(b"offers1@", b"offers99@"), True, "report", "bob@example.net")
    assert learner.learn([reported]).known == 1
    outcome = learner.learn([Labelled(near[0], spam=False)])
    assert (outcome.corrected, outcome.disputed) == (1, 1)
    assert (learner.live().ham, learner.live().spam) == (1, 19)
    assert learner.forget(one)
    assert not learner.forget(one)


def test_what_delivery_added_is_not_learned() -> None:
    one = message(1, spam=True)
    added = (
        b"Return-Path: <x@example.com>\r\nDelivered-To: bob@example.net\r\n"
        b"Received: from mx.example.net\r\n\tby store.example.net\r\n"
        b"X-Spam-Status: Yes, score=9\r\n\ttests=A\r\nAuthentication-Results: example.net; spf=pass\r\n"
    )
    assert stored.as_received(added + one) == one
    assert stored.as_received(one) == one
    assert stored.as_received(b"") == b""
    assert stored.as_received(b"X-Spam-Flag: YES\r\n\r\nbody") == b"\r\nbody"
    assert stored.as_received(b"Subject: x") == b"Subject: x"


def test_the_client_is_read_from_our_own_trace_fields_and_nothing_else() -> None:
    one = message(1, spam=True)
    ours = (
        b"Return-Path: <x@example.com>\r\n"
        b"Received: from mx.example.net (localhost [127.0.0.1])\r\n\tby store.example.net with LMTP\r\n"
        b"Received: from helo.example.com (a.example.com [IPv6:2001:db8::1])\r\n\tby mx.example.net\r\n"
    )
    theirs = b"Received: from pc (b.example.com [198.51.100.8])\r\n\tby a.example.com; Monday\r\n"
    client = b"Received: from helo.example.com (a.example.com [IPv6:2001:db8::1])\r\n"
    assert stored.received(ours + theirs + one) == (client, theirs + one)
    assert stored.received(theirs + one) == (b"", theirs + one)
    assert stored.trace("helo.example.com", "a.example.com", "2001:db8::1") == client
    assert stored.trace("x\r\ny", "", "192.0.2.1").count(b"\n") == 1
    assert stored.trace("x", "", "192.0.2.1") == b"Received: from x (unknown [192.0.2.1])\r\n"
    assert stored.trace("x", "", "") == b""
    inside = b"Delivered-To: bob\r\nReceived: from pc (pc [10.0.0.1]) by mx.example.net\r\n"
    assert stored.received(inside + one) == (b"Received: from pc (pc [10.0.0.1])\r\n", one)


@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: test\r\n\r\n" + GTUBE.encode() + b"\r\n",
        b"Subject: test\r\n\r\nX5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*\r\n",
        b"Subject: test\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.b64encode(GTUBE.encode())
        + b"\r\n",
        b"Subject: test\r\nContent-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.b64encode(b" " + EICAR)
        + b"\r\n",
        b"Subject: =?utf-8?B?" + base64.b64encode(GTUBE.encode()) + b"?=\r\n\r\nhello there\r\n",
        b"From: a@example.com\r\n\r\n\r\n",
        b"",
    ],
)
def test_test_strings_and_empty_messages_are_never_learned(learner: Learner, raw: bytes) -> None:
    outcome = learner.learn([Labelled(raw, spam=True)])
    assert (outcome.learned, outcome.unfit) == (0, 1)
    assert not learner.path.exists()


def test_an_operator_corrects_a_label_and_a_stranger_does_not(learner: Learner) -> None:
    learner.learn(mail(5))
    wrong = Labelled(message(1, spam=False), spam=True)
    stranger = replace(wrong, origin="report", source="mallory@example.com")
    assert learner.learn([stranger]).contradicting == 1
    outcome = learner.learn([wrong])
    assert (outcome.learned, outcome.corrected) == (1, 1)
    assert (learner.live().ham, learner.live().spam) == (4, 6)
    assert states(learner) == {SampleState.LEARNED: 10, SampleState.SUPERSEDED: 1}


BOB, CAROL = {"source": "bob@example.net"}, {"source": "carol@example.net"}


@pytest.mark.parametrize(
    ("first", "second", "replaced"),
    [
        ({}, {}, True),
        ({}, {"origin": REVIEW, **BOB}, False),
        ({}, {"origin": REPORT, **BOB}, False),
        ({"origin": REVIEW, **BOB}, {}, True),
        ({"origin": REVIEW, **BOB}, {"origin": REVIEW, **CAROL}, True),
        ({"origin": REVIEW, **BOB}, {"origin": REPORT, **BOB}, False),
        ({"origin": REPORT, **BOB}, {"origin": REVIEW, **CAROL}, True),
        ({"origin": REPORT, **BOB}, {"origin": REPORT, **BOB}, True),
        ({"origin": REPORT, **BOB}, {"origin": REPORT, **CAROL}, False),
        ({"origin": REPORT, **BOB}, {"origin": FOLDER, **CAROL}, False),
        ({"origin": FOLDER, **BOB}, {}, True),
    ],
)
def test_whose_label_replaces_whose(
    learner: Learner, first: dict[str, str], second: dict[str, str], *, replaced: bool
) -> None:
    raw = message(1, spam=False)
    says = [(who.get("origin", OPERATOR), who.get("source", "")) for who in (first, second)]
    learner.learn([Labelled(raw, False, *says[0])])
    outcome = learner.learn([Labelled(raw, True, *says[1])])
    assert (outcome.learned, outcome.corrected, outcome.contradicting) == (replaced, replaced, not replaced)
    assert (learner.live().ham, learner.live().spam) == (not replaced, replaced)


def test_reviews_are_limited_by_person_and_all_people_together(tmp_path: Path, database: Database) -> None:
    settings = ClassifierSettings(reviews_per_day=10, reports_per_day=5, labels_per_day=18)
    learner = Learner(Samples(database), settings, None, tmp_path / "site.npy")
    reviews = [
        learner.learn(mail(10, first, origin=REVIEW, source=who))
        for first, who in ((0, "cli:bob"), (100, "cli:bob"), (200, "cli:carol"))
    ]
    assert [(one.learned, one.over_limit) for one in reviews] == [(10, 10), (0, 20), (8, 12)]
    assert learner.learn(mail(1, 300, origin=REPORT, source="dave@example.net")).over_limit == 2
    assert learner.learn(mail(20, 400)).learned == 40


def test_what_is_received_is_learned_later_and_once(learner: Learner) -> None:
    raw = message(1, spam=True)
    received = learner.receive([Labelled(raw, True, REPORT, "bob@example.net")])
    assert (received.waiting, received.learned) == (1, 0)
    assert not learner.path.exists()
    assert not learner.behind()  # nothing is learned yet
    learner.receive([Labelled(raw, True, REPORT, "carol@example.net")])
    learner.receive([Labelled(message(2, spam=False), False, REPORT, "carol@example.net")])
    outcome = learner.take_in()
    assert outcome is not None
    assert (outcome.learned, outcome.known) == (2, 1)
    assert states(learner) == {SampleState.LEARNED: 2}
    assert (learner.live().ham, learner.live().spam) == (1, 1)
    assert learner.take_in() is None
    time.sleep(0.3)
    assert not learner.behind()


def test_a_crash_while_received_mail_is_learned_loses_and_doubles_nothing(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner.receive(mail(3, origin=REPORT, source="bob@example.net"))
    with monkeypatch.context() as patched:
        patched.setattr(learner.samples, "discard", crash)
        with pytest.raises(RuntimeError):
            learner.take_in()
    outcome = learner.take_in()
    assert outcome is not None
    assert (outcome.learned, outcome.known) == (0, 6)
    assert states(learner) == {SampleState.LEARNED: 6}
    assert (learner.live().ham, learner.live().spam) == (3, 3)


def crash(*_: object) -> None:
    raise RuntimeError("killed")


def test_received_mail_has_its_limits(learner: Learner) -> None:
    assert learner.receive(mail(15, origin=REPORT, source="bob@example.net")).waiting == 20
    learner.take_in()
    assert learner.receive(mail(5, first=50, origin=REPORT, source="bob@example.net")).over_limit == 10
    outcome = learner.receive(mail(5, first=60, origin=FOLDER, source="imap:spam"), limit=4)
    assert (outcome.waiting, outcome.over_limit) == (4, 6)


def test_reviewers_poison_is_stopped_by_cap_or_gate(learner: Learner) -> None:
    """Five hundred wrong labels of one reviewer."""
    learner.learn(mail(400))
    held = [(learner._sample(one, Outcome()), one.spam) for one in mail(100, first=5_000)]
    wrong = [replace(one, spam=not one.spam) for one in mail(250, 1_000, origin=REVIEW, source="cli:mallory")]
    outcome = learner.learn(wrong)
    assert outcome.over_limit >= 350
    errors = 0
    for sample, spam in held:
        assert sample is not None
        errors += (learner.live().score(learner.seen(sample)).grams > 0) != spam
    assert errors <= 2


def test_a_source_is_limited_by_the_day(learner: Learner) -> None:
    outcome = learner.learn(mail(40, origin="report", source="bob@example.net"))
    assert (outcome.learned, outcome.over_limit) == (20, 60)
    assert learner.learn(mail(5, first=200, origin="report", source="bob@example.net")).over_limit == 10
    assert learner.learn(mail(5, first=200, origin="report", source="carol@example.net")).learned == 10
    assert learner.learn(mail(40, first=300)).learned == 80


def test_poisoned_reports_from_one_source_change_nothing(learner: Learner) -> None:
    learner.learn(mail(400))
    before = learner.live()
    held = [(learner._sample(one, Outcome()), one.spam) for one in mail(100, first=5_000)]
    poison = (
        replace(one, spam=not one.spam) for one in mail(500, 1_000, origin="report", source="m@example.com")
    )
    outcome = learner.learn(poison)
    assert outcome.learned + outcome.doubted + outcome.over_limit == 1_000
    assert outcome.learned + outcome.doubted <= 20
    wrong = 0
    for sample, spam in held:
        assert sample is not None
        seen = learner.seen(sample)
        wrong += (learner.live().score(seen).grams > 0) != spam
        assert (before.score(seen).grams > 0) == spam
    assert wrong == 0


def test_a_worse_model_is_refused_and_may_be_promoted_by_force(learner: Learner) -> None:
    learner.learn(mail(600))
    aside = states(learner)[SampleState.ASIDE]
    assert 20 < aside < 200
    before = learner.live()
    poison = [replace(one, spam=not one.spam) for one in mail(400, first=2_000)]
    outcome = learner.learn(poison)
    assert outcome.learned == 0
    assert outcome.refused > 500
    assert "ham called spam" in outcome.reports[-1].why or "spam missed" in outcome.reports[-1].why
    assert np.array_equal(learner.live()._state, before._state)
    assert learner.candidate.exists()
    assert not learner.promote(force=False).passed
    assert learner.live().upto == before.upto
    learner.promote(force=True)
    assert learner.live().ham > before.ham


def test_what_was_refused_may_be_taught_again_and_corrected(learner: Learner) -> None:
    learner.learn(mail(600))
    wrong = [replace(one, spam=not one.spam) for one in mail(200, first=2_000)]
    first, second = learner.learn(wrong), learner.learn(wrong)
    assert (first.learned, second.learned, second.known) == (0, 0, 0)
    assert first.refused == second.refused == states(learner)[SampleState.REFUSED]
    generation = learner.samples.generation()
    right = learner.learn(mail(200, first=2_000))
    assert right.learned + right.aside == first.refused
    assert right.corrected == 0
    assert SampleState.REFUSED not in states(learner)
    assert learner.samples.generation() == generation
    assert not learner.behind()


def test_a_refused_label_stands_in_nobody_elses_way(learner: Learner) -> None:
    true, false = (
        Labelled(message(1, spam=True), spam, REPORT, source)
        for spam, source in ((True, "bob@example.net"), (False, "m@example.com"))
    )
    refused = learner._sample(false, Outcome())
    assert refused is not None
    learner.samples.add([replace(refused, state=SampleState.REFUSED)])
    assert learner.learn([false]).known == 1  # nor is it tried again and again
    assert learner.learn([true]).learned == 1


def test_one_reviewers_wrong_labels_do_not_have_the_others_refused(learner: Learner) -> None:
    learner.learn(mail(600))
    wrong = [replace(one, spam=not one.spam) for one in mail(200, 2_000, origin=REVIEW, source="cli:mallory")]
    right = list(mail(20, 3_000, origin=REVIEW, source="cli:carol"))
    assert learner.receive([*wrong, *right], limit=1_000).waiting == 440
    outcome = learner.take_in()
    assert outcome is not None
    assert outcome.learned + outcome.aside == 40
    assert outcome.refused == 400
    assert {one.source for one in learner.samples.read(SampleState.REFUSED)} == {"cli:mallory"}
    assert learner.take_in() is None


def test_a_stranger_is_held_to_more_than_an_operator(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[float] = []
    compare = gate.compare

    def noted(*given: object) -> gate.Report:
        levels.append(float(given[-1]))  # type: ignore[arg-type]  # it is the level
        return compare(*given)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(gate, "compare", noted)
    learner.learn(mail(1))
    learner.learn(mail(1, first=10, origin=REVIEW, source="cli:carol"))
    learner.learn([*mail(1, first=20), *mail(1, first=30, origin=REPORT, source="bob@example.net")])
    assert levels == [gate.SIGNIFICANT, gate.SIGNIFICANT, gate.STRANGERS]


def test_what_was_kept_aside_is_learned_once_newer_mail_measures(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.learning.MEASURED", 30)
    monkeypatch.setattr("gateway.learning._ROLL", 10)
    learner.learn(mail(600))
    learner.learn(mail(100, first=1_000))
    assert 30 <= states(learner)[SampleState.ASIDE] < 40
    live = learner.live()
    assert live.ham + live.spam == states(learner)[SampleState.LEARNED]
    learner.path.unlink()
    learner.catch_up()
    assert np.array_equal(learner.live()._state, live._state)
    reports = mail(10, first=2_000, origin="report", source="bob@example.net")
    assert learner.learn(reports).aside == 0


def test_rollback_and_forget(learner: Learner) -> None:
    with pytest.raises(ModelError, match="no earlier"):
        learner.rollback()
    learner.learn(mail(10))
    first = learner.live()
    learner.learn(mail(10, first=50))
    assert learner.rollback() == 20
    assert (learner.live().ham, learner.live().spam) == (first.ham, first.spam)
    assert learner.forget(message(3, spam=True))
    assert learner.live().spam == 9
    assert not learner.forget(message(900, spam=True))


def test_bodies_are_kept_only_if_the_settings_say_so(tmp_path: Path, database: Database) -> None:
    for settings, kept in ((ClassifierSettings(), False), (ClassifierSettings(samples="bodies"), True)):
        learner = Learner(Samples(database), settings, None, tmp_path / "site.npy")
        raw = message(10 + kept, spam=False)
        learner.learn([Labelled(raw, spam=False)])
        assert bool(list(learner.samples.read(SampleState.LEARNED))[-1].body) is kept


@pytest.mark.skipif(bool(POSTGRESQL), reason="reads the files of SQLite")
def test_what_is_forgotten_is_gone_from_the_disk(tmp_path: Path, database: Database) -> None:
    learner = Learner(
        Samples(database), ClassifierSettings(samples="bodies"), None, tmp_path / "store" / "site.npy"
    )
    learner.learn(mail(20))
    learner.learn([Labelled(message(90, spam=True), True, REVIEW, "cli:bob")])
    [one] = [s for s in learner.samples.read(SampleState.LEARNED) if s.source == "cli:bob"]
    secrets = [one.body[20:80], one.features[20:80], one.digest.encode()]

    def on_disk() -> int:
        files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        return sum(secret in data for secret in secrets for data in files)

    assert on_disk() >= 3
    assert learner.forget_source("cli:bob") == 1
    assert on_disk() == 0
    files = {path.name for path in learner.path.parent.glob("site.npy*")}
    assert files == {"site.npy", "site.npy.lock"}
    never = Learner(Samples(database), ClassifierSettings(), None, tmp_path / "other.npy")
    never.catch_up()
    assert np.array_equal(never.live()._state, learner.live()._state)
    assert learner.samples.drop_bodies() == 40
    assert not any(sample.body for sample in learner.samples.read(SampleState.LEARNED))


def test_another_version_of_features_is_learned_anew_from_bodies(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "site.npy"
    Learner(Samples(database), ClassifierSettings(), None, path).learn(mail(5))
    kept = Learner(Samples(database), ClassifierSettings(samples="bodies"), None, path)
    kept.learn(mail(10, first=100))
    assert kept.relearn() == (20, 0)  # the same version: nothing is lost
    same = kept.live()._state.copy()
    monkeypatch.setattr(learning, "_SEEN", "next")
    monkeypatch.setattr(learning, "shapes", lambda _names: np.array([7], np.intp))
    with pytest.raises(StoreError, match="model relearn"):
        kept.learn(mail(1, first=200))
    with pytest.raises(StoreError, match="model relearn"):
        kept.take_in() if kept.samples.any_waiting() else kept.catch_up()
    assert kept.relearn() == (20, 10)
    assert (kept.live().ham, kept.live().spam) == (10, 10)
    assert not np.array_equal(kept.live()._state, same)
    assert [list(kept.seen(s).shape) for s in kept.samples.read(SampleState.LEARNED)] == [[7]] * 20
    assert kept.learn(mail(1, first=200)).learned == 2


def test_a_body_is_what_was_seen_and_bounded() -> None:
    raw = message(1, spam=True) * 1_000
    client, start = stored.unpack_body(stored.pack_body(b"Received: from x\r\n", raw))
    assert (client, start) == (b"Received: from x\r\n", raw[: stored.KEPT])
    assert stored.unpack_body(stored.pack_body(b"", b"a\0b")) == (b"", b"a\0b")
    for wrong in (b"x", b"xyz", zlib.compress(b"no end")):
        with pytest.raises(ValueError, match="not a body"):
            stored.unpack_body(wrong)


READER = """
import sys, time; from pathlib import Path
from gateway.classifier.site import SiteFile
file, end, last = SiteFile(Path(sys.argv[1])), time.monotonic() + 60, -1
print("ready", flush=True)
while last < int(sys.argv[2]) and time.monotonic() < end:
    model = file.current()
    if model is not None and model.ham != last:
        last = model.ham
        print(last, model.spam, time.time(), file.problem, flush=True)
    time.sleep(0.01)
"""


def test_readers_in_other_processes_see_whole_versions_soon(learner: Learner) -> None:
    """Each version has as much ham as spam, so a torn one would show."""
    rounds = 8
    words = [sys.executable, "-c", READER, str(learner.path), str(2 * rounds)]
    readers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    saved: dict[int, float] = {}
    for number in range(rounds):
        learner.learn(mail(2, first=10 * number))
        saved[2 * (number + 1)] = time.time()
        time.sleep(0.1)
    delays = []
    for reader in readers:
        said, _ = reader.communicate(timeout=90)
        lines = [line.split() for line in said.splitlines()]
        assert lines[-1][0] == str(2 * rounds)
        for ham, spam, when, *problem in lines:
            assert ham == spam
            assert not problem
            delays.append(float(when) - saved[int(ham)])
    assert sorted(delays)[len(delays) // 2] < 1.0


def test_writers_of_several_processes_take_turns(
    tmp_path: Path, store_settings: StoreSettings, learner: Learner
) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[4]); from pathlib import Path\n"
        "from gateway.store.database import open_database; from tests.unit.test_learning import *\n"
        "db = open_database(StoreSettings(database=sys.argv[3]))\n"
        "one = Learner(Samples(db), ClassifierSettings(), None, Path(sys.argv[1]) / 'site.npy')\n"
        "[one.learn(mail(1, first=int(sys.argv[2]) + n)) for n in range(8)]\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(start), store_settings.database, root]
        )
        for start in (1_000, 2_000)
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert (learner.live().ham, learner.live().spam) == (16, 16)
    assert states(learner) == {SampleState.LEARNED: 32}


def test_one_node_writes_at_a_time(learner: Learner) -> None:
    samples = learner.samples
    assert samples.claim_writing("a:1", 60)
    assert not samples.claim_writing("b:2", 60)
    samples.end_writing("b:2")
    assert not samples.claim_writing("b:2", 60)
    samples.end_writing("a:1")
    assert samples.claim_writing("b:2", -1)
    assert samples.claim_writing("a:1", 60)  # the other's time is over


def test_the_gate_tells_chance_from_worse() -> None:
    labels = np.array([False] * 300 + [True] * 300)
    good = np.where(labels, 5.0, -5.0)
    assert gate.compare(labels, good, good, 0.5).passed
    slightly = good.copy()
    slightly[300] = -5.0
    assert gate.compare(labels, good, slightly, 0.5).passed
    for chosen in (slice(0, 10), slice(300, 310)):
        worse = good.copy()
        worse[chosen] *= -1
        assert not gate.compare(labels, good, worse, 0.5).passed
        assert gate.compare(labels, worse, good, 0.5).passed
    none = np.zeros(0)
    assert gate.compare(none.astype(bool), none, none, 0.5).passed
    three = good.copy()
    three[np.flatnonzero(labels)[:3]] = -5.0  # missed now, by a single report
    assert gate.compare(labels, good, three, 0.5).passed
    assert gate.compare(labels, good, three, 0.5, gate.STRANGERS).why == "spam missed: 3 more, 0 fewer"
    assert gate.chance(5, 0) == pytest.approx(1 / 32)


def test_near_copies_have_one_sketch() -> None:
    words = " ".join(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(80))
    first, second = (
        extract(parse(f"Subject: news\r\n\r\n{text}\r\n".encode())) for text in (words, words + " extra")
    )
    other = extract(parse(message(7, spam=False)))
    digest = "0" * 64
    one, near, another = (stored.sketch(features, digest) for features in (first, second, other))
    assert one.near(near)
    assert set(one.bands) & set(near.bands)
    assert not one.near(another)
    assert not stored.sketch(other, digest).near(
        stored.sketch(extract(parse(message(8, spam=False))), digest)
    )


def test_an_empty_model_is_no_model(learner: Learner) -> None:
    SiteModel().save(learner.path)
    assert learner.live().ham == 0


def test_every_worker_has_what_was_taught_within_a_second(learner: Learner) -> None:
    learner.learn(mail(20))
    whole, after = longest(learner, mail(2, first=100), times=3)
    assert after < 1  # about a quarter, since workers look four times a second
    assert after <= whole
    assert learner.live().ham + learner.live().spam == 43
