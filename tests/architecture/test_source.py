"""Rules that every source file keeps: short, well named, silent, and free of any one hospital."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("cardionets_core", "server", "client", "simulations")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES, MAX_TEST_LINES = 400, 500
EMPTY_NAMES = {"utils", "helpers", "common", "base", "manager", "registry", "factory", "misc"}
PRINTING = {"cli.py", "warm_shim.py"}
"""Programs, which may print; all others return values or log."""

SITES = sorted(
    yaml.safe_load(p.read_text())["site"]
    for p in (ROOT / "site_configs").glob("*.yaml")
    if p.stem != "template"
)
DATA_SETS = {"ptbxl"}
"""A site that is named after the public data set that the code reads."""


def where(path):
    return str(path.relative_to(ROOT))


def calls(path):
    """Yield (name, line) of every plain call `name(...)` and method call `.name(...)`."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or f".{getattr(node.func, 'attr', '')}"
            yield name, node.lineno


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=where)
def test_files_are_short(path):
    lines = len(path.read_text().splitlines())
    limit = MAX_LINES if path in SOURCES else MAX_TEST_LINES
    assert lines <= limit, f"{lines} lines; split it by what it does"


def test_the_median_file_is_shorter_still():
    lengths = sorted(len(p.read_text().splitlines()) for p in SOURCES if p.stat().st_size)
    assert lengths[len(lengths) // 2] <= 160


def test_no_file_has_an_empty_name():
    assert not [where(p) for p in SOURCES if EMPTY_NAMES & set(re.split(r"[_.]", p.stem))]


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_every_module_says_what_it_is(path):
    tree = ast.parse(path.read_text(), str(path))
    assert not tree.body or ast.get_docstring(tree), "begin with a docstring"


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_no_forbidden_calls(path):
    found = list(calls(path))
    forbidden = {".cuda", "eval", "exec", "__import__"}
    if path.name not in PRINTING:
        forbidden.add("print")
    wrong = [f"{name}() in line {line}" for name, line in found if name in forbidden]
    assert not wrong, wrong


SEEDED = {
    "simulations/privacy/figures_noise.py": "shows that a global seed does not reach the noise",
    "simulations/privacy/naive.py": "plain PyTorch and Opacus, as their users write it",
}
"""Files that set global random state on purpose, each with its reason."""


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_no_global_random_state(path):
    if where(path) in SEEDED:
        return
    text = path.read_text()
    wrong = re.findall(r"np\.random\.(?:seed|rand|randn|normal|uniform|choice)\(", text)
    wrong += re.findall(r"\btorch\.manual_seed\(|^import random$", text, re.MULTILINE)
    assert not wrong, wrong


def test_no_hospital_stands_in_the_code():
    assert SITES, "site_configs/ holds no hospital"
    wrong = [
        f"{where(path)}: {site}"
        for path in SOURCES
        for site in SITES
        if site not in DATA_SETS and site in path.read_text().lower()
    ]
    assert not wrong, f"a site is data, never code: {wrong}"


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_all_names_what_exists(path):
    tree = ast.parse(path.read_text(), str(path))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    if not listed:
        return
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(p for p in parts if p != "__init__"))
    assert [n for n in listed[0] if not hasattr(module, n)] == []


def test_there_is_no_init_under_tests():
    """`tests/server/__init__.py` would shadow the package `server`."""
    assert not [where(p) for p in (ROOT / "tests").rglob("__init__.py")]


def test_test_files_have_names_of_their_own():
    names = [p.name for p in TESTS if p.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_every_package_is_typed():
    assert [p for p in PACKAGES if not (ROOT / p / "py.typed").exists()] == []
