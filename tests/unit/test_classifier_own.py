# SPDX-License-Identifier: GPL-2.0-or-later
"""Models of single domains or recipients: what they add, for whom, and what they cost and weigh."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.classifier import own
from gateway.classifier.mapping import ModelError
from gateway.classifier.model import Classifier, Model
from gateway.classifier.own import OwnModels, make, owner_of
from gateway.classifier.settings import OWN_FILE, ClassifierSettings
from gateway.classifier.site import Seen
from gateway.data import data_dir
from gateway.feedback.owners import make_models
from gateway.learning import Labelled, Learner
from gateway.mail.mime import parse
from gateway.store.samples import Samples
from tests.teaching import mail, message

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store.database import Database

WANTS, REPORTS = ("ann@wants.example",), ("bob@reports.example",)


def newsletter(number: int) -> bytes:
    """A mailing that one domain wants and another reports."""
    chance = random.Random(number)
    words = " ".join("".join(chance.choices("bcdfghklmnprst", k=6)) for _ in range(15))
    return (
        f"From: Weekly Garden <news@garden.example>\r\nTo: list@example.com\r\nSubject: Weekly {number}"
        f"\r\n\r\nThis week in the garden: roses, tulips, offers and more. {words}\r\n"
    ).encode()


@pytest.fixture(params=["domain", "recipient"])
def taught(tmp_path: Path, database: Database, request: pytest.FixtureRequest) -> tuple[Learner, Classifier]:
    """A site with much mail of its own, and two owners who do not agree."""
    settings = ClassifierSettings(per=request.param, site=str(tmp_path / "site-model.npy"))
    base = Model.load(data_dir("models") / "base")
    learner = Learner(Samples(database), settings, base, tmp_path / "site-model.npy")
    learner.learn(mail(40))
    for number in range(12):
        wanted, reported = newsletter(number), newsletter(1_000 + number)
        learner.learn(
            [Labelled(wanted, False, recipients=WANTS), Labelled(reported, True, recipients=REPORTS)]
        )
    make_models(learner)
    classifier = Classifier.open(settings, data_dir("models"), tmp_path)
    assert classifier is not None
    return learner, classifier


def logit(classifier: Classifier, raw: bytes, *recipients: str) -> float:
    score = classifier.score(raw, parse(raw), recipients=recipients)
    assert score is not None
    return score.logit


def test_owners_who_do_not_agree_both_get_what_they_want(taught: tuple[Learner, Classifier]) -> None:
    _, classifier = taught
    right = 0
    for number in range(2_000, 2_030):
        raw = newsletter(number)
        alone = logit(classifier, raw)
        right += logit(classifier, raw, *WANTS) < 0 < logit(classifier, raw, *REPORTS)
        assert logit(classifier, raw, *WANTS, *REPORTS) == alone
        assert logit(classifier, raw, "carol@elsewhere.example") == alone
    assert right >= 28
    for number in range(100, 120):  # other mail is judged as before
        for spam in (False, True):
            raw = message(number, spam=spam)
            assert (logit(classifier, raw, *WANTS) > 0) == (logit(classifier, raw) > 0)


def test_what_an_owner_adds_is_said_and_exact(taught: tuple[Learner, Classifier]) -> None:
    _, classifier = taught
    raw = newsletter(3_000)
    without = classifier.score(raw, parse(raw))
    score = classifier.score(raw, parse(raw), recipients=WANTS)
    assert score is not None
    assert without is not None
    [(name, added)] = [one for one in score.reasons if "wants.example taught in" in one[0]]
    assert "12 messages" in name
    assert score.logit == pytest.approx(without.logit + added, abs=1e-6)
    assert score.acting == pytest.approx(without.acting + added, abs=1e-6)
    assert classifier.version.endswith("+own-2")


def test_what_is_forgotten_is_forgotten_by_owners_too(taught: tuple[Learner, Classifier]) -> None:
    learner, classifier = taught
    for number in range(12):
        learner.forget(newsletter(number))
    assert not learner.path.with_name(OWN_FILE).exists()
    assert len(make_models(learner)) < 2
    time.sleep(0.3)
    raw = newsletter(3_000)
    assert logit(classifier, raw, *WANTS) == logit(classifier, raw)


@pytest.mark.parametrize(
    ("recipients", "domain", "recipient"),
    [
        (("Ann@Example.COM",), "example.com", "ann@example.com"),
        (("ann@example.com", "bob@example.com"), "example.com", ""),
        (("ann@example.com", "ann@example.net"), "", ""),
        ((), "", ""),
        (("postmaster",), "", ""),
        (("",), "", ""),
    ],
)
def test_whose_mail_it_is(recipients: tuple[str, ...], domain: str, recipient: str) -> None:
    assert owner_of(recipients, "domain") == domain
    assert owner_of(recipients, "recipient") == recipient
    assert owner_of(recipients, "site") == ""


def seen(number: int) -> Seen:
    raw = newsletter(number)
    return Seen.of(raw, parse(raw), 0.0)


def test_number_and_size_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "MOST", 5)
    samples = [(seen(n), 0.0, bool(n % 2)) for n in range(4)]
    made = make((f"{n}.example", samples) for n in range(50))
    assert len(made) == 5
    assert len(make([("few.example", samples[:2])])) == 0
    made.save(tmp_path / "own.npy")
    assert (tmp_path / "own.npy").stat().st_size < 5 * 140_000
    loaded = OwnModels.load(tmp_path / "own.npy")
    assert loaded.score("3.example", seen(9)) == made.score("3.example", seen(9))
    assert loaded.score("none.example", seen(9)) is None
    make(()).save(tmp_path / "empty.npy")
    assert len(OwnModels.load(tmp_path / "empty.npy")) == 0


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npy"
    for table in (
        np.zeros((2, 10), np.float32),
        np.full((1, 8 + own.BUCKETS), np.nan, np.float32),
        np.zeros((1, 8 + own.BUCKETS), np.float32),
    ):
        np.save(path, table)
        with pytest.raises(ModelError):
            OwnModels.load(path)
    path.write_bytes(os.urandom(1_000))
    with pytest.raises(ModelError):
        OwnModels.load(path)


def test_it_costs_next_to_nothing(taught: tuple[Learner, Classifier]) -> None:
    """The bar is 2 ms for all models together; this is generous, for machines with other work."""
    _, classifier = taught
    raw = newsletter(5)
    content = parse(raw)
    times = []
    for _ in range(50):
        started = time.process_time()
        classifier.score(raw, content, recipients=WANTS)
        times.append(time.process_time() - started)
    assert sorted(times)[25] < 0.01
