# SPDX-License-Identifier: GPL-2.0-or-later
"""Training: serving gives the scores of the trained pipeline, the same mail gives the same bytes."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway.classifier import artefact, evaluate, train
from gateway.classifier.features import key
from gateway.classifier.model import Model, ModelError
from gateway.mail.mime import parse

HAM = ["meeting", "agenda", "report", "thanks", "budget", "review", "patch", "kernel", "schedule", "project"]
SPAM = ["viagra", "winner", "free", "money", "click", "offer", "pills", "lottery", "cheap", "order"]
COMMON = ["the", "and", "you", "with", "this", "for", "from", "have", "please", "will"]


def messages(corpus: str, count: int = 30, seed: int = 1) -> Iterator[tuple[bool, bytes]]:
    chance = random.Random(f"{corpus}{seed}")
    for number in range(count):
        spam = number % 3 == 0
        words = chance.choices(SPAM if spam else HAM, k=6) + chance.choices(COMMON, k=8) + [corpus]
        chance.shuffle(words)
        sender = "x1@example.net" if spam else "ann@example.com"
        head = f"From: Ann <{sender}>\r\nTo: b@example.com\r\nSubject: {words[0]} {words[1]}\r\n\r\n"
        yield spam, f"{head}{' '.join(words)}\r\n".encode()


def examples() -> list[train.Example]:
    return [
        train.example(f"{corpus}-{n}", corpus, spam, parse(raw))
        for corpus in ("alpha", "beta", "gamma")
        for n, (spam, raw) in enumerate(messages(corpus))
    ]


def save(
    folder: Path, date: str = "2026-01-01"
) -> tuple[list[train.Example], train.Trained, train.Calibration]:
    found = examples()
    parts = [part for _, part in train.cross_validate(found)]
    calibration = train.calibrate(parts)
    trained = train.train(found)
    scoring = {"bias": train.BIAS, "low": train.LOW, "high": train.HIGH, "least": train.LEAST}
    sources = [artefact.Source("alpha", 20, 10)]
    artefact.save(folder, trained, calibration, sources, name="test", date=date, scoring=scoring)
    return found, trained, calibration


def test_serving_scores_as_training_does(tmp_path: Path) -> None:
    found, trained, calibration = save(tmp_path / "m")
    model = Model.load(tmp_path / "m")
    expected = calibration.logits(trained.raw(found))
    given = [
        model.score(parse(raw)).logit for corpus in ("alpha", "beta", "gamma") for _, raw in messages(corpus)
    ]
    assert np.allclose(given, expected, atol=1e-6)


def test_pipeline_and_stored_weights_agree() -> None:
    found = examples()
    labels = np.array([one.spam for one in found])
    line = train.pipeline("all")
    line.fit(found, labels, classify__sample_weight=train.balance(found))
    both = line.decision_function(found)
    line = train.pipeline("grams")
    line.fit(found, labels, classify__sample_weight=train.balance(found))
    both += train.GRAMS * (line.decision_function(found) - train.BIAS)
    assert np.allclose(both, train.train(found).raw(found).whole, atol=1e-2)  # halves are rounded twice


def test_same_mail_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a")
    save(tmp_path / "b")
    for name in ("keys.npy", "weights.npy", "known.npy", "grams.npy", "manifest.toml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_only_features_of_two_collections_are_kept() -> None:
    keys = train.Vocabulary("all").fit(examples()).keys_
    assert key("w:meeting") in keys
    assert key("w:alpha") not in keys


def test_it_generalises_to_a_collection_left_out() -> None:
    parts = dict(train.cross_validate(examples()))
    assert set(parts) == {"alpha", "beta", "gamma"}
    for part in parts.values():
        assert evaluate.auc_loss(part.raw.whole[~part.labels], part.raw.whole[part.labels]) < 1


def test_collections_and_kinds_weigh_the_same() -> None:
    found = examples() + [one for one in examples() if one.corpus == "alpha"]
    weights = train.balance(found)
    total = {
        c: sum(w for w, e in zip(weights, found, strict=True) if e.corpus == c) for c in ("alpha", "beta")
    }
    spam = sum(w for w, e in zip(weights, found, strict=True) if e.spam)
    assert total["alpha"] == pytest.approx(total["beta"])
    assert spam == pytest.approx(weights.sum() / 2)


def test_copies_count_once() -> None:
    assert len(list(train.distinct(examples() + examples()))) == len(list(train.distinct(examples())))


def test_one_kind_of_mail_is_not_enough() -> None:
    with pytest.raises(train.TrainingError, match="both ham and spam"):
        train.train([one for one in examples() if one.spam])
    with pytest.raises(train.TrainingError, match="at least five"):
        list(train.cross_validate([one for one in examples() if one.corpus == "alpha"][:6]))


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ModelError, match="not empty"):
        save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_figures() -> None:
    labels = np.array([False] * 100 + [True] * 4)
    probabilities = np.concatenate([np.linspace(0, 0.99, 100), [0.995, 1.0, 0.985, 0.2]])
    found = evaluate.evaluate(labels, probabilities, 0.97)
    assert found.auc_loss == pytest.approx(100 * (1 + 79.5) / 400, abs=0.2)
    assert found.missed_01 == 50
    assert found.missed_1 == 25
    assert found.false_positives == 3
    assert found.missed == 25
    assert sum(b.count for b in found.bins) == 104
    assert evaluate.evaluate(labels[:100], probabilities[:100], 0.5).auc_loss is None
