# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents say what is so: commands, options, keys, targets and files that they name exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import click
import msgspec
import pytest

from contrib.reference import reference
from gateway.cli.main import cli
from gateway.config import Config, load
from gateway.policy.rules import ThresholdSettings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "contrib/**/*.md", "contrib/postfix/*", "contrib/systemd/*", "gateway/**/*.md")
    for path in ROOT.glob(pattern)
    if path.is_file()
)
REFERENCE = ROOT / "contrib" / "mailwarden.toml"


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of one language ("" for none)."""
    found: list[str] = []
    opened: str | None = None
    for line in text.splitlines(keepends=True):
        if line.startswith("```"):
            opened = line.strip().removeprefix("```") if opened is None else None
            if opened == language:
                found.append("")
        elif opened == language:
            found[-1] += line
    return found


def commands(text: str) -> list[str]:
    """All calls of `mailwarden` in code blocks, inline code and unit files."""
    lines = [line for block in blocks(text, "") for line in block.splitlines()]
    lines += re.findall(r"`(mailwarden [^`\n]*)`", text)
    lines += re.findall(r"^Exec\w+=\S*/(mailwarden .*)", text, re.MULTILINE)
    return [line.partition("   #")[0].strip() for line in lines if line.startswith("mailwarden ")]


ALL_COMMANDS = sorted({(path.name, line) for path in DOCUMENTS for line in commands(path.read_text("utf-8"))})


@pytest.mark.parametrize(("document", "line"), ALL_COMMANDS, ids=[c for _, c in ALL_COMMANDS])
def test_command_exists(document: str, line: str) -> None:
    del document
    command: click.Command = cli
    arguments = [word for word in shlex.split(line)[1:] if word != "..."]
    while True:
        context = click.Context(command, info_name=command.name)
        # raises UsageError for an option that the command does not know
        _, rest, _ = command.make_parser(context).parse_args(arguments)
        if not isinstance(command, click.Group) or not rest:
            return
        found = command.get_command(context, rest[0])
        assert found, f"there is no command {rest[0]}"
        command, arguments = found, rest[1:]


def test_the_main_commands_are_documented() -> None:
    text = "\n".join(commands(README))
    missing = [name for name in cli.list_commands(click.Context(cli)) if f"mailwarden {name}" not in text]
    assert not missing, "commands that the README does not show"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        target
        for path in DOCUMENTS
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert "demo" in named
    assert named <= targets
    shown = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    phony = set(re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)[0].split())
    assert phony == {line.split()[1] for line in shown.splitlines()}


def test_files_that_are_named_exist() -> None:
    pattern = r"`((?:contrib|gateway|tests|rules|models|\.ci)/[\w./-]*|[A-Z]+\.md|LICENSE)`"
    named = {(path.name, name) for path in DOCUMENTS for name in re.findall(pattern, path.read_text("utf-8"))}
    missing = [f"{document}: {name}" for document, name in sorted(named) if not (ROOT / name).exists()]
    assert not missing


def configurations() -> list[str]:
    return blocks(README, "toml")


@pytest.mark.parametrize("text", configurations(), ids=lambda t: t.split("\n", 1)[0])
def test_configuration_in_readme_loads(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mailwarden.toml"
    file.write_text(text, "utf-8")
    load(file)


def test_minimal_configurations_are_minimal() -> None:
    milter, smarthost = configurations()[:2]
    for text, door in ((milter, "milter"), (smarthost, "smarthost")):
        assert len([line for line in text.splitlines() if line.strip()]) < 10
        assert tomllib.loads(text)[door]["listen"]


def test_postfix_lines_agree() -> None:
    snippet = (ROOT / "contrib" / "postfix" / "main.cf.milter").read_text("utf-8")
    block = next(b for b in blocks(README, "") if b.startswith("smtpd_milters"))
    assert set(block.splitlines()) <= set(snippet.splitlines())


# ---------------------------------------------------------------- contrib/mailwarden.toml


def test_reference_is_what_the_source_says() -> None:
    assert REFERENCE.read_text("utf-8") == reference(), "run: make reference"


def test_reference_loads_to_the_defaults() -> None:
    assert load(REFERENCE) == Config()


def test_examples_in_the_reference_load(tmp_path: Path) -> None:
    """What has no default stands there as `#key = value`, and is a configuration too."""
    text = re.sub(r"^#(?=[A-Za-z\[])", "", REFERENCE.read_text("utf-8"), flags=re.MULTILINE)
    file = tmp_path / "mailwarden.toml"
    file.write_text(text, "utf-8")
    config = load(file)
    assert config.routes
    assert config.tls.inbound
    assert config.tls.outbound
    assert config.policy.recipients
    assert config.policy.thresholds != ThresholdSettings()
    assert _keys(msgspec.to_builtins(config)) == _keys(tomllib.loads(text))


def test_every_key_is_explained() -> None:
    """Above each key, or above the run of keys that it belongs to, there is a comment."""
    lines = REFERENCE.read_text("utf-8").splitlines()
    unexplained = [
        line
        for before, line in pairwise(lines)
        if re.match(r"#?[a-z_]+ = ", line) and not re.match(r"#|[a-z_]+ = ", before)
    ]
    assert not unexplained


def _keys(table: object, path: str = "") -> set[str]:
    if isinstance(table, dict):
        return {path} | {k for name, value in table.items() for k in _keys(value, f"{path}.{name}")}
    if isinstance(table, list | tuple) and table and isinstance(table[0], dict):
        return {k for row in table for k in _keys(row, f"{path}[]")}
    return {path}
