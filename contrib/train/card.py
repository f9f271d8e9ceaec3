# SPDX-License-Identifier: GPL-2.0-or-later
"""The model card: what the base model was made of, how good it is, and where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.classifier.artefact import Source
    from gateway.classifier.evaluate import Evaluation
    from gateway.classifier.train import Calibration


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on one set, and how the set was kept apart."""

    measured: Evaluation
    how: str


_HEAD = """# Base model

A linear spam classifier that ships with Mailwarden, for a site that has taught nothing yet. It
gives a calibrated probability of spam; policy turns that into points. On its own it must not
reject mail: it has seen public collections, never yours.

- Date: {date}
- Features: {count}, each a hash of a word, a word pair of the subject, or a trait of addresses,
  links and proportions; and grams of five octets of running text, hashed to 262144 buckets, with a
  quarter of the say; weights in half precision
- Made by: `python -m contrib.train --corpus FOLDER --out models/base`
- Shipped threshold: probability {threshold:.4f}, set for 0.5 % of ham called spam in collections
  that the scoring model had not seen

## Data

Texts are not part of the model: a feature is kept only if it is in at least two messages of each
of two collections, and only its hash and weight are kept.

| collection | ham | spam | terms |
|---|---|---|---|
{sources}

Copies of the same text count once. Left out because only a collection or a list knows them: list
fields, threading, trace fields, results of other filters, dates, recipients, subject tags. Of the
Message-ID no more is read than whether it names the sender's site. TREC 2007 is for evaluation only and
had no part in weights, calibration or threshold.

## Figures, per set

Percent. "Missed" is spam not recognised while the named share of ham is called spam; the last two
columns are at the shipped threshold. Which groups of features to keep was chosen with all these
figures in sight, so they are a little better than those of mail that nobody has measured yet.

| set | kept apart by | ham | spam | 1-AUC | missed at 0.1 % | missed at 1 % | ham called spam | spam missed |
|---|---|---|---|---|---|---|---|---|
{figures}

## Known failures

- English only. Of text in other languages it knows few words, so it goes over to judging shape
  (addresses, links, proportions) and says so by a low share of known words. Spam in other
  languages is then mostly missed.
- Newsletters, advertisements that somebody asked for and shop mail look like spam to it; only
  what a site teaches mends that.
- Collections end in 2021, and most of the mail is from 2000 to 2010. Modern phishing in the style
  of a service's own notices is recognised less well.
- Notices of shops, banks and services come out uncertain. Of the 74 invented wanted messages in
  `models/regression`, two get 0.9 or more (a bank's "your statement is ready" 0.99, its one-time
  passcode 0.91), and some 0.8 to 0.9, a sign-in code among them; of the 37 unwanted ones, three get less.
- A message of one line and no link may get any probability; the gateway takes that of spam back
  in proportion to the known words (no more than "Hello" in subject and text: from 0.96 to 0.65).
- Messages that are pictures only, or empty, are judged by shape alone, and come out uncertain.
- Random text around an advertisement, or an advertisement in a picture, is often missed: pictures
  are not read.
- Text from Enron is lower case and has no header, so it taught nothing about capitals or senders.

## Use

Points and a reason among others. Not for judging people, nor as the only ground to destroy mail.
"""


def card(
    date: str,
    count: int,
    calibration: Calibration,
    sources: Iterable[Source],
    figures: Mapping[str, Figures],
) -> str:
    """Write the card in Markdown."""
    return _HEAD.format(
        date=date,
        count=count,
        threshold=calibration.threshold,
        sources="\n".join(f"| {s.name} | {s.ham} | {s.spam} | {s.terms} |" for s in sources),
        figures="\n".join(_row(name, f) for name, f in figures.items()),
    )


def _row(name: str, figures: Figures) -> str:
    m = figures.measured
    numbers = (m.auc_loss, m.missed_01, m.missed_1, m.false_positives, m.missed)
    cells = ["" if number is None else f"{number:.2f}" for number in numbers]
    return f"| {name} | {figures.how} | {m.ham} | {m.spam} | " + " | ".join(cells) + " |"
