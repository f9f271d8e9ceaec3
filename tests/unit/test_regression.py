# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixed regression set: what the shipped model says of it, and what no teaching may make of it."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway.classifier import gate, regression
from gateway.classifier.mapping import ModelError
from gateway.classifier.model import Model
from gateway.classifier.settings import ClassifierSettings
from gateway.classifier.site import SiteModel
from gateway.data import data_dir
from gateway.learning import Labelled, Learner
from gateway.store.database import Database
from gateway.store.samples import Samples, SampleState

FIXED = data_dir("models") / "regression"
OFFICE = "meeting agenda budget minutes quarter report project lunch review schedule team room slides draft"
SHOUT = "casino bonus jackpot pills cheap winner lottery offer prize click free cash limited guaranteed"


@pytest.fixture(scope="module")
def base() -> Model:
    return Model.load(data_dir("models") / "base")


@pytest.fixture(scope="module")
def examined(base: Model) -> tuple[regression.Examined, ...]:
    return regression.examine(regression.load(FIXED), base)


@pytest.fixture
def learner(tmp_path: Path, database: Database, base: Model) -> Learner:
    return Learner(Samples(database), ClassifierSettings(), base, tmp_path / "site.npy", FIXED)


def mail(count: int, first: int = 0) -> Iterator[tuple[bytes, bool]]:
    """Mail of an invented site: colleagues and advertisers, each message with words of its own."""
    for number in range(first, first + count):
        for spam in (False, True):
            chance = random.Random(f"{number} {spam}")
            own = ["".join(chance.choices("bcdfghklmnprst", k=7)) for _ in range(8)]
            words = chance.choices((SHOUT if spam else OFFICE).split(), k=14) + own
            chance.shuffle(words)
            sender = f"win{number}@example.net" if spam else "Ada Example <ada@example.com>"
            yield (
                (
                    f"Received: from {'a.example.net' if spam else 'b.example.com'}\r\nFrom: {sender}\r\n"
                    f"To: bob@example.org\r\nSubject: {words[0]} {words[1]}\r\n\r\n{' '.join(words)}\r\n"
                ).encode(),
                spam,
            )


def labelled(count: int, first: int = 0, *, wrong: bool = False, **who: str) -> Iterator[Labelled]:
    origin, source = who.get("origin", "operator"), who.get("source", "")
    for raw, spam in mail(count, first):
        yield Labelled(raw, spam != wrong, origin, source)


def fixed_counts(learner: Learner, examined: tuple[regression.Examined, ...]) -> tuple[int, int]:
    found = regression.logits(examined, learner.live())
    spam = np.array([one.known.spam for one in examined])
    return int((found[~spam] >= gate.CUT).sum()), int((found[spam] < gate.CUT).sum())


def test_the_set_is_whole_and_of_many_languages() -> None:
    known = regression.load(FIXED)
    names = [one.name for one in known]
    assert len(set(names)) == len(names)
    ham = [one for one in known if not one.spam]
    assert len(ham) >= 70
    assert len(known) - len(ham) >= 35
    assert len({one.language for one in ham}) >= 15
    assert sum(one.language == "id" for one in ham) >= 8
    assert all(b"\r\nMessage-ID: " in one.raw and b"\r\n\r\n" in one.raw for one in known)


def test_the_shipped_model_calls_hardly_any_of_its_ham_spam(
    examined: tuple[regression.Examined, ...],
) -> None:
    found = regression.logits(examined, None)
    spam = np.array([one.known.spam for one in examined])
    assert (found[~spam] >= gate.CUT).mean() <= 0.03
    assert (found[spam] < gate.CUT).mean() <= 0.15
    assert np.array_equal(found, regression.logits(examined, SiteModel()))


def test_a_damaged_set_is_refused(tmp_path: Path) -> None:
    for text in ("not = [toml", "[[mail]]\nname = 1", "x = 1"):
        (tmp_path / "ham.toml").write_text(text)
        (tmp_path / "spam.toml").write_text("")
        with pytest.raises(ModelError, match="not a regression set"):
            regression.load(tmp_path)
    (tmp_path / "ham.toml").unlink()
    with pytest.raises(ModelError, match="No such file"):
        regression.load(tmp_path)


def test_what_a_site_did_not_teach_is_left_to_the_base(
    learner: Learner, examined: tuple[regression.Examined, ...]
) -> None:
    before = fixed_counts(learner, examined)
    outcome = learner.learn(labelled(300))
    assert outcome.learned > 500
    assert outcome.refused == 0
    after = fixed_counts(learner, examined)
    assert after[0] <= before[0] + 5
    assert after[1] <= before[1] + 5


@pytest.mark.parametrize("spam", [False, True])
def test_one_sided_teaching_is_refused_though_there_is_little_to_measure_with(
    learner: Learner, examined: tuple[regression.Examined, ...], *, spam: bool
) -> None:
    """Somebody labels a whole mailbox the wrong way: fewer than 500 messages, none kept aside."""
    learner.learn(labelled(20))
    live, before = learner.live(), fixed_counts(learner, examined)
    outcome = learner.learn(Labelled(raw, spam) for raw, is_spam in mail(400, first=1_000) if is_spam != spam)
    assert outcome.learned == 0
    assert outcome.refused == 400
    assert f"400 of 400 look very much like {'ham' if spam else 'spam'}" in outcome.reports[-1].why or (
        "of the regression set" in outcome.reports[-1].why
    )
    assert np.array_equal(learner.live()._state, live._state)
    assert fixed_counts(learner, examined) == before
    report = learner.promote(force=False)
    assert not report.passed
    assert report.fixed_ham > 70


def test_wrong_reports_of_one_person_change_no_figure(
    learner: Learner, examined: tuple[regression.Examined, ...]
) -> None:
    learner.learn(labelled(400))
    test = list(mail(100, first=9_000))
    samples = [learner._sample(Labelled(raw, spam), learner.learn(())) for raw, spam in test]

    def mistakes() -> int:
        return sum(
            (learner.live().score(learner.seen(sample)).grams > 0) != sample.spam
            for sample in samples
            if sample
        )

    assert mistakes() == 0
    before = fixed_counts(learner, examined)
    outcome = learner.learn(labelled(250, 2_000, wrong=True, origin="report", source="mallory@example.com"))
    assert outcome.learned == 0
    assert outcome.doubted + outcome.over_limit + outcome.refused == 500
    assert mistakes() == 0
    assert fixed_counts(learner, examined) == before


def test_a_doubted_report_is_believed_once_another_says_the_same(learner: Learner) -> None:
    learner.learn(labelled(400))
    wrong = next(labelled(1, 2_000, wrong=True))
    first, second = (
        Labelled(wrong.raw, wrong.spam, "report", f"{who}@example.com") for who in ("bob", "carol")
    )
    assert learner.learn([first]).doubted == 1
    assert learner.learn([first]).known == 1
    assert learner.samples.counts()[SampleState.DOUBTED, wrong.spam] == 1
    assert learner.learn([second]).learned == 1
    right = Labelled(wrong.raw, not wrong.spam)
    assert learner.learn([right]).corrected == 1
