"""A good site: what `cardionets-site check` has nothing to complain about; a model for tasks."""

from __future__ import annotations

import shutil

import pytest
import yaml

from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.site_config import load_site_config, write_yaml
from client.site import Site
from tests.client.site_bench import Bench
from tests.narrow_hospital import DISEASES, NARROW_RUN, PHENOTYPES, narrowed
from tests.private_site import copy_with_ledger
from tests.task_header import task_header

GOOD_PATIENTS = 40


@pytest.fixture(scope="session")
def good_site(write_hospital, tmp_path_factory):
    """YAML of a hospital `west` with ECGs and a few labels; not to be changed, copy it."""
    path = write_hospital(
        tmp_path_factory.mktemp("good"), "west", "A", patients=GOOD_PATIENTS, ecg_only=True
    )
    path.chmod(0o600)
    return narrowed(path)


@pytest.fixture(scope="session")
def nano_plan(nano):
    """Overrides of a run's plan for a model of a few thousand weights."""
    return ("model=tiny", *(word for word in nano if word.startswith("model.")))


@pytest.fixture(scope="session")
def nano_model(nano_plan):
    """Sizes of a model of a few thousand weights, with heads for what a narrow table holds."""
    values = compose("run", ["name=x", *nano_plan, *NARROW_RUN], package=CONF)
    return run_config_from(values).sized_model()


@pytest.fixture(scope="session")
def prepare_hospital(tmp_path_factory, write_hospital, nano_model):
    """Return (patients, ecg_only or cmr_only) -> YAML of a narrow hospital that is prepared."""

    def make(**patients):
        folder = tmp_path_factory.mktemp("prepared")
        path = narrowed(write_hospital(folder, "west", "A", **patients))
        header = task_header(model=nano_model, phenotypes=PHENOTYPES, diseases=DISEASES)
        Site(load_site_config(path)).dataset(header)
        return path

    return make


@pytest.fixture(scope="session")
def prepared_ecgs(prepare_hospital):
    """YAML of a narrow hospital with ECGs of 24 patients, prepared; not to be changed."""
    return prepare_hospital(patients=24, ecg_only=True)


@pytest.fixture
def private_site_of(prepared_ecgs, tmp_path):
    """Return (folder, **privacy) -> a site with table, cache and ledger of its own."""

    def make(folder=tmp_path, **privacy):
        offers = {"modalities": ["ecg", "phenotypes"], **privacy}
        return Site(copy_with_ledger(load_site_config(prepared_ecgs), folder, **offers))

    return make


@pytest.fixture(scope="module")
def template(good_site, nano_plan):
    """The folder of the good site, its records prepared."""
    Bench(good_site, nano_plan).check()
    return good_site.parent


@pytest.fixture
def bench(template, nano_plan, tmp_path):
    """A copy of the good site; file times stay, so what is prepared stays prepared."""
    folder = tmp_path / "site"
    shutil.copytree(template, folder)
    made = Bench(folder / "west.yaml", nano_plan)
    values = yaml.safe_load(made.file.read_text())
    values["data"] |= {"root": str(made.data), "manifest": str(made.data / "manifest.csv")}
    values["data"] |= {"cache": str(folder / "west" / "cache")}
    write_yaml(made.file, values)
    made.file.chmod(0o600)
    return made
