"""The docs say what is there: commands parse, links lead somewhere, the tree is the tree."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest
import typer.main

from cardionets_core.data.refusal import REASONS
from cardionets_core.run_config import compose, run_config_from
from simulations.settings import compose_run, compose_simulation

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
LISTED = (
    "cardionets_core",
    "server",
    "client",
    "simulations",
    "site_configs",
    "docs",
    "benchmarks",
)
"""Folders whose every file stands in the README; of `tests` only the folders do."""

UNLISTED = {"__init__.py", "py.typed"}


def blocks(path):
    return re.findall(r"^```[^\n]*\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def commands():
    """Return (file, command line) of every command in a fenced block; a trailing \\ goes on."""
    found = []
    for path in DOCS:
        for block in blocks(path):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.strip().removeprefix("$ ")
                if re.match(r"(cardionets[a-z-]*|make)\b", line):
                    found.append((path.name, line))
    return found


COMMANDS = commands()


@cache
def command_of(script):
    module, _, name = SCRIPTS[script].partition(":")
    return typer.main.get_command(getattr(import_module(module), name))


def parse(script, words):
    """Parse as the script would, down to the last option, and return the context."""
    command = command_of(script)
    context = command.make_context(script, list(words))
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, child, rest = command.resolve_command(context, rest)
        context = child.make_context(name, rest, parent=context)
    return context


def test_the_docs_show_commands():
    assert {line.split()[0] for _, line in COMMANDS} >= {"make", *SCRIPTS}


@pytest.mark.parametrize(("file", "line"), COMMANDS)
def test_every_command_parses(file, line):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    parse(words[0], words[1:])


@pytest.mark.parametrize(("file", "line"), COMMANDS)
def test_overrides_in_commands_compose(file, line):
    words = shlex.split(line, comments=True)
    if words[0] == "cardionets-simulate":
        simulation, rest = compose_simulation(words[1:])
        if not simulation.resume:
            compose_run(simulation, rest, name="run", sites=3)
    elif words[:2] == ["cardionets-coordinator", "run"]:
        overrides = [w for w in words[2:] if "=" in w and not w.startswith("-")]
        run_config_from(compose("run", overrides, package="cardionets_core.conf"))


def test_there_is_one_unit_for_each_side_and_its_command_parses_with_whole_paths():
    """A service starts in another folder than the person who wrote its unit."""
    started = []
    for path in DOCS:
        text = path.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE):
            program, *words = shlex.split(line)
            context = parse(Path(program).name, words)
            paths = [Path(program), *(v for v in context.params.values() if isinstance(v, Path))]
            assert all(p.is_absolute() for p in paths), paths
            started.append(Path(program).name)
    assert sorted(started) == ["cardionets-coordinator", "cardionets-site"]


def test_a_wrong_command_would_be_seen():
    with pytest.raises(click.UsageError):
        parse("cardionets-site", ["chekc", "--config", "x.yaml"])
    with pytest.raises(click.UsageError):
        parse("cardionets-site", ["check", "--confg", "x.yaml"])


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_script_has_help(script):
    command = command_of(script)
    with pytest.raises(click.exceptions.Exit) as caught:
        command.make_context(script, ["--help"])
    assert caught.value.exit_code == 0


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_every_file_that_the_text_names_exists(path):
    """Names in backticks that look like paths of this repository."""
    for name in re.findall(r"`([a-z_]+/[A-Za-z0-9_./-]+\.(?:py|yaml|md|toml))`", path.read_text()):
        top = name.split("/")[0]
        if (ROOT / top).is_dir():
            assert (ROOT / name).exists(), name
        elif (ROOT / "cardionets_core" / top).is_dir():
            assert (ROOT / "cardionets_core" / name).exists(), name


def tree():
    """Return path -> description of the README's tree; folders end with a slash."""
    (block,) = [b for b in blocks(ROOT / "README.md") if b.startswith("cardionets_core/")]
    found, folders = {}, []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, text = line.strip().partition(" ")
        del folders[depth:]
        assert "".join(folders) + name not in found, f"{name} stands twice"
        found["".join(folders) + name] = text.strip()
        if name.endswith("/"):
            folders.append(name)
    return found


def real_files():
    found = set()
    for top in LISTED:
        for path in (ROOT / top).rglob("*"):
            parts = path.relative_to(ROOT).parts
            hidden = any(p.startswith((".", "__pycache__")) for p in parts)
            if path.is_file() and not hidden and path.name not in UNLISTED:
                found.add("/".join(parts))
    return found


def test_the_tree_of_the_readme_is_the_real_tree():
    listed = {p for p in tree() if not p.endswith("/")}
    inside = {p for p in listed if p.split("/")[0] in LISTED}
    assert sorted(real_files() - inside) == [], "files that the README does not list"
    assert sorted(inside - real_files()) == [], "files that the README lists and that are not there"
    assert [p for p in tree() if not (ROOT / p).exists()] == []


def test_the_tree_lists_the_folders_of_the_tests():
    real = {
        f"tests/{p.relative_to(ROOT / 'tests')}/"
        for p in (ROOT / "tests").iterdir()
        if p.is_dir() and p.name != "__pycache__"
    }
    assert {p for p in tree() if re.fullmatch(r"tests/[^/]+/", p)} == real


def test_every_line_of_the_tree_says_something():
    assert [p for p, text in tree().items() if len(text.split()) < 2] == []


def test_every_reason_of_a_refusal_stands_in_the_guide():
    text = (ROOT / "docs" / "site_onboarding.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert {code: rows.get(code) for code in REASONS} == {
        code: f"{cause} | {step}" for code, (cause, step) in REASONS.items()
    }
