# SPDX-License-Identifier: GPL-2.0-or-later
"""The public collections of mail that the base model is trained on and measured with.

Unpacks archives of hostile mail into a scratch folder that the caller names, with tarfile's "data"
filter; nothing in them is rendered or run.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.classifier import corpus, train
from gateway.mail.mime import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of one kind of mail in an archive."""

    archive: str
    corpus: str
    folder: str
    spam: bool


TERMS = {
    "spamassassin": "SpamAssassin public corpus, 2002-2003; copyright stays with the senders",
    "lists": "public mailing-list archives, 2019-2021; copyright stays with the senders",
    "csdmc": "CSDMC 2010 spam corpus, free for research; copyright stays with the senders",
    "enron": "Enron-Spam 1-4, preprocessed; the mail became public by order of a court",
}
PARTS = (
    *(
        Part("spamassassin", "spamassassin", f"spamassassin/{f}", False)
        for f in ("easy_ham", "easy_ham_2", "hard_ham")
    ),
    *(Part("spamassassin", "spamassassin", f"spamassassin/{f}", True) for f in ("spam", "spam_2")),
    Part("lists-2019-2021", "lists", "modern_lists_2019_2021/ham", False),
    Part("lists-2019-2021", "lists", "modern_lists_2019_2021/spam", True),
    Part("csdmc2010", "csdmc", "csdmc2010_nonSA/ham", False),
    Part("csdmc2010", "csdmc", "csdmc2010_nonSA/spam", True),
    *(
        Part("enron1-4_preprocessed", "enron", f"enron{n}/{kind}", kind == "spam")
        for n in (1, 2, 3, 4)
        for kind in ("ham", "spam")
    ),
)
TREC = "trec07p_1_30000"
TREC_FROM = 25_000  # lines of its index that are left out; some of the labels before are wrong
INDONESIAN = "indonesian-a.csv"


def examples(folder: Path, scratch: Path) -> Iterator[train.Example]:
    """Read all that may be trained on, from the archives in `folder`."""
    for archive in dict.fromkeys(part.archive for part in PARTS):
        unpack(folder / f"{archive}.tar.xz", scratch)
        print(f"reading {archive}", flush=True)
        for part in PARTS:
            if part.archive == archive:
                for sample in corpus.read(scratch / part.folder):
                    yield train.example(sample.name, part.corpus, part.spam, parse(sample.raw))


def unpack(archive: Path, scratch: Path) -> None:
    """Unpack one archive."""
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")


def trec(folder: Path, scratch: Path) -> Iterator[corpus.Sample]:
    """Read TREC 2007, in order of time; it is for evaluation only."""
    unpack(folder / f"{TREC}.tar.xz", scratch)
    return corpus.read_index(scratch / TREC / "index")
