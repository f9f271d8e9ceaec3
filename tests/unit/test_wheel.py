# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel: built, installed into an empty environment, and complete.

The dependencies are lent by the environment of the tests, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from gateway import __version__
from gateway.data import data_dir

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, where: Path, **environment: str) -> str:
    """Run a command that must succeed; what it printed."""
    done = subprocess.run(
        command, cwd=where, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", made, where=ROOT)
    return next(made.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the wheel; its folder."""
    scratch = tmp_path_factory.mktemp("installed")
    venv.create(scratch, with_pip=False)
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", scratch / "bin" / "python"),
        *("install", "--quiet", "--no-deps", "--no-index", wheel),
        where=scratch,
    )
    return scratch


def call(installed: Path, *command: str) -> str:
    lent = sysconfig.get_path("purelib")
    return run(installed / "bin" / command[0], *command[1:], where=installed, PYTHONPATH=lent)


def test_wheel_has_what_the_checkout_has(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    expected = set()
    for folder, prefix in (("gateway", ""), ("rules", "gateway/_data/"), ("models", "gateway/_data/")):
        files = [p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        assert files
        expected |= {f"{prefix}{path.relative_to(ROOT)}" for path in files}
    assert expected <= packed
    strange = {name for name in packed - expected if ".dist-info/" not in name}
    assert not strange, "in the wheel, and not in the program"
    assert any(name.endswith("licenses/LICENSE") for name in packed)


def test_installed_wheel_finds_rules_and_models(installed: Path) -> None:
    ask = "from gateway.data import data_dir; print(data_dir('rules'), data_dir('models'))"
    for kind, found in zip(("rules", "models"), call(installed, "python", "-c", ask).split(), strict=True):
        assert Path(found).is_relative_to(installed), "it must not be the checkout's"
        here = data_dir(kind)  # type: ignore[arg-type]  # one of the two
        names = {path.relative_to(here) for path in here.rglob("*") if path.is_file()}
        assert {path.relative_to(found) for path in Path(found).rglob("*") if path.is_file()} == names


def test_installed_command_works(installed: Path) -> None:
    assert __version__ in call(installed, "mailwarden", "--version")
    config = installed / "mailwarden.toml"
    config.write_text('[milter]\nlisten = ["inet:127.0.0.1:8894"]\n')
    told = call(installed, "mailwarden", "--config", str(config), "check")
    assert "The configuration is good." in told
    assert "unavailable" not in told, "the shipped model was not found"
