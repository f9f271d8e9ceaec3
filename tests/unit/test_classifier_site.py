# SPDX-License-Identifier: GPL-2.0-or-later
"""The site model: it learns, is saved whole, and refuses foreign state."""

import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from gateway.classifier.mapping import ModelError, array_bytes
from gateway.classifier.site import BUCKETS, Local, Seen, SiteFile, SiteModel, blend, buckets, shapes
from gateway.mail.mime import parse

HAM_RAW = b"Subject: minutes\r\n\r\nThe minutes of the board meeting are attached.\r\n"
SPAM_RAW = b"Subject: winner\r\n\r\nYou have won one million dollars, send your bank account.\r\n"
HAM, SPAM = (Seen.of(raw, parse(raw), 0.5) for raw in (HAM_RAW, SPAM_RAW))


def taught() -> SiteModel:
    model = SiteModel()
    for _ in range(20):
        model.learn(HAM, spam=False)
        model.learn(SPAM, spam=True)
    return model


def test_learns() -> None:
    model = taught()
    assert model.score(HAM).grams < -1
    assert model.score(SPAM).grams > 1
    assert (model.ham, model.spam) == (20, 20)
    assert SiteModel().score(HAM) == (0, 0)


def test_a_sample_is_packed_and_read_back() -> None:
    again = Seen.unpack(HAM.pack())
    assert np.array_equal(again.grams, HAM.grams)
    assert np.array_equal(again.shape, HAM.shape)
    assert again.base == HAM.base
    empty = Seen.unpack(Seen(buckets(b""), shapes(())).pack())
    assert not len(empty.grams)
    for wrong in (b"", b"x", zlib.compress(b"x"), zlib.compress(b"\xff" * 100), HAM.pack()[:-9]):
        with pytest.raises(ValueError, match="sample"):
            Seen.unpack(wrong)


def test_base_counts_whole_at_first_and_fades() -> None:
    local = Local(1.0, 1.0)
    assert blend(0, local, 3.0) == pytest.approx(5.0)
    assert blend(100_000, local, 3.0) == pytest.approx(1.24, abs=0.01)


def test_a_new_version_is_seen_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "site.npy"
    file = SiteFile(path)
    assert file.current() is None
    for count in (1, 2):
        model = SiteModel()
        for _ in range(count):
            model.learn(HAM, spam=False)
        model.save(path)
        time.sleep(0.4)
        found = file.current()
        assert found is not None
        assert found.ham == count
    path.write_bytes(b"rubbish")
    time.sleep(0.4)
    assert file.current() is found
    assert "site.npy" in file.problem


def test_buckets_are_sorted_distinct_and_blind_to_line_ends() -> None:
    found = buckets(HAM_RAW)
    assert np.all(np.diff(found) > 0)
    assert found[-1] < BUCKETS
    assert np.array_equal(found, buckets(HAM_RAW.replace(b"\r\n", b"\n")))
    assert np.array_equal(found, buckets(b"From someone Mon Jan 1\n" + HAM_RAW))
    assert not len(buckets(b"abc"))


def test_hash_of_one_gram_is_the_documented_one() -> None:
    assert buckets(b"abcd").tolist() == [(0x61626364 * 2654435761 % 2**32) >> 14]


def test_only_the_start_is_read() -> None:
    assert np.array_equal(
        buckets(b"x" * 100 + bytes(range(256)) * 40), buckets(b"x" * 100 + bytes(range(256)) * 90)
    )


def test_saved_and_loaded_state_scores_the_same(tmp_path: Path) -> None:
    model = taught()
    model.save(tmp_path / "site.npy")
    loaded = SiteModel.load(tmp_path / "site.npy")
    assert loaded.score(SPAM) == model.score(SPAM)
    with pytest.raises(ValueError, match="read-only"):
        loaded.learn(HAM, spam=False)
    again = SiteModel.load(tmp_path / "site.npy", writable=True)
    again.learn(HAM, spam=False)
    assert again.ham == 21
    assert [path.name for path in tmp_path.iterdir()] == ["site.npy"]


def test_a_reader_keeps_the_old_version_while_a_new_one_is_saved(tmp_path: Path) -> None:
    model = taught()
    model.save(tmp_path / "site.npy")
    reader = SiteModel.load(tmp_path / "site.npy")
    before = reader.score(SPAM)
    for _ in range(20):
        model.learn(SPAM, spam=True)
    model.save(tmp_path / "site.npy")
    assert reader.score(SPAM) == before
    assert SiteModel.load(tmp_path / "site.npy").score(SPAM) != before


@pytest.mark.parametrize("kind", ["empty", "short", "nan", "version", "squares", "other"])
def test_foreign_state_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "site.npy"
    taught().save(path)
    state = np.load(path)
    if kind == "nan":
        state[100] = np.nan
    elif kind == "version":
        state[0] = 7
    elif kind == "squares":
        state[-1] = 0
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "short":
        path.write_bytes(path.read_bytes()[:-4])
    else:
        path.write_bytes(array_bytes(state.astype(np.float64) if kind == "other" else state))
    with pytest.raises(ModelError):
        SiteModel.load(path)


def test_a_missing_state_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        SiteModel.load(tmp_path / "none.npy")
