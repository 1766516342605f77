"""A good site: what `cardionets-site check` has nothing to complain about; a model for tasks."""

from __future__ import annotations

import pytest

from cardionets_core.run_config import CONF, compose, run_config_from
from tests.narrow_hospital import NARROW_RUN, narrowed

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
