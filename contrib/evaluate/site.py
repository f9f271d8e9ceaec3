# SPDX-License-Identifier: GPL-2.0-or-later
"""What a site's own teaching adds: TREC 2007 in its order of time, scored and learned.

Reads hostile mail through the parser, once; afterwards there are only buckets, logits and labels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contrib.evaluate import workers
from gateway.classifier.corpus import as_message
from gateway.classifier.evaluate import auc_loss, missed
from gateway.classifier.features import extract
from gateway.classifier.model import Model
from gateway.classifier.settings import ClassifierSettings
from gateway.classifier.site import Seen, SiteModel, blend, learned
from gateway.data import data_dir
from gateway.learning import Labelled, Learner
from gateway.mail.mime import parse
from gateway.store.database import StoreSettings, open_database
from gateway.store.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from gateway.classifier.corpus import Sample


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. Messages count from 0; the slice in between has wrong labels."""

    learn: int  # the site learns the first so many
    test: tuple[int, int]  # and is tested on these
    online: int
    bogofilter: int
    steps: tuple[int, ...]
    poison: int
    sample: int  # of each set, for other filters that have learned nothing
    seen: int  # new models, of which the one that workers see last counts


FULL = Plan(20_000, (25_000, 30_000), 30_000, 10_000, (50, 200, 1000, 5000), 10_000, 500, 10)
QUICK = Plan(2_000, (2_500, 3_500), 3_500, 300, (50, 200, 1000), 300, 60, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Trec:
    """TREC 2007 as read: files, labels, what the site model sees of them, and the cost of scoring."""

    paths: tuple[Path, ...]
    labels: NDArray[np.bool_]
    seen: tuple[Seen, ...]
    base: NDArray[np.float64]  # calibrated logits of the shipped model
    threshold: float
    milliseconds: float  # processor time to score one parsed message by both models


def read(samples: Iterable[Sample], directory: Path, plan: Plan, say: Callable[[str], None]) -> Trec:
    """Read what the plan needs, and score it with the shipped model."""
    model, local = Model.load(directory), SiteModel()
    paths, labels, seen, base = [], [], [], []
    spent = 0.0
    for number, sample in enumerate(samples):
        if number >= max(plan.online, plan.test[1]):
            break
        if number and number % 5000 == 0:
            say(f"  {number} messages")
        content = parse(sample.raw)
        started = time.process_time()
        score = model.score(content)
        spent += time.process_time() - started
        found = Seen.of(sample.raw, content, score.logit)
        paths.append(Path(sample.name))
        labels.append(bool(sample.spam))
        seen.append(found)
        base.append(score.logit)
        if number % 20 == 0:  # the site's part of a score, its features not read twice
            started = time.process_time()
            shape = extract(content).shape
            twice = time.process_time() - started
            started = time.process_time()
            local.score(Seen.of(sample.raw, content, score.logit))
            spent += 20 * max(time.process_time() - started - twice, 0.0) if shape else 0.0
    return Trec(
        tuple(paths),
        np.array(labels),
        tuple(seen),
        np.array(base),
        model.manifest.threshold,
        1000 * spent / len(labels),
    )


def replay(trec: Trec, count: int, say: Callable[[str], None] | None = None) -> NDArray[np.float64]:
    """Score each of the first messages and then learn it; give the scores."""
    model = SiteModel()
    scores = np.zeros(count)
    for index in range(count):
        if say and index and index % 10_000 == 0:
            say(f"  {index} messages")
        scores[index] = _score(model, trec, index)
        model.learn(trec.seen[index], spam=bool(trec.labels[index]))
    return scores


def online(trec: Trec, plan: Plan, say: Callable[[str], None]) -> dict[str, float]:
    """Each message scored and then learned, all of them counted."""
    say("online")
    started = time.process_time()
    scores = replay(trec, plan.online, say)
    spent = time.process_time() - started  # scoring too, so that this is no less than learning
    return {
        **_figures("online", trec.labels[: plan.online], scores, "fnr01"),
        "learn_ms": round(1000 * spent / plan.online, 3),
    }


def taught(trec: Trec, plan: Plan, base: Path, scratch: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Teach as a site does (`mailwarden model learn`), measuring on the way; at last with wrong reports.

    Copies, contradictions, the slice kept aside and the gate are all in these figures.
    """
    say("teaching as `model learn` does")
    database = open_database(StoreSettings(database=f"sqlite:///{scratch}/taught.db"))
    fixed = data_dir("models") / "regression"
    learner = Learner(
        Samples(database), ClassifierSettings(), Model.load(base), scratch / "taught.npy", fixed
    )
    figures: dict[str, float] = {}
    done, refused = 0, 0
    for step in (*plan.steps, plan.learn):
        paths, labels = trec.paths[done:step], trec.labels[done:step]
        honest = (Labelled(_raw(path), bool(spam)) for path, spam in zip(paths, labels, strict=True))
        refused += learner.learn(honest).refused
        done = step
        labels, scores = _tested(learner.live(), trec, plan)
        say(f"  after {step}: {auc_loss(scores[~labels], scores[labels]):.4f} %")
        if step != plan.learn:
            figures[f"adapt_{step}"] = round(auc_loss(scores[~labels], scores[labels]), 4)
    figures |= _figures("site", labels, scores, "fnr01")
    say(f"{plan.poison} poisoned reports")
    wrong = (Labelled(_raw(path), spam, "report", "mallory@example.com") for path, spam in poison(trec, plan))
    outcome = learner.learn(wrong)
    figures |= _figures("poisoned", *_tested(learner.live(), trec, plan), "fnr01")
    say("how soon workers see it")
    paths, labels = trec.paths[done : plan.test[0]], trec.labels[done : plan.test[0]]
    honest = (Labelled(_raw(path), bool(spam)) for path, spam in zip(paths, labels, strict=True))
    whole, after = workers.longest(learner, honest, plan.seen)
    figures |= {"learned_and_seen_s": round(whole, 3), "seen_s": round(after, 3)}
    database.close()
    return {**figures, "poisoned_learned": outcome.learned, "site_refused": refused}


def _tested(model: SiteModel, trec: Trec, plan: Plan) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    chosen = range(*plan.test)
    return trec.labels[plan.test[0] : plan.test[1]], np.array([_score(model, trec, i) for i in chosen])


def _score(model: SiteModel, trec: Trec, index: int) -> float:
    seen = trec.seen[index]
    count = learned(model.ham, model.spam)
    return blend(count, model.score(seen), seen.base) if count else seen.base


def _figures(
    name: str, labels: NDArray[np.bool_], scores: NDArray[np.float64], missed_name: str
) -> dict[str, float]:
    ham, spam = scores[~labels], scores[labels]
    return {
        f"{name}_1mauc": round(auc_loss(ham, spam), 5),
        f"{name}_{missed_name}": round(missed(ham, spam, 0.001), 3),
    }


def poison(trec: Trec, plan: Plan) -> Iterator[tuple[Path, bool]]:
    """Give wrong reports about mail of the tested time, as one hostile source would send them."""
    for number in range(plan.poison):
        index = plan.learn + number % (plan.test[0] - plan.learn)
        yield trec.paths[index], not trec.labels[index]


def _raw(path: Path) -> bytes:
    return as_message(path.read_bytes())
