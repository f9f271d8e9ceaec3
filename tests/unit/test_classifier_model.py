# SPDX-License-Identifier: GPL-2.0-or-later
"""The artefact: the shipped one is sound, a damaged or hostile one is refused, scores explain themselves."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.classifier.artefact import check_golden, golden
from gateway.classifier.mapping import array_bytes, replace
from gateway.classifier.model import Classifier, Model, ModelError, sigmoid, with_site
from gateway.classifier.settings import ClassifierSettings
from gateway.classifier.site import Seen, SiteFile, SiteModel
from gateway.data import data_dir
from gateway.mail.mime import parse

SHIPPED = data_dir("models") / "base"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    target = tmp_path / "model"
    shutil.copytree(SHIPPED, target)
    return target


def rehash(folder: Path) -> None:
    """Make the manifest fit the files again, as an attacker would."""
    import hashlib

    lines = []
    for line in (folder / "manifest.toml").read_text().splitlines():
        name = line.partition('"')[2].partition('"')[0]
        if name.endswith(".npy"):
            lines.append(f'"{name}" = "{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"')
        else:
            lines.append(line)
    (folder / "manifest.toml").write_text("\n".join(lines))


def test_shipped_model_is_small_and_gives_its_golden_scores() -> None:
    model = Model.load(SHIPPED)
    assert len(list(golden(SHIPPED))) >= 10
    assert check_golden(SHIPPED, model, parse) == ()
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2_000_000
    assert model.version.startswith("base-")


def test_a_wrong_golden_score_is_noticed(copy: Path) -> None:
    rows = [json.loads(line) for line in (copy / "golden.jsonl").read_text().splitlines()]
    rows[0]["logit"] += 0.001
    (copy / "golden.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(check_golden(copy, Model.load(copy), parse)) == 1


def test_ham_and_spam_are_told_apart() -> None:
    model = Model.load(SHIPPED)
    scores = {row.name: model.score(parse(row.message.encode())) for row in golden(SHIPPED)}
    spam = {"pills", "lottery", "stocks", "mortgage", "phish"}
    assert min(scores[n].probability for n in spam) > max(
        scores[n].probability
        for n in ("meeting", "invoice", "patch", "newsletter", "indonesian", "german", "japanese")
    )
    for foreign in ("indonesian", "german", "japanese"):
        assert scores[foreign].known < 0.2
        assert scores[foreign].probability < 0.6


def test_reasons_speak_for_both_sides_and_are_readable() -> None:
    row = next(row for row in golden(SHIPPED) if row.name == "phish")
    score = Model.load(SHIPPED).score(parse(row.message.encode()))
    weights = [weight for _, weight in score.reasons]
    assert max(weights) > 0 > min(weights)
    assert len(score.reasons) <= 10
    assert all(name.isprintable() for name, _ in score.reasons)
    assert math.isclose(score.probability, sigmoid(score.logit))


def test_contributions_add_up_to_the_logit() -> None:
    model = Model.load(SHIPPED)
    one = model.score(parse(b"Subject: x\r\n\r\n\r\n"))  # few features: all of them are reasons
    none = model.manifest
    base = none.shape_slope * none.bias + none.shape_offset
    assert one.known == 0
    assert abs(sum(weight for _, weight in one.reasons) + base - one.logit) < 0.2


def test_serving_imports_numpy_alone() -> None:
    code = (
        "import gateway.classifier.model, sys; print([m for m in ('sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_arrays_cannot_be_written() -> None:
    model = Model.load(SHIPPED)
    with pytest.raises(ValueError, match="read-only"):
        model.weights[0, 0] = 1


def truncated(folder: Path) -> None:
    data = (folder / "weights.npy").read_bytes()
    (folder / "weights.npy").write_bytes(data[: len(data) // 2])
    rehash(folder)


def not_a_number(folder: Path) -> None:
    weights = np.load(folder / "weights.npy")
    weights[0, 3] = np.nan
    (folder / "weights.npy").write_bytes(array_bytes(weights))
    rehash(folder)


def flipped(folder: Path) -> None:
    data = bytearray((folder / "weights.npy").read_bytes())
    data[-1] ^= 1
    (folder / "weights.npy").write_bytes(data)


def unsorted(folder: Path) -> None:
    (folder / "keys.npy").write_bytes(array_bytes(np.load(folder / "keys.npy")[::-1].copy()))
    rehash(folder)


def pickled(folder: Path) -> None:
    # What makes the folder "pwned" when it is loaded as Python's own format of objects, protocol 0.
    (folder / "keys.npy").write_bytes(f"cos\nmkdir\n(V{folder / 'pwned'}\ntR.".encode())
    rehash(folder)


def objects(folder: Path) -> None:
    np.save(folder / "keys.npy", np.array([{}], dtype=object), allow_pickle=True)
    rehash(folder)


def bomb(folder: Path) -> None:
    with (folder / "weights.npy").open("r+b") as file:
        file.truncate(1 << 40)  # sparse


def wrong_shape(folder: Path) -> None:
    (folder / "known.npy").write_bytes(array_bytes(np.load(folder / "known.npy")[1:].copy()))
    rehash(folder)


def lying_head(folder: Path) -> None:
    data = (folder / "keys.npy").read_bytes()
    at = data.index(b"(")
    end = data.index(b")", at)
    (folder / "keys.npy").write_bytes(data[: at + 1] + b"9" * (end - at - 2) + b"," + data[end:])
    rehash(folder)


def pipe(folder: Path) -> None:
    (folder / "keys.npy").unlink()
    os.mkfifo(folder / "keys.npy")


def world_writable(folder: Path) -> None:
    (folder / "weights.npy").chmod(0o666)


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / "manifest.toml").read_text()
        assert old in text
        (folder / "manifest.toml").write_text(text.replace(old, new))

    return change


def missing(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


DAMAGE = {
    "truncated": (truncated, "size"),
    "nan": (not_a_number, "not a number"),
    "flipped bit": (flipped, "SHA-256"),
    "unsorted": (unsorted, "order"),
    "pickle": (pickled, "not an array"),
    "objects": (objects, "an array of"),
    "size bomb": (bomb, "octets, more than"),
    "wrong shape": (wrong_shape, "fit together"),
    "lying head": (lying_head, "size"),
    "pipe": (pipe, "regular file"),
    "writable by all": (world_writable, "everybody"),
    "no weights": (missing("weights.npy"), "No such file"),
    "no manifest": (missing("manifest.toml"), "No such file"),
    "other format": (edit("format = 2", "format = 99"), "format 99"),
    "other features": (edit("features = ", "features = 9"), "made for features"),
    "no scoring": (edit("[scoring]", "[other]"), "missing or wrong"),
    "infinite": (edit("bias = -1.0", "bias = inf"), "out of range"),
    "not TOML": (edit("[files]", "[files"), "not TOML"),
    "bad name": (edit('name = "base"', 'name = "a\\u001bb"'), "out of range"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_model_is_refused(copy: Path, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    damage(copy)
    with pytest.raises(ModelError, match=reason) as caught:
        Model.load(copy)
    assert str(copy) in str(caught.value)
    assert not (copy / "pwned").exists()


def test_no_model_is_unavailable_and_never_zero(tmp_path: Path) -> None:
    message = b"Subject: x\r\n\r\nhello\r\n"
    assert Classifier().score(message, parse(message)) is None
    assert Classifier(site=SiteFile(tmp_path / "none.npy")).score(message, parse(message)) is None
    assert Classifier.open(ClassifierSettings(enabled=False), data_dir("models"), tmp_path) is None
    with pytest.raises(ModelError):
        Classifier.open(ClassifierSettings(model=str(tmp_path)), data_dir("models"), tmp_path)


def test_what_a_site_taught_moves_the_score(tmp_path: Path) -> None:
    raw = b"From: a@example.com\r\nSubject: weekly offers\r\n\r\nThe newsletter you asked for.\r\n"
    other = b"From: x@example.net\r\nSubject: pills\r\n\r\nBuy pills now, cheap pills.\r\n"
    base = Model.load(SHIPPED)
    site = SiteModel()
    path = tmp_path / "site.npy"
    before = Classifier(base, SiteFile(path)).score(raw, parse(raw))
    assert before == base.score(parse(raw))
    seen = [Seen.of(one, parse(one), base.score(parse(one)).logit) for one in (raw, other)]
    for _ in range(40):
        site.learn(seen[0], spam=False)
        site.learn(seen[1], spam=True)
    site.save(path)
    classifier = Classifier(base, SiteFile(path))
    wanted, unwanted = classifier.score(raw, parse(raw)), classifier.score(other, parse(other))
    assert before is not None
    assert wanted is not None
    assert unwanted is not None
    assert wanted.probability < min(before.probability, 0.1)
    assert unwanted.probability > 0.9
    assert classifier.version == f"{base.version}+site-80"
    assert any("taught" in name for name, _ in wanted.reasons)
    pieces = {name: weight for name, weight in unwanted.reasons if name.startswith("this site on")}
    assert len(pieces) >= 2
    assert max(pieces, key=lambda name: pieces[name]).count("pills")
    alone = with_site(SiteModel.load(path), Seen.of(raw, parse(raw), 0.0), None, raw)
    assert sum(weight for _, weight in alone.reasons) == pytest.approx(alone.acting)
    assert alone.acting < 0


def test_a_new_version_of_the_base_is_taken_while_it_is_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED, folder)
    classifier = Classifier.open(
        ClassifierSettings(model=str(folder), site="off"), data_dir("models"), tmp_path
    )
    assert classifier is not None
    before = classifier.version
    manifest = (folder / "manifest.toml").read_text()
    replace(folder / "manifest.toml", b"damaged")
    time.sleep(0.3)
    assert classifier.version == before
    assert classifier.newer is not None
    assert "not TOML" in classifier.newer.problem
    replace(folder / "manifest.toml", manifest.replace('name = "base"', 'name = "newer"').encode())
    time.sleep(0.3)
    assert classifier.version.startswith("newer-")
    shutil.rmtree(folder)
    time.sleep(0.3)
    assert classifier.version.startswith("newer-")
    assert classifier.score(b"Subject: x\r\n\r\ny\r\n", parse(b"Subject: x\r\n\r\ny\r\n")) is not None


def test_a_line_of_text_is_not_enough_to_be_sure() -> None:
    model = Model.load(SHIPPED)
    short = model.score(parse(b"From: a@example.net\r\nTo: b@example.com\r\nSubject: test\r\n\r\nHello\r\n"))
    assert short.sure < 0.5
    assert short.cautious < 0.8
    assert short.cautious <= short.probability
    linked = next(row for row in golden(SHIPPED) if row.name == "pills")
    spam = model.score(parse(linked.message.encode()))
    assert spam.sure > 0.8
    assert spam.cautious > 0.95
