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
- poisoned: that site after 10,000 more reports, wrong ones, from one source.

`--quick` does the same on a small part, and writes build/evaluate-quick.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from contrib.evaluate import cold, peers, site
from contrib.figures import write_figures
from contrib.train import collections
from gateway.classifier.evaluate import auc_loss
from gateway.data import data_dir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Sets = dict[str, tuple[NDArray[np.bool_], NDArray[np.float64], list[bytes]]]


def main() -> None:
    """Run the protocol."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--model", type=Path, default=data_dir("models") / "base", help="folder of the model")
    parser.add_argument("--quick", action="store_true", help="a small part of everything")
    parser.add_argument("--no-peers", action="store_true", help="leave the other filters out")
    options = parser.parse_args()
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="mailwarden-evaluate-") as scratch:
        figures = _run(options, Path(scratch))
    path = write_figures("evaluate-quick" if options.quick else "evaluate", figures)
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value}")
    say(f"written to {path}")


def _run(options: argparse.Namespace, scratch: Path) -> dict[str, float]:
    plan = site.QUICK if options.quick else site.FULL
    size = sum(file.stat().st_size for file in options.model.iterdir())
    figures: dict[str, float] = {"artefact_mb": round(size / 1e6, 3)}
    say("reading and scoring TREC 2007")
    trec = site.read(collections.trec(options.corpus, scratch), options.model, plan, say)
    figures["score_ms"] = round(trec.milliseconds, 3)
    figures |= cold.trec(trec, plan)
    figures |= site.online(trec, plan, say)
    figures |= site.taught(trec, plan, options.model, scratch, say)
    scored = cold.of_trec(trec, plan)
    if not options.quick:
        say("training without each collection in turn")
        found, others = cold.left_out(options.corpus, scratch, say)
        figures |= found
        scored |= others
    figures |= cold.indonesian(options.corpus, options.model)
    if not options.no_peers:
        figures |= _bogofilter(trec, plan, scratch)
        figures |= _untrained(cold.sample(scored, plan.sample), scratch)
    return figures


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
