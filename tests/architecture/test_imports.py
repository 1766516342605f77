"""Directions of imports, doors to heavy libraries, cycles; docs/architecture.md draws them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cardionets_core", "server", "client", "simulations")

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "vocabulary"}),
    frozenset(
        {
            "config_tree",
            "model_config",
            "strategy_config",
            "screening_config",
            "measured",
            "wire_config",
            "privacy_config",
            "secure_config",
            "start_config",
            "wire_limits",
            "faults",
            "batch",
            "packing",
            "tensor_file",
            "environment",
            "runtime",
            "flower_command",
            "flower_compat",
            "flower_site",
            "drawing",
            "durable",
            "lifetime",
        }
    ),
    frozenset(
        {
            "site_config",
            "run_config",
            "messages",
            "ports",
            "supervision",
            "warm",
            "warm_shim",
            "codec",
        }
    ),
    frozenset({"data", "cohort", "models", "labels"}),
    frozenset({"sources", "quality"}),
    frozenset({"preparation"}),
    frozenset({"training", "evaluation", "checkpoint"}),
    frozenset({"ecg_checks", "inference", "local_parts", "privacy"}),
    frozenset({"predict_report"}),
    frozenset({"cli"}),
    frozenset({"server", "client"}),
    frozenset({"simulations"}),
)
"""From the bottom up. A unit may import from lower layers, and from its own layer as PEERS says."""

PEERS: dict[str, frozenset[str]] = {
    "vocabulary": frozenset({"errors"}),
    "config_tree": frozenset(),
    "model_config": frozenset({"config_tree"}),
    "inference": frozenset({"ecg_checks"}),
    "evaluation": frozenset({"checkpoint"}),
    "run_config": frozenset(),
    "messages": frozenset(),
    "tensor_file": frozenset({"packing"}),
}
"""Imports inside one layer; units that are not named are strangers to their neighbours."""

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("cardionets_core.run_config", "cardionets_core.evaluation.options"): (
        "plain numbers without imports; RunConfig holds all that the coordinator decides"
    ),
    ("cardionets_core.messages", "cardionets_core.evaluation.options"): (
        "plain numbers without imports; they travel in the task of the evaluate stage"
    ),
    ("cardionets_core.models.cost", "cardionets_core.training.objectives"): (
        "a table for people: what a stage of this model costs; no model imports it"
    ),
}
"""Imports against the direction, each with its reason; one that is gone fails the test."""

DOORS: dict[str, frozenset[str]] = {
    "flwr": frozenset(
        {
            "cardionets_core.flower_compat",
            "cardionets_core.flower_site",
            "cardionets_core.messages",
            "client.client_app",
            "server.attendance",  # the Grid, as a type
            "server.exchange",  # likewise
            "server.mail",
            "server.rounds",
            "server.server_app",
            "simulations.faults.figures_screening",  # a site's app that attacks
            "simulations.faults.flower_average",
            "simulations.faults.flower_side",
            "simulations.faults.malicious",  # Flower's strategies, for comparison
            "simulations.faults.replies",  # sites that are files
            "simulations.faults.schedules",  # a Grid with a clock of its own
            "simulations.grid",
            "simulations.privacy.round_crashes",  # a task as it comes over the wire
            "simulations.ray_client",
        }
    ),
    "hydra": frozenset({"cardionets_core.run_config", "cardionets_core.site_config"}),
    "omegaconf": frozenset({"cardionets_core.run_config", "cardionets_core.site_config"}),
    "yaml": frozenset({"cardionets_core.site_config"}),
    "defusedxml": frozenset({"cardionets_core.sources.safe_xml"}),
    "h5py": frozenset({"cardionets_core.sources.arrays"}),
    "pydicom": frozenset({"cardionets_core.sources.dicom"}),
    "sqlite3": frozenset({"cardionets_core.preparation.journal"}),
    "opacus": frozenset(
        {
            "cardionets_core.privacy.accounting",
            "cardionets_core.privacy.ghost",
            "simulations.privacy.figures_accounting",  # its accountants, as peers
            "simulations.privacy.naive",  # what must not be done with it, as a control
        }
    ),
    "mlflow": frozenset({"server.tracking"}),
    "wfdb": frozenset({"cardionets_core.data.ecg", "cardionets_core.cohort.write"}),
    "nibabel": frozenset(
        {
            "cardionets_core.data.nifti_header",
            "cardionets_core.data.cmr_write",
            "cardionets_core.cohort.write",
        }
    ),
    "ray": frozenset(),
    "matplotlib": frozenset(
        {
            "cardionets_core.drawing",
            "client.budget_picture",
            "simulations.privacy.drawings",
            "server.report.figures",
        }
    ),
    "psutil": frozenset(
        {
            "cardionets_core.ports",  # who holds a port
            "cardionets_core.supervision",
            "simulations.faults.plain_federation",
            "simulations.process_group",
            "simulations.watchdog",
        }
    ),
    "typer": frozenset(
        {
            *(f"{p}.cli" for p in PACKAGES),
            "client.budget_cli",
            "client.budget_plan",
            "simulations.faults.cli",
            "simulations.privacy.cli",
        }
    ),
    "rich": frozenset(
        {
            *(f"{p}.cli" for p in PACKAGES),
            "client.budget_cli",
            "client.budget_plan",
            "client.budget_plan_told",
            "client.budget_shown",
            "server.schedule_table",  # what `cardionets-coordinator run` and a simulation show
            "simulations.faults.cli",
            "simulations.measuring",  # the bar of both measured tables
            "simulations.privacy.cli",
        }
    ),
}
"""Library -> the only modules that may import it, also inside a function."""

PUBLIC_FLOWER = ("flwr.app", "flwr.serverapp", "flwr.clientapp")
FORBIDDEN = ("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
"""Opening one of these runs whatever the file says."""


@cache
def modules() -> dict[str, Path]:
    """Return every module of the four packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(p for p in parts if p != "__init__")] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """Return what each module imports anywhere in its text; names of ours down to the module."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        names = found.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                names.update(a.name for a in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module, f"{name}: write absolute imports"
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    names.add(full if full in known else node.module)
    return {name: frozenset(names) for name, names in found.items()}


def own_imports():
    return [(m, i) for m, names in imports().items() for i in names if i in modules() and i != m]


def unit(module):
    """Return the unit that the layers speak of: a package, or a core module or sub-package."""
    parts = module.split(".")
    if parts[0] != "cardionets_core":
        return parts[0]
    return parts[1] if len(parts) > 1 else "cardionets_core"


def layer(name):
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def test_every_core_module_has_a_layer():
    units = {unit(m) for m in modules()} - {"cardionets_core", "conf"}
    assert units == set().union(*LAYERS), "add the new unit to LAYERS, or take the old one out"


def test_imports_point_downwards():
    wrong = []
    for module, imported in own_imports():
        a, b = unit(module), unit(imported)
        if a == b or b == "cardionets_core" or (module, imported) in EXCEPTIONS:
            continue
        if layer(b) > layer(a) or (layer(a) == layer(b) and b not in PEERS.get(a, frozenset())):
            wrong.append(f"{module} imports {imported}")
    assert not wrong, "\n".join(sorted(wrong))


def test_every_exception_is_still_needed():
    assert set(EXCEPTIONS) <= set(own_imports())


@pytest.mark.parametrize("a", ["data", "cohort", "models"])
@pytest.mark.parametrize("b", ["data", "cohort", "models"])
def test_data_cohort_and_models_are_strangers(a, b):
    if a != b:
        found = [(m, i) for m, i in own_imports() if unit(m) == a and unit(i) == b]
        assert not found, found


def test_server_and_client_are_strangers():
    found = [(m, i) for m, i in own_imports() if {unit(m), unit(i)} == {"server", "client"}]
    assert not found, found


def test_nothing_imports_the_simulations():
    assert not [
        m for m, i in own_imports() if unit(i) == "simulations" and unit(m) != "simulations"
    ]


@pytest.mark.parametrize("library", sorted(DOORS))
def test_heavy_libraries_have_few_doors(library):
    users = {m for m, names in imports().items() if any(n.split(".")[0] == library for n in names)}
    assert users <= DOORS[library], f"{library} is imported by {sorted(users - DOORS[library])}"


@pytest.mark.parametrize("library", sorted(DOORS))
def test_no_door_leads_nowhere(library):
    assert DOORS[library] <= set(modules())


def test_flowers_private_modules_are_touched_in_two_places():
    wrong = [
        f"{module} imports {name}"
        for module, names in imports().items()
        for name in names
        if name.split(".")[0] == "flwr"
        and not name.startswith(PUBLIC_FLOWER)
        and module not in ("cardionets_core.flower_compat", "cardionets_core.flower_site")
    ]
    assert not wrong, wrong


def test_no_pickle():
    wrong = [
        (m, n) for m, names in imports().items() for n in names if n.split(".")[0] in FORBIDDEN
    ]
    assert not wrong, wrong


def test_no_import_cycles():
    graph: dict[str, set[str]] = {m: set() for m in modules()}
    for module, imported in own_imports():
        graph[module].add(imported)
    done: set[str] = set()
    path: list[str] = []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for imported in sorted(graph[module]):
            visit(imported)
        path.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)


def test_these_tests_would_see_a_wrong_import():
    """The helpers read imports inside functions and type-checking blocks too."""
    assert "hydra" in {n.split(".")[0] for n in imports()["cardionets_core.run_config"]}
    assert ("server.rounds", "cardionets_core.messages") in own_imports()
    assert "flwr.serverapp" in imports()["server.exchange"]  # under TYPE_CHECKING
