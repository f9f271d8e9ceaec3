# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the classifier by one fixed protocol, and write build/evaluate.json (`make evaluate`).

    python -m contrib.evaluate --corpus ../shared/corpus

Percentages are numbers: 1.5 means 1.5 %. Each set is reported by itself, none are pooled:

- online: TREC 1 to 30,000, each scored and then learned by the models alone; bogofilter does the same
  on 1 to 10,000;
- site: what a site has after its first 20,000 messages of TREC 2007, on messages 25,001 to 30,000, taught as
  `mailwarden model learn` does: with copies left out, a slice kept aside, and the gate;
- adapt_N: on the way there, after the first N messages;
- cold: the shipped model, nothing learned; leave-one-corpus-out and Enron train anew as it was
  trained, without the set that is measured;
- poisoned: that site after 10,000 more reports, wrong ones, from one source;
- learned_and_seen_s: the longest of ten times from teaching that site one message until four processes have
  the new model; seen_s: the same from the end of that teaching.

Figures are written after each part. `--part` measures some of them and leaves the other figures of the
file as they are: it names the model of each part, so that one of another model is not taken for this one's.

`--quick` does the same on a small part, and writes build/evaluate-quick.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from contrib.evaluate import cold, peers, site
from contrib.figures import write_figures, written_to
from contrib.train import collections
from gateway.classifier.evaluate import auc_loss
from gateway.classifier.model import Model
from gateway.data import data_dir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Sets = dict[str, tuple[NDArray[np.bool_], NDArray[np.float64], list[bytes]]]


PARTS = ("site", "cold", "bogofilter", "untrained")


def main() -> None:
    """Run the protocol."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--model", type=Path, default=data_dir("models") / "base", help="folder of the model")
    parser.add_argument("--quick", action="store_true", help="a small part of everything")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    parser.add_argument(
        "--no-peers", dest="part", action="store_const", const=["site", "cold"], help="no other filters"
    )
    options = parser.parse_args()
    name = "evaluate-quick" if options.quick else "evaluate"
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="mailwarden-evaluate-") as scratch:
        run = _Run(options, Path(scratch), site.QUICK if options.quick else site.FULL, name)
        for part in options.part or PARTS:
            run.keep(part, getattr(run, f"measure_{part}")())
    width = max(map(len, run.figures))
    for key, value in run.figures.items():
        print(f"{key:{width}}  {value}")


def _earlier(name: str) -> dict[str, float | str]:
    path = written_to(name)
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


@dataclass(slots=True)
class _Run:
    """What the parts share: TREC 2007 as read, and the scores of what was left out of training."""

    options: argparse.Namespace
    scratch: Path
    plan: site.Plan
    name: str
    figures: dict[str, float | str] = field(default_factory=dict)
    _trec: site.Trec | None = None
    _left_out: tuple[dict[str, float], cold.Scored] | None = None

    def keep(self, part: str, found: dict[str, float]) -> None:
        """Write the figures of a part at once, beside those that are there."""
        version = Model.load(self.options.model).version
        self.figures = {**_earlier(self.name), **found, f"model_of_{part}": version}
        say(f"written to {write_figures(self.name, self.figures)}")

    def trec(self) -> site.Trec:
        """Read it, once."""
        if self._trec is None:
            say("reading and scoring TREC 2007")
            mail = collections.trec(self.options.corpus, self.scratch)
            self._trec = site.read(mail, self.options.model, self.plan, say)
        return self._trec

    def left_out(self) -> tuple[dict[str, float], cold.Scored]:
        """Train without each collection, once."""
        if self._left_out is None:
            say("training without each collection in turn")
            self._left_out = cold.left_out(self.options.corpus, self.scratch, say)
        return self._left_out

    def measure_site(self) -> dict[str, float]:
        """Both models on one site's mail, its cost included."""
        size = sum(file.stat().st_size for file in self.options.model.iterdir())
        figures = {"artefact_mb": round(size / 1e6, 3), "score_ms": round(self.trec().milliseconds, 3)}
        figures |= site.online(self.trec(), self.plan, say)
        return figures | site.taught(self.trec(), self.plan, self.options.model, self.scratch, say)

    def measure_cold(self) -> dict[str, float]:
        """Nothing learned."""
        figures = cold.trec(self.trec(), self.plan)
        if not self.options.quick:
            figures |= self.left_out()[0]
        return figures | cold.indonesian(self.options.corpus, self.options.model)

    def measure_bogofilter(self) -> dict[str, float]:
        """Another filter that learns."""
        return _bogofilter(self.trec(), self.plan, self.scratch)

    def measure_untrained(self) -> dict[str, float]:
        """Other filters that learned nothing."""
        scored = cold.of_trec(self.trec(), self.plan)
        if not self.options.quick:
            scored |= self.left_out()[1]
        return _untrained(cold.sample(scored, self.plan.sample), self.scratch)


def _bogofilter(trec: site.Trec, plan: site.Plan, scratch: Path) -> dict[str, float]:
    say("bogofilter, online")
    other = peers.Bogofilter(scratch / "bogofilter")
    scores = np.zeros(plan.bogofilter)
    for index in range(plan.bogofilter):
        raw = trec.paths[index].read_bytes()
        scores[index] = other.score(raw)
        other.learn(raw, spam=bool(trec.labels[index]))
        if index and index % 2_000 == 0:
            say(f"  {index} messages")
    labels = trec.labels[: plan.bogofilter]
    ours = site.replay(trec, plan.bogofilter)
    return {
        "bogofilter_online_1mauc": _auc(labels, scores),
        "online_10000_1mauc": _auc(labels, ours),
    }


def _untrained(sets: Sets, scratch: Path) -> dict[str, float]:
    """Compare 1−AUC without any learning, on samples of each set with both labels."""
    figures = {}
    others = {"spamassassin": peers.spamassassin, "rspamd": peers.rspamd}
    for name, (labels, ours, messages) in sets.items():
        figures[f"untrained_{name}_1mauc"] = _auc(labels, ours)
        for other, scorer in others.items():
            say(f"{other}, untrained, on {len(messages)} messages of {name}")
            scores = np.array(list(scorer(scratch / f"{other}-{name}", messages)))
            figures[f"untrained_{name}_{other}_1mauc"] = _auc(labels, scores)
    return figures


def _auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    return round(auc_loss(scores[~labels], scores[labels]), 4)


_STARTED = time.monotonic()


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.monotonic() - _STARTED:6.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
