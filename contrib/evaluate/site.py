# SPDX-License-Identifier: GPL-2.0-or-later
"""What a site's own teaching adds: TREC 2007 in its order of time, scored and learned.

Reads hostile mail through the parser, once; afterwards there are only buckets, logits and labels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gateway.classifier.corpus import as_message
from gateway.classifier.evaluate import auc_loss, missed
from gateway.classifier.features import extract
from gateway.classifier.model import Model
from gateway.classifier.settings import ClassifierSettings
from gateway.classifier.site import Seen, SiteModel, blend, buckets, learned
from gateway.classifier.stored import as_received
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


FULL = Plan(20_000, (25_000, 30_000), 30_000, 10_000, (50, 200, 1000, 5000), 10_000, 500)
QUICK = Plan(2_000, (2_500, 3_500), 3_500, 300, (50, 200, 1000), 300, 60)


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
    return _figures("online", trec.labels[: plan.online], replay(trec, plan.online, say), "fnr01")


def adaptation(trec: Trec, plan: Plan, say: Callable[[str], None]) -> dict[str, float]:
    """The same test after more and more local messages; the last is the site's own figure."""
    say("adaptation")
    model = SiteModel()
    figures: dict[str, float] = {}
    spent, done = 0.0, 0
    for step in (*plan.steps, plan.learn):
        started = time.process_time()
        for index in range(done, step):
            model.learn(trec.seen[index], spam=bool(trec.labels[index]))
        spent += time.process_time() - started
        done = step
        labels, scores = _tested(model, trec, plan)
        if step == plan.learn:
            figures |= _figures("site", labels, scores, "fnr01")
        else:
            figures[f"adapt_{step}"] = round(auc_loss(scores[~labels], scores[labels]), 4)
        say(f"  after {step}: {auc_loss(scores[~labels], scores[labels]):.4f} %")
    figures["learn_ms"] = round(1000 * spent / plan.learn, 3)
    return figures


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


def poisoned(
    trec: Trec, plan: Plan, base: Path, scratch: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """Teach by the product's own path, once with and once without wrong reports from one source."""
    say(f"{plan.poison} poisoned reports")
    settings = ClassifierSettings()
    database = open_database(StoreSettings(database=f"sqlite:///{scratch}/poison.db"))
    learner = Learner(Samples(database), settings, Model.load(base), scratch / "poison.npy")
    tested = _as_received(trec, plan)
    honest = (Labelled(_raw(path), bool(spam)) for path, spam in _first(trec, plan.learn))
    started = time.monotonic()
    taught = learner.learn(honest)
    say(f"  {taught.learned} learned, {taught.known} known, in {time.monotonic() - started:.0f} s")
    before = _tested(learner.live(), tested, plan)
    wrong = (Labelled(_raw(path), spam, "report", "mallory@example.com") for path, spam in poison(trec, plan))
    outcome = learner.learn(wrong)
    after = _tested(learner.live(), tested, plan)
    database.close()
    return {
        **_figures("taught", *before, "fnr01"),
        **_figures("poisoned", *after, "fnr01"),
        "poisoned_learned": outcome.learned,
    }


def _raw(path: Path) -> bytes:
    return as_message(path.read_bytes())


def _as_received(trec: Trec, plan: Plan) -> Trec:
    """Look at the tested messages as the gateway would have received them."""
    seen = list(trec.seen)
    for index in range(*plan.test):
        seen[index] = replace(seen[index], grams=buckets(as_received(_raw(trec.paths[index]))))
    return replace(trec, seen=tuple(seen))


def _first(trec: Trec, count: int) -> Iterator[tuple[Path, bool]]:
    yield from zip(trec.paths[:count], trec.labels[:count], strict=True)
