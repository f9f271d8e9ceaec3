# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules that a policy is read from: what is shipped, and what is refused."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway.data import data_dir
from gateway.mail.types import Action, Thresholds
from gateway.policy import rules
from gateway.policy.patterns import RuleError
from gateway.policy.rules import PolicySettings
from gateway.policy.signals import NAMES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the shipped rules, to be broken."""
    copy = tmp_path / "rules"
    shutil.copytree(data_dir("rules"), copy)
    return copy


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def refused(directory: Path, settings: PolicySettings | None = None) -> str:
    """Load, and return the text of the refusal."""
    with pytest.raises(RuleError) as caught:
        rules.load(directory, settings or PolicySettings())
    return str(caught.value)


def test_shipped_rules() -> None:
    """They load, weigh exactly what there is, and fail closed where it matters."""
    policy = rules.load(data_dir("rules"), PolicySettings())
    assert set(policy.weights) == NAMES | {p.name for p in policy.patterns.patterns}
    assert policy.weights["VIRUS"].action is Action.REJECT
    assert policy.weights["VIRUS"].on_error is Action.DEFER
    assert policy.weights["VIRUS_LIMIT"].action is Action.QUARANTINE
    assert policy.thresholds == Thresholds(5.0, 8.0, 15.0)
    assert all(w.description for w in policy.weights.values())


def test_a_signal_nobody_gives(directory: Path) -> None:
    change(directory / "signals.toml", "[SPF_FAIL]", "[SPF_FIAL]")
    text = refused(directory)
    assert text.startswith(str(directory / "signals.toml"))
    assert "no check gives the signal SPF_FIAL (did you mean SPF_FAIL?)" in text


def test_a_signal_without_weight(directory: Path) -> None:
    path = directory / "signals.toml"
    text = path.read_text()
    start, end = text.index("[SPF_FAIL]"), text.index("[SPF_SOFTFAIL]")
    path.write_text(text[:start] + text[end:])
    assert "the signal SPF_FAIL has no entry; add [SPF_FAIL], or a weight in [policy.weights]" in refused(
        directory
    )
    rules.load(directory, PolicySettings(weights={"SPF_FAIL": 1.0}))


def test_a_pattern_without_weight(directory: Path) -> None:
    change(directory / "patterns" / "text.toml", "[PATTERN_LOTTERY]", "[PATTERN_LOTERY]")
    text = refused(directory)
    assert "PATTERN_LOTTERY" in text
    assert "PATTERN_LOTERY" in text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"weights": {"SPF_FALI": 1}}, "[policy.weights] SPF_FALI: no such signal (did you mean SPF_FAIL?)"),
        ({"actions": {"VIRUSS": "reject"}}, "[policy.actions] VIRUSS: no such signal (did you mean VIRUS?)"),
        (
            {"on_error": {"NOTHING_LIKE_IT_AT_ALL": "defer"}},
            "[policy.on_error] NOTHING_LIKE_IT_AT_ALL: no such signal",
        ),
        ({"on_error": {"GTUBE": "defer"}}, "[policy.on_error] GTUBE: this signal has no error to act on"),
        (
            {"thresholds": {"tag": 9}},
            "[policy.thresholds]: tag, quarantine and reject must ascend, and are 9, 8, 15",
        ),
        (
            {"recipients": [{"recipients": ["a@example.com"], "reject": 1}]},
            "[[policy.recipients]] 'a@example.com': tag, quarantine and reject must ascend, and are 5, 8, 1",
        ),
        ({"patterns_dir": "nowhere"}, "nowhere: no such directory of patterns"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], expected: str) -> None:
    assert refused(data_dir("rules"), msgspec.convert(settings, PolicySettings)).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("tag = 5.0", "tag = 9.0", "must ascend"),
        ("tag = 5.0", "tags = 5.0", "[thresholds] takes tag, quarantine and reject"),
        ("tag = 5.0", "tag = x", "policy.toml: "),
        ("version = 1", "", "missing required field `version`"),
    ],
)
def test_broken_policy_file(directory: Path, old: str, new: str, expected: str) -> None:
    change(directory / "policy.toml", old, new)
    text = refused(directory)
    assert expected in text
    assert "policy.toml" in text or "[policy.thresholds]" in text


def test_a_curve_must_ascend(directory: Path) -> None:
    change(directory / "signals.toml", "[0.0, -2.0], [0.05, -1.0]", "[0.05, -2.0], [0.0, -1.0]")
    assert "CLASSIFIER: the values of a curve must ascend" in refused(directory)


GOOD = """
[OWN_PATTERN]
where = "text"
pattern = 'frobnicate'
must_match = ["Please frobnicate."]
must_not_match = ["Please do not."]
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("frobnicate.", "x", "does not match its own example 'Please x'"),
        ("do not.", "frobnicate", "matches the example it must not match 'Please frobnicate'"),
        ('"text"', '"body"', 'where must be "subject", "text" or "header:NAME"'),
        ("'frobnicate'", "'(?=look)ahead'", "not a pattern that RE2 takes"),
        ("'frobnicate'", "'a{1000}{1000}'", "not a pattern that RE2 takes"),
        ("'frobnicate'", "'*'", "not a pattern that RE2 takes"),
        ("pattern =", "patern =", "patern"),
        ("[OWN_PATTERN]", "[PATTERN_LOTTERY]", "the pattern PATTERN_LOTTERY is defined twice"),
        ("[OWN_PATTERN]", "[OWN_PATTERN", "own.toml: "),
    ],
)
def test_broken_pattern(tmp_path: Path, old: str, new: str, expected: str) -> None:
    """A pattern proves itself on its examples before any mail is judged by it."""
    own = tmp_path / "own.toml"
    own.write_text(GOOD)
    settings = PolicySettings(patterns_dir=str(tmp_path), weights={"OWN_PATTERN": 1.5})
    assert rules.load(data_dir("rules"), settings).weights["OWN_PATTERN"].points(1.0) == 1.5
    change(own, old, new)
    text = refused(data_dir("rules"), settings)
    assert expected in text
    assert "own.toml" in text


