# SPDX-License-Identifier: GPL-2.0-or-later
"""How a site teaches its classifier: labelled mail in, a better model out, or a report why not.

Reads hostile mail that people labelled; labels come from strangers too, so that a source has a
daily limit and cannot contradict others, and a new model that is worse is not used. One process writes at
a time (a lock file beside the model); readers see whole versions, since the file is replaced. The
samples are committed before the model is saved: a crash in between is mended by the next run,
because the model knows the number of the last sample that it is made of.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.classifier import gate, regression, stored
from gateway.classifier.features import FEATURE_VERSION, extract
from gateway.classifier.mapping import ModelError
from gateway.classifier.order import one_sided, spread
from gateway.classifier.own import owner_of
from gateway.classifier.settings import OWN_FILE
from gateway.classifier.site import (
    BUCKETS,
    READ,
    SHAPES,
    Seen,
    SiteFile,
    SiteModel,
    acting,
    buckets,
    in_use,
    learned,
    shapes,
)
from gateway.mail.headers import printable
from gateway.mail.mime import parse
from gateway.store.database import StoreError
from gateway.store.quota import Quota
from gateway.store.samples import OPERATOR, RANK, Fresh, Sample, Samples, SampleState, overrules
from gateway.store.writer import only_writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from gateway.classifier.features import Features
    from gateway.classifier.model import Model
    from gateway.classifier.settings import ClassifierSettings

BATCH: Final = 1_000  # messages that one new model is made of and judged by
COPIES: Final = 20  # nearly identical messages that are learned: one campaign comes from many hosts
ASIDE_FROM: Final = 500  # learned messages from which every tenth is kept aside
_ASIDE: Final = 26  # of 256
MEASURED: Final = 1_000  # samples kept aside that a model is measured with, the newest
_ROLL: Final = 250  # older ones that are learned at once: the model is made anew for them
_NOTE: Final = "samples_version"
_SEEN: Final = f"{FEATURE_VERSION}.{BUCKETS}.{SHAPES}.{READ}"  # which features samples have
_GROUNDED: Final = 500  # learned messages from which the site's model may doubt a label
_CERTAIN: Final = 4.0  # logit of grams, the other way, from which it does


@dataclass(frozen=True, slots=True)
class Labelled:
    """A message somebody labelled: as stored, what it is, from which kind of place, and who said so.

    `client` is what `gateway.classifier.stored.trace` gives, where the message itself does not tell it.
    """

    raw: bytes
    spam: bool
    origin: str = OPERATOR
    source: str = ""
    client: bytes = b""
    recipients: tuple[str, ...] = ()  # whose mail it is


@dataclass(slots=True)
class Outcome:
    """What became of labelled messages, counted; `reports` are of the models that were measured."""

    learned: int = 0
    aside: int = 0
    known: int = 0
    corrected: int = 0
    disputed: int = 0
    contradicting: int = 0
    doubted: int = 0
    over_limit: int = 0
    unfit: int = 0
    refused: int = 0
    waiting: int = 0
    reports: list[gate.Report] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Add the counts and reports of another."""
        for name in asdict(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def told(self) -> dict[str, int]:
        """Give the counts, those left out that are 0."""
        counts = asdict(self)
        del counts["reports"]
        return {name: n for name, n in counts.items() if n or name == "learned"}


class Learner:
    """Teaches the site model in `path` from samples in the store. Raises StoreError, ModelError, OSError."""

    def __init__(
        self,
        samples: Samples,
        settings: ClassifierSettings,
        base: Model | None,
        path: Path,
        fixed: Path | None = None,
    ) -> None:
        """Teach the model in `path`; `fixed` is the folder of the regression set, which needs a `base`."""
        self.samples = samples
        self._fixed = fixed
        self._examined: tuple[regression.Examined, ...] | None = None
        self._settings = settings
        self._base = base
        self.path = path
        self._file = SiteFile(path)
        self.candidate = path.with_name(path.name + ".candidate")
        self.previous = path.with_name(path.name + ".previous")

    def learn(self, messages: Iterable[Labelled]) -> Outcome:
        """Learn messages in batches, each behind the gate."""
        outcome = Outcome()
        waiting = iter(messages)
        while batch := list(islice(waiting, BATCH)):
            with self._writing():
                self._learn(batch, outcome)
        return outcome

    def receive(
        self,
        messages: Iterable[Labelled],
        limit: int | None = None,
        note: tuple[str, str] | None = None,
    ) -> Outcome:
        """Keep labelled messages, on disk when this returns, for `take_in`; the model is not touched.

        `limit` is how many of one source there may be in a day, if not what the settings say. `note`
        is kept in the same transaction, see `Samples.add`.
        """
        outcome = Outcome()
        quota = Quota(self.samples, self._settings)
        samples = []
        for message in messages:
            sample = self._sample(message, outcome)
            if sample is None:
                continue
            if quota.takes(sample, limit):
                samples.append(replace(sample, state=SampleState.WAITING))
            else:
                outcome.over_limit += 1
        self.samples.add(samples, note)
        outcome.waiting = len(samples)
        return outcome

    def room(self, source: str, limit: int) -> int:
        """How many more labels of a source may be received today, `limit` being its own for a day."""
        return Quota(self.samples, self._settings).room(source, limit)

    def take_in(self) -> Outcome | None:
        """Learn what `receive` kept, behind the gate; None if there was nothing.

        Where the gate refuses them, each source is looked at alone, so that none has the others' refused.
        Their limits were looked at when they came. A crash before they are removed makes copies, which
        the next run finds known.
        """
        if not self.samples.any_waiting():
            return None
        outcome = Outcome()
        with self._writing():
            waiting = list(islice(self.samples.read(SampleState.WAITING), BATCH))
            if waiting:
                fresh = [replace(one, number=0, state=SampleState.LEARNED) for one in waiting]
                together = Outcome()
                if self._teach(fresh, together, limited=False, alone=len({one.source for one in fresh}) == 1):
                    outcome = together
                else:
                    fresh.sort(key=lambda one: one.source)
                    for _, some in groupby(fresh, key=lambda one: one.source):
                        self._teach(list(some), outcome, limited=False)
                self.samples.discard([one.number for one in waiting])
        return outcome

    def _learn(self, batch: list[Labelled], outcome: Outcome) -> None:
        samples = [one for message in batch if (one := self._sample(message, outcome))]
        self._teach(samples, outcome, limited=True)

    def _teach(self, samples: list[Sample], outcome: Outcome, *, limited: bool, alone: bool = True) -> bool:
        """Learn samples behind the gate. If it refuses, and they are not `alone`: False, nothing is kept."""
        live = self._caught_up()
        fresh = Fresh()
        wrong: list[int] = []  # numbers of samples that are taken back
        again: list[int] = []  # and of refused ones, which no model was made of
        quota = Quota(self.samples, self._settings)
        total = live.ham + live.spam
        for labelled in samples:
            sample = labelled
            replaced = self._replaced(sample, fresh, wrong, outcome)
            if replaced is None:
                continue
            if self._is_doubtful(sample, fresh, live):
                sample = replace(sample, state=SampleState.DOUBTED)
            if limited and not quota.takes(sample):
                outcome.over_limit += 1
                continue
            if sample.origin in RANK and total >= ASIDE_FROM and int(sample.digest[:2], 16) < _ASIDE:
                sample = replace(sample, state=SampleState.ASIDE)
            elif sample.state is SampleState.LEARNED:
                total += 1
            for found in replaced:
                if not found.number:
                    fresh.samples.remove(found)
                else:
                    (again if found.state is SampleState.REFUSED else wrong).append(found.number)
            fresh.add(sample)
        if not fresh.samples and not wrong:
            if not self.path.exists() and live.upto[0]:
                self._save(live)
            return True
        taught = [sample for sample in fresh.samples if sample.state is SampleState.LEARNED]
        anew = one_sided(taught, live.ham + live.spam)
        candidate = self._made_anew(wrong, taught) if wrong or anew else live.copy()
        for sample in () if wrong or anew else taught:
            candidate.learn(self.seen(sample), spam=sample.spam)
        report = self._compared(live, candidate, taught)
        if not (report.passed or alone):
            return False
        self.samples.set_state(again, SampleState.SUPERSEDED, anew=False)
        if self._settle(report, candidate, fresh.samples, outcome):
            outcome.corrected += len(wrong)
            self.samples.set_state(wrong, SampleState.SUPERSEDED)
            self.samples.add(fresh.samples, anew=anew or bool(wrong))
            if self.samples.learn_aside(MEASURED, _ROLL):
                candidate = self._made_anew()
            self._save(candidate)
        return True

    def _settle(
        self, report: gate.Report, candidate: SiteModel, fresh: list[Sample], outcome: Outcome
    ) -> bool:
        """Count what becomes of the samples, and keep the refused; whether the gate lets them in."""
        outcome.reports.append(report)
        states = Counter(sample.state for sample in fresh)
        if report.passed:
            outcome.learned += states[SampleState.LEARNED]
            outcome.aside += states[SampleState.ASIDE]
            outcome.doubted += states[SampleState.DOUBTED]
            return True
        outcome.refused += len(fresh) - states[SampleState.DOUBTED]
        candidate.save(self.candidate)
        told = (one for one in fresh if one.state is not SampleState.DOUBTED)
        self.samples.add([replace(one, state=SampleState.REFUSED) for one in told])
        return False

    def _sample(self, message: Labelled, outcome: Outcome) -> Sample | None:
        """Look at a message; None if it must not be learned."""
        client, raw = stored.received(message.raw)
        content = parse(raw)
        features = extract(content)
        if stored.refusal(message.raw, features, content):
            outcome.unfit += 1
            return None
        digest = hashlib.sha256(raw).hexdigest()
        client = message.client or client
        return Sample(
            digest=digest,
            sketch=stored.sketch(features, digest),
            spam=message.spam,
            origin=message.origin,
            source=printable(message.source),
            time=time.time(),
            features=self._packed(client, raw, features),
            owner=owner_of(message.recipients, self._settings.per),
            body=stored.pack_body(client, raw) if self._settings.samples == "bodies" else b"",
        )

    def _packed(self, client: bytes, raw: bytes, features: Features) -> bytes:
        base = self._base.score_features(features).logit if self._base else 0.0
        return Seen(buckets(client + raw), shapes(features.shape), base).pack()

    def _replaced(
        self, sample: Sample, fresh: Fresh, wrong: list[int], outcome: Outcome
    ) -> list[Sample] | None:
        """Tell what says something new from copies and contradictions: what it replaces, None if it is not.

        What was refused or doubted is in no model, and stands in nobody's way but its reporter's own.
        """
        alike = fresh.alike(sample) + self.samples.alike(sample.digest, sample.sketch)
        alike = [found for found in alike if found.number not in wrong]
        unbelieved = [found for found in alike if found.state in (SampleState.DOUBTED, SampleState.REFUSED)]
        said = (sample.digest, sample.source, sample.spam)
        if sample.origin not in RANK and said in ((o.digest, o.source, o.spam) for o in unbelieved):
            outcome.known += 1
            return None
        alike = [found for found in alike if found not in unbelieved]
        same = [found for found in alike if found.spam == sample.spam]
        others = [found for found in alike if found.spam != sample.spam]
        copies = COPIES if sample.origin == OPERATOR else 1
        if len(same) >= copies or any(found.digest == sample.digest for found in same):
            outcome.known += 1
            return None
        if not all(overrules(sample, found) for found in others):
            outcome.contradicting += 1
            return None
        overruled = [found for found in others if found.digest == sample.digest]
        if len(others) > len(overruled):
            outcome.disputed += 1  # one wants a newsletter and another does not: both labels count
        refused = [found for found in unbelieved if found.state is SampleState.REFUSED]
        return overruled + [o for o in refused if o.digest == sample.digest and overrules(sample, o)]

    def _is_doubtful(self, sample: Sample, fresh: Fresh, live: SiteModel) -> bool:
        """Tell a stranger's label that the site's model knows better, and nobody else has given."""
        if sample.origin in RANK or learned(live.ham, live.spam) < _GROUNDED:
            return False
        taught = live.score(self.seen(sample)).grams
        if (taught if not sample.spam else -taught) < _CERTAIN:
            return False
        alike = fresh.alike(sample) + self.samples.alike(sample.digest, sample.sketch)
        return not any(one.spam == sample.spam and one.source != sample.source for one in alike)

    # -------------------------------------------------------------- models

    def live(self) -> SiteModel:
        """The model in use; an empty one if there is none."""
        return in_use(self.path)

    @staticmethod
    def seen(sample: Sample) -> Seen:
        """What the model reads of a sample."""
        return Seen.unpack(sample.features)

    def measure(self, before: SiteModel, after: SiteModel, level: float = gate.SIGNIFICANT) -> gate.Report:
        """Compare two models on samples that neither learned, and on the fixed regression set."""
        samples = self.samples.newest_aside(MEASURED)
        seen = list(map(self.seen, samples))
        labels = np.array([sample.spam for sample in samples], np.bool_)
        old, new = (np.array([_logit(model, one) for one in seen], np.float64) for model in (before, after))
        report = gate.compare(labels, old, new, self._settings.false_positives, level)
        if self._base is None or self._fixed is None:
            return report
        if self._examined is None:
            self._examined = regression.examine(regression.load(self._fixed), self._base)
        labels = np.array([one.known.spam for one in self._examined], np.bool_)
        return gate.regress(
            report, labels, *(regression.logits(self._examined, model) for model in (None, before, after))
        )

    def _compared(self, live: SiteModel, candidate: SiteModel, taught: list[Sample]) -> gate.Report:
        logits = [_logit(live, self.seen(one)) for one in taught]
        level = gate.SIGNIFICANT if all(one.origin in RANK for one in taught) else gate.STRANGERS
        return gate.doubt(self.measure(live, candidate, level), [one.spam for one in taught], logits)

    def behind(self) -> bool:
        """Whether the store has more than the model in use was made of; cheap to ask."""
        model, generation = self._file.current(), self.samples.generation()
        return (model.upto if model else (0, generation)) != (self.samples.last(), generation)

    def catch_up(self) -> bool:
        """Bring the model up to the samples that other nodes added; whether there were any."""
        with self._writing():
            before, model = self.live().upto, self._caught_up()
            if model.upto == before:
                return False
            self._save(model)
            if model.upto[1] != before[1]:
                self._drop_earlier()  # another node may have taken something back
            return True

    def forget(self, raw: bytes) -> bool:
        """Take back what was learned of a message, and remove it for good; whether there was anything."""
        received = stored.as_received(raw)
        digest = hashlib.sha256(received).hexdigest()
        with self._writing():
            found = self.samples.alike(digest, stored.sketch(extract(parse(received)), digest))
            return bool(self._remove([sample.number for sample in found]))

    def forget_source(self, source: str) -> int:
        """Take back all that one reporter, reviewer or folder taught, and remove it; how many samples."""
        with self._writing():
            return self._remove(self.samples.of_source(source))

    def _remove(self, numbers: list[int]) -> int:
        if numbers:
            self.samples.remove(numbers)
            self._save(self._made_anew())
            self._drop_earlier()
        return len(numbers)

    def relearn(self) -> tuple[int, int]:
        """Make features and model anew of the bodies that were kept, after a new version of either.

        How many samples were looked at again, and how many are left out from now on: their features are of
        another version, and their bodies were not kept. A crash leaves the old version noted.
        """
        with self._writing(anew=True):
            same = self.samples.noted(_NOTE) == _SEEN
            looked, lost = 0, []
            for state in SampleState:
                for sample in self.samples.read(state):
                    if sample.body:
                        client, raw = stored.unpack_body(sample.body)
                        self.samples.refresh(sample.number, self._packed(client, raw, extract(parse(raw))))
                        looked += 1
                    elif not same:
                        lost.append(sample.number)
            self.samples.remove(lost)
            self.samples.add((), (_NOTE, _SEEN))
            self._save(self._made_anew())
            self._drop_earlier()
            return looked, len(lost)

    def _drop_earlier(self) -> None:
        """Remove models that know what was taken back, or are of another version."""
        for path in (self.path.with_name(OWN_FILE), self.previous, self.candidate):
            path.unlink(missing_ok=True)  # the first is made again by the housekeeper

    def promote(self, *, force: bool) -> gate.Report:
        """Learn what was refused after all, if it is no worse by now or with `force`."""
        with self._writing():
            refused = list(self.samples.read(SampleState.REFUSED))
            report = self._compared(self._caught_up(), self._made_anew(fresh=refused), refused)
            if refused and (report.passed or force):
                self.samples.set_state([sample.number for sample in refused], SampleState.LEARNED)
                self._save(self._made_anew())
                self.candidate.unlink(missing_ok=True)
            return report

    def rollback(self) -> int:
        """Go back to the model before the last change; how many samples are no longer learned."""
        with self._writing():
            if not self.previous.exists():
                raise ModelError(f"{self.previous}: there is no earlier model")
            count = self.samples.set_aside_after(SiteModel.load(self.previous).upto[0])
            self._save(self._made_anew())
            return count

    def _caught_up(self) -> SiteModel:
        """The model in use with what was learned elsewhere; of a new generation, made as its writer did."""
        model, now = self.live(), self.samples.generation()
        number, generation = model.upto
        if generation != now:
            number = self.samples.spread_upto()
            model = self._made_anew(upto=number)
        for sample in self.samples.read(SampleState.LEARNED, number):
            model.learn(self.seen(sample), spam=sample.spam)
            model.mark(sample.number, now)
        return model

    def _made_anew(
        self, without: Sequence[int] = (), fresh: Sequence[Sample] = (), upto: int | None = None
    ) -> SiteModel:
        """The model of all samples (`upto` a number), spread: what a new generation starts as."""
        model = SiteModel()
        generation = self.samples.generation()
        model.mark(0, generation)
        kept = self.samples.read(SampleState.LEARNED, upto=upto, without=frozenset(without))
        for sample in spread(chain(kept, fresh)):
            model.learn(self.seen(sample), spam=sample.spam)
            model.mark(max(sample.number, model.upto[0]), generation)
        return model

    def _save(self, model: SiteModel) -> None:
        model.mark(self.samples.last(), self.samples.generation())
        if self.path.exists():
            draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.previous")
            draft.unlink(missing_ok=True)
            os.link(self.path, draft)
            draft.replace(self.previous)
        model.save(self.path)

    @contextmanager
    def _writing(self, *, anew: bool = False) -> Iterator[None]:
        """Be the only writer. Features of another version are no good, unless they are to be made `anew`."""
        with only_writer(self.path, self.samples):
            noted = self.samples.noted(_NOTE)
            if not noted:
                self.samples.add((), (_NOTE, _SEEN))
            elif noted != _SEEN and not anew:
                raise StoreError("what was learned is of another version; run: mailwarden model relearn")
            yield


def _logit(model: SiteModel, seen: Seen) -> float:
    count = learned(model.ham, model.spam)
    return acting(count, model.score(seen), seen.base) if count else seen.base
