# SPDX-License-Identifier: GPL-2.0-or-later
"""Teaching the site's model: copies, contradictions, limits, the gate, and the way back."""

import base64
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from contrib.lab.clamd import EICAR
from gateway import learning
from gateway.classifier import gate, stored
from gateway.classifier.features import extract
from gateway.classifier.mapping import ModelError
from gateway.classifier.order import BLOCK, one_sided, spread
from gateway.classifier.settings import ClassifierSettings
from gateway.classifier.site import SiteFile, SiteModel
from gateway.learning import Labelled, Learner
from gateway.mail.mime import parse
from gateway.policy.examine import GTUBE
from gateway.store.database import Database, StoreError
from gateway.store.samples import REPORT, REVIEW, Samples, SampleState
from tests.stored import POSTGRESQL
from tests.teaching import crash, mail, message, states


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
