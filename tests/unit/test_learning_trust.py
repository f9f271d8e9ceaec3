# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose word counts how much when the model of a site is taught, and the gate."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.classifier import gate
from gateway.classifier.settings import ClassifierSettings
from gateway.learning import Labelled, Learner, Outcome
from gateway.store.database import Database
from gateway.store.samples import FOLDER, OPERATOR, REPORT, REVIEW, Samples, SampleState
from tests.teaching import mail, message, states


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
