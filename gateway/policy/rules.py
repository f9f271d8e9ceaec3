# SPDX-License-Identifier: GPL-2.0-or-later
"""`rules/` and the site's overrides, made into one checked `Policy`.

Names are compared in both directions: a signal that the program can give and `signals.toml`
does not weigh stops the start, and so does one that it weighs and nobody gives.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from gateway.mail.types import Action, Thresholds
from gateway.policy import attachments, authorship, patterns, strip
from gateway.policy.attachments import AttachmentRules, AttachmentSettings
from gateway.policy.authorship import Authors, ImpersonationSettings
from gateway.policy.forwarders import NOBODY, Forwarders, ForwarderSettings
from gateway.policy.links import LinkRules, LinkSettings
from gateway.policy.patterns import RuleError
from gateway.policy.signals import NAMES
from gateway.policy.strip import Note, StripSettings
from gateway.settings import Settings

Points = Annotated[float, msgspec.Meta(ge=-1000, le=1000)]
Decides = Literal["none", "tag", "strip", "quarantine", "defer", "reject"]
OnError = Literal["ignore", "tag", "quarantine", "defer"]
_FILES = ("signals.toml", "policy.toml", "attachments.toml", "domains.toml", "notes.toml")
_T = TypeVar("_T")


class RecipientPolicy(Settings, frozen=True):
    """Other thresholds for some recipients; of several entries that match, the last rules."""

    # Addresses ("user@example.com") or domains ("example.com").
    recipients: tuple[str, ...]
    # Points from which a message is tagged; left out: as for everybody.
    tag: Points | None = None
    # Points from which a message is held.
    quarantine: Points | None = None
    # Points from which a message is rejected.
    reject: Points | None = None


class ThresholdSettings(Settings, frozen=True):
    """Thresholds for everybody; left out: as in `rules/policy.toml`."""

    # Points from which a message is tagged.
    tag: Points | None = None
    # Points from which a message is held.
    quarantine: Points | None = None
    # Points from which a message is rejected.
    reject: Points | None = None


class PolicySettings(Settings, frozen=True):
    """What the site wants otherwise than `rules/` has it."""

    # Points from which a message is tagged, held, rejected.
    thresholds: ThresholdSettings = ThresholdSettings()
    # Other thresholds for some recipients.
    recipients: tuple[RecipientPolicy, ...] = ()
    # Other weights, by signal: SPF_FAIL = 3.0
    weights: dict[str, Points] = msgspec.field(default_factory=dict)
    # Other actions of signals that decide; "none" leaves it to the score. DMARC_REJECT = "quarantine" holds
    # what a domain wants rejected, "tag" only marks it. ATTACHMENT_EXECUTABLE = "strip" delivers a message
    # with a note in place of the attachment, and keeps all of it in the quarantine.
    actions: dict[str, Decides] = msgspec.field(default_factory=dict)
    # What happens when a question could not be answered: VIRUS = "quarantine"
    on_error: dict[str, OnError] = msgspec.field(default_factory=dict)
    # A directory with patterns of your own, read besides the shipped ones; "" for none.
    patterns_dir: str = ""
    # Other classes of attachments than `rules/attachments.toml` has.
    attachments: AttachmentSettings = AttachmentSettings()
    # The note in place of what was stripped.
    strip: StripSettings = StripSettings()
    # Services whose links mean something.
    links: LinkSettings = LinkSettings()
    # Names and domains that outsiders must not use.
    impersonation: ImpersonationSettings = ImpersonationSettings()
    # Forwarders whose mail is DMARC_FORWARDED where it fails DMARC.
    forwarders: ForwarderSettings = ForwarderSettings()
    # Which messages get X-Spam-* fields: "all", those "tagged", or "none". Inbound mail only.
    spam_headers: Literal["all", "tagged", "none"] = "all"
    # Write Received-SPF (RFC 7208 section 9.1) as well, in place of those that a message brings.
    received_spf: bool = False
    # Put before the subject of tagged mail, "" for nothing (a changed subject breaks DKIM signatures).
    subject_tag: Annotated[str, msgspec.Meta(max_length=40, pattern=r"^[ -~]*$")] = ""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    description: str
    weight: Points | None = None
    curve: list[tuple[float, Points]] | None = None
    action: Decides | None = None
    on_error: OnError | None = None


class _PolicyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    thresholds: dict[str, float]


class _Domains(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shorteners: frozenset[str]
    redirectors: tuple[str, ...]
    wrappers: frozenset[str]
    trackers: frozenset[str]
    freemail: frozenset[str]
    affixes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Weight:
    """What one signal is worth."""

    description: str
    curve: tuple[tuple[float, float], ...]  # (value, points), ascending; a plain weight is a line through 0
    action: Action | None
    on_error: Action | None  # None: an unanswered question changes nothing

    def points(self, value: float) -> float:
        """Points for a value, straight lines between the curve's corners, flat outside."""
        curve = self.curve
        if not curve:
            return 0.0
        if value <= curve[0][0]:
            return curve[0][1]
        for (x0, y0), (x1, y1) in pairwise(curve):
            if value <= x1:
                return y0 + (y1 - y0) * (value - x0) / (x1 - x0)
        return curve[-1][1]


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything `decide` and `examine` go by. `hash` changes whenever any of it does."""

    hash: str
    weights: dict[str, Weight]
    thresholds: Thresholds
    recipients: dict[str, Thresholds]  # by lower-case address or domain
    patterns: patterns.Patterns
    attachments: AttachmentRules
    links: LinkRules
    authors: Authors
    note: Note
    spam_headers: Literal["all", "tagged", "none"]
    subject_tag: str
    received_spf: bool = False
    forwarders: Forwarders = NOBODY

    def thresholds_for(self, recipient: str) -> Thresholds:
        """The thresholds of an address, of its domain, or of everybody."""
        address = recipient.lower()
        found = self.recipients.get(address) or self.recipients.get(address.rpartition("@")[2])
        return found or self.thresholds


def load(
    rules: Path,
    settings: PolicySettings,
    networks: tuple[str, ...] = (),
    own_domains: tuple[str, ...] = (),
) -> Policy:
    """Read a rules directory and lay the site's settings over it. Raises `RuleError`.

    `networks` are those of trusted forwarders, which SPF has to know as well; `own_domains` are
    those that we take mail for.
    """
    pattern_dirs = [rules / "patterns"]
    if settings.patterns_dir:
        pattern_dirs.append(Path(settings.patterns_dir))
    compiled = patterns.load(pattern_dirs)
    weights = _weights(rules, settings, frozenset(p.name for p in compiled.patterns))
    base = _thresholds(rules, settings)
    domains = _table(rules / "domains.toml", _Domains)
    try:
        sorts = attachments.rules(
            _table(rules / "attachments.toml", attachments.AttachmentFile), settings.attachments
        )
        note = strip.load(rules / "notes.toml", settings.strip, frozenset(weights))
        known = authorship.authors(own_domains, settings.impersonation, domains.freemail, domains.affixes)
    except ValueError as error:
        raise RuleError(str(error)) from error
    recipients = {
        name.lower().lstrip("@"): _overlaid(base, entry, f"[[policy.recipients]] '{name}'")
        for entry in settings.recipients
        for name in entry.recipients
    }
    sources = [path.read_bytes() for directory in pattern_dirs for path in sorted(directory.glob("*.toml"))]
    sources += [(rules / name).read_bytes() for name in _FILES]
    sources.append(msgspec.json.encode(note))
    sources.append(msgspec.json.encode((settings, networks, own_domains), order="deterministic"))
    return Policy(
        hash=hashlib.sha256(b"\0".join(sources)).hexdigest()[:12],
        weights=weights,
        thresholds=base,
        recipients=recipients,
        patterns=compiled,
        attachments=sorts,
        links=LinkRules(
            shorteners=domains.shorteners | set(settings.links.shorteners),
            redirectors=domains.redirectors,
            wrappers=domains.wrappers,
            trackers=domains.trackers | set(settings.links.trackers),
        ),
        authors=known,
        note=note,
        spam_headers=settings.spam_headers,
        subject_tag=settings.subject_tag,
        received_spf=settings.received_spf,
        forwarders=Forwarders(networks, settings.forwarders.domains, settings.forwarders.sealers),
    )


def _table(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), kind)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise RuleError(f"{path}: {error}") from error


def _weights(rules: Path, settings: PolicySettings, own: frozenset[str]) -> dict[str, Weight]:
    """What each signal weighs; `own` are those of patterns."""
    entries = _table(rules / "signals.toml", dict[str, _Entry])
    classes = settings.attachments.signals()
    if taken := sorted(classes & set(entries)):
        raise RuleError(f"[policy.attachments.classes]: there is a signal {taken[0]} already")
    entries |= dict.fromkeys(classes, _Entry("a class of the site's own", weight=0.0))
    _compare(rules / "signals.toml", entries, NAMES | own | classes, settings)
    entries |= dict.fromkeys(sorted(own - set(entries)), _Entry("own pattern", weight=0.0))
    return {name: _weight(rules, name, entry, settings) for name, entry in entries.items()}


def _compare(path: Path, entries: dict[str, _Entry], names: frozenset[str], settings: PolicySettings) -> None:
    """Refuse names that stand on one side alone."""
    for name in entries:
        if name not in names:
            raise RuleError(f"{path}: no check gives the signal {name}{_meant(name, names)}")
    for name in sorted(names):
        if name not in entries and name not in settings.weights:
            raise RuleError(
                f"{path}: the signal {name} has no entry; add [{name}], or a weight in [policy.weights]"
            )
    for table, keys in (
        ("weights", settings.weights),
        ("actions", settings.actions),
        ("on_error", settings.on_error),
    ):
        for name in keys:
            if name not in names:
                raise RuleError(f"[policy.{table}] {name}: no such signal{_meant(name, names)}")
    for name in (*entries, *settings.actions):
        decides = settings.actions.get(name, entries[name].action if name in entries else None)
        if decides == "strip" and not strip.may_strip(name):
            raise RuleError(f"[policy.actions] {name}: only what is about single attachments can be stripped")
    for name in settings.on_error:
        if name not in entries or entries[name].on_error is None:
            raise RuleError(f"[policy.on_error] {name}: this signal has no error to act on")


def _meant(name: str, names: frozenset[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _weight(rules: Path, name: str, entry: _Entry, settings: PolicySettings) -> Weight:
    curve = tuple(entry.curve or ())
    if any(b[0] <= a[0] for a, b in pairwise(curve)):
        raise RuleError(f"{rules / 'signals.toml'}: {name}: the values of a curve must ascend")
    if name in settings.weights and curve:
        factor = settings.weights[name]
        curve = tuple((value, points * factor) for value, points in curve)
    elif name in settings.weights or entry.weight is not None:
        weight = settings.weights.get(name, entry.weight or 0.0)
        curve = ((-1000.0, -1000.0 * weight), (1000.0, 1000.0 * weight))
    action = settings.actions.get(name, entry.action or "none")
    on_error = settings.on_error.get(name, entry.on_error or "ignore")
    if name in settings.actions and name not in settings.on_error and entry.on_error:
        # Where a yes decides less, the want of an answer decides no more than that.
        on_error = "ignore" if action == "none" else "tag" if action == "tag" else entry.on_error
    return Weight(
        description=entry.description,
        curve=curve,
        action=None if action == "none" else Action(action),
        on_error=None if on_error == "ignore" else Action(on_error),
    )


def _thresholds(rules: Path, settings: PolicySettings) -> Thresholds:
    path = rules / "policy.toml"
    table = _table(path, _PolicyFile).thresholds
    try:
        base = Thresholds(**table)
    except TypeError as error:
        raise RuleError(f"{path}: [thresholds] takes tag, quarantine and reject") from error
    return _overlaid(base, settings.thresholds, "[policy.thresholds]")


def _overlaid(base: Thresholds, over: ThresholdSettings | RecipientPolicy, where: str) -> Thresholds:
    mixed = Thresholds(
        base.tag if over.tag is None else over.tag,
        base.quarantine if over.quarantine is None else over.quarantine,
        base.reject if over.reject is None else over.reject,
    )
    if not mixed.tag <= mixed.quarantine <= mixed.reject:
        raise RuleError(
            f"{where}: tag, quarantine and reject must ascend, and are "
            f"{mixed.tag:g}, {mixed.quarantine:g}, {mixed.reject:g}"
        )
    return mixed