def test_own_pattern_decides(tmp_path: Path) -> None:
    """A site's own pattern can be given an action as any other signal."""
    (tmp_path / "own.toml").write_text(GOOD)
    settings = PolicySettings(
        patterns_dir=str(tmp_path), weights={"OWN_PATTERN": 0}, actions={"OWN_PATTERN": "quarantine"}
    )
    assert rules.load(data_dir("rules"), settings).weights["OWN_PATTERN"].action is Action.QUARANTINE
    settings = msgspec.structs.replace(settings, on_error={"OWN_PATTERN": "defer"})
    assert "OWN_PATTERN: this signal has no error to act on" in refused(data_dir("rules"), settings)


def test_overrides() -> None:
    """Weights, actions and on_error of the site; a weight over a curve scales it."""
    plain = rules.load(data_dir("rules"), PolicySettings())
    policy = rules.load(
        data_dir("rules"),
        PolicySettings(
            weights={"SPF_FAIL": 3.5, "CLASSIFIER": 0.5},
            actions={"DMARC_REJECT": "quarantine", "GTUBE": "none"},
            on_error={"SPF_ERROR": "defer", "VIRUS": "ignore"},
        ),
    )
    assert policy.weights["SPF_FAIL"].points(1.0) == 3.5
    assert policy.weights["CLASSIFIER"].points(0.97) == plain.weights["CLASSIFIER"].points(0.97) / 2
    assert policy.weights["DMARC_REJECT"].action is Action.QUARANTINE
    assert policy.weights["GTUBE"].action is None
    assert policy.weights["SPF_ERROR"].on_error is Action.DEFER
    assert policy.weights["VIRUS"].on_error is None


def test_hash_names_the_policy(directory: Path, tmp_path: Path) -> None:
    """Whatever changes a verdict changes the hash; nothing else does."""
    one = rules.load(directory, PolicySettings()).hash
    assert re.fullmatch(r"[0-9a-f]{12}", one)
    assert rules.load(directory, PolicySettings()).hash == one
    seen = {one}
    seen.add(rules.load(directory, PolicySettings(weights={"SPF_FAIL": 3.0})).hash)
    for file in ("signals.toml", "policy.toml", "attachments.toml", "domains.toml", "patterns/text.toml"):
        path = directory / file
        path.write_text(path.read_text() + "\n# changed\n")
        seen.add(rules.load(directory, PolicySettings()).hash)
    own = tmp_path / "own"
    own.mkdir()
    (own / "own.toml").write_text(GOOD)
    settings = PolicySettings(patterns_dir=str(own), weights={"OWN_PATTERN": 1.0})
    seen.add(rules.load(directory, settings).hash)
    change(own / "own.toml", "frobnicate.", "frobnicate!")
    seen.add(rules.load(directory, settings).hash)
    assert len(seen) == 9
