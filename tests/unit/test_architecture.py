# SPDX-License-Identifier: GPL-2.0-or-later
"""The rooms of the house: an import points only to rooms above, and every module says what it is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = ROOT / "gateway"
MODULES = sorted(GATEWAY.rglob("*.py"))
PROGRAMS = sorted([*(ROOT / "contrib").rglob("*.py"), *(ROOT / "tests").rglob("*.py")])

# Top to bottom; rooms on one line do not know each other.
ROOMS = (
    ("__init__",),
    ("settings", "data"),
    ("mail",),
    ("log", "listeners", "metrics", "ledger"),
    ("dns",),
    ("auth", "scanners", "classifier", "tls"),
    ("lists", "logins"),
    ("policy",),
    ("store",),
    ("learning",),
    ("feedback",),
    ("delivery",),
    ("digest",),
    ("reports",),
    ("gather",),
    ("reply",),
    ("shadow",),
    ("pipeline", "replay"),
    ("rescan",),
    ("milter", "smarthost", "socketmap"),
    ("web",),
    ("config",),
    ("assembly",),
    ("health",),
    ("housekeeper",),
    ("service",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "yaml"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    return path.relative_to(GATEWAY).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path) -> set[tuple[str, int]]:
    """All modules that a file imports, those for type checkers and inside functions too, with lines."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: a relative import"
            found |= {(f"{node.module}.{alias.name}", node.lineno) for alias in node.names}
    return found


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring, which is a command's help text."""
    docstring = function.body[0] if ast.get_docstring(function) else None
    told = docstring.end_lineno - docstring.lineno + 1 if docstring and docstring.end_lineno else 0
    return (function.end_lineno or 0) - function.lineno + 1 - told


def rooms_asked(path: Path) -> set[tuple[str, int]]:
    asked = set()
    for module, line in imports(path):
        first, *rest = module.split(".")
        if first == "gateway":
            asked.add((rest[0] if rest and rest[0] in LEVEL else "__init__", line))
    return asked


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_upwards(path: Path) -> None:
    own = room_of(path)
    assert own in LEVEL, f"the room {own} has no place in ROOMS"
    wrong = [
        f"{name(path)}:{line}: {own} imports {room}"
        for room, line in rooms_asked(path)
        if room != own and LEVEL[room] >= LEVEL[own]
    ]
    assert not wrong


def test_the_design_shows_the_rooms_as_they_stand() -> None:
    """Its table has each room once, and no room asks one of a row below its own."""
    table = (GATEWAY / "DESIGN.md").read_text("utf-8").partition("| room |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`([a-z]+)(?:\.py|/)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    shown = {room: number for number, row in enumerate(rows) for room in row}
    assert sum(map(len, rows)) == len(shown)
    assert set(shown) == set(LEVEL) - {"__init__", "__main__"}
    wrong = {
        f"{own} asks {room}"
        for path in MODULES
        for room, _ in rooms_asked(path)
        if (own := room_of(path)) in shown and room in shown and shown[room] > shown[own]
    }
    assert not wrong


@pytest.mark.parametrize("path", [*MODULES, *PROGRAMS], ids=name)
def test_module_says_what_it_is(path: Path) -> None:
    assert path.read_text("utf-8").startswith("# SPDX-License-Identifier: GPL-2.0-or-later\n")
    assert ast.get_docstring(tree(path)), "no docstring"


@pytest.mark.parametrize("path", [*MODULES, *PROGRAMS], ids=name)
def test_nothing_unsafe_is_loaded(path: Path) -> None:
    modules = {(module.split(".")[0], line) for module, line in imports(path)}
    calls = {
        (node.func.id, node.lineno)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    wrong = [f"{name(path)}:{line}: {what}" for what, line in modules if what in UNSAFE_MODULES]
    wrong += [f"{name(path)}:{line}: {what}()" for what, line in calls if what in UNSAFE_CALLS]
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_and_functions_stay_readable(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 500
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f.name for f in functions if lines_of(f) > 60]
    assert not long, f"functions of more than 60 lines in {name(path)}"


def test_contrib_and_tests_are_not_imported() -> None:
    wrong = [
        f"{name(path)}:{line}: {module}"
        for path in MODULES
        for module, line in imports(path)
        if module.split(".")[0] in ("contrib", "tests")
    ]
    assert not wrong


def test_serving_loads_no_training_library() -> None:
    """Importing scikit-learn costs seconds and a hundred megabytes in each worker."""
    ask = (
        "import sys, gateway.service, gateway.milter, gateway.smarthost, gateway.housekeeper;"
        "print(sorted({'sklearn', 'scipy', 'joblib', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest collects two files of one name in no run of both"
