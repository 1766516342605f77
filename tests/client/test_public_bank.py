"""A contrastive task whose negatives come from the hospital's public bank, at a real site."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.checkpoint import part_arrays
from cardionets_core.cohort.write import write_site
from cardionets_core.errors import ConfigError, SiteError
from cardionets_core.messages import Task, TrainPlan
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import fingerprint
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.site_config import load_site_config
from cardionets_core.training.alignment import PARTS
from client.local_training import serve
from client.site import Site
from tests.narrow_hospital import DISEASES, PHENOTYPES, narrowed
from tests.private_site import with_ledger
from tests.task_header import task_header

pytestmark = pytest.mark.usefixtures("torch_as_it_was")

ASKED = PrivateTask(noise=1.0, rate=0.5, clip=1.0, steps=2, contrastive="public_negatives")


@pytest.fixture(scope="module")
def places(tmp_path_factory, write_hospital):
    """A hospital with pairs, and a virtual cohort that stands for public records."""
    folder = tmp_path_factory.mktemp("banked")
    write_site("B", patients=8, seed=3, out=folder / "public")
    return narrowed(write_hospital(folder, "west", "A", patients=10)), folder / "public"


@pytest.fixture(scope="module")
def task(nano_model):
    model = build_model(nano_model, seed=1)
    weights = {p: part_arrays(model, p) for p in PARTS}
    plan = TrainPlan(
        local_epochs=1,
        batch_size=8,
        lr=1e-3,
        weight_decay=0.0,
        clip_norm=0.0,
        max_steps=2,
        progress=0.0,
    )
    header = task_header(
        stage="contrastive",
        model=nano_model,
        phenotypes=PHENOTYPES,
        diseases=DISEASES,
        scaler_mean=(150.0, 60.0),
        scaler_sd=(30.0, 8.0),
        trains=PARTS,
        parts={p: fingerprint(a) for p, a in weights.items()},
        train=plan,
        privacy=ASKED,
    )
    return Task(header, weights)


@pytest.fixture(scope="module")
def site(places):
    """Return (bank) -> the hospital with this bank."""
    config = with_ledger(load_site_config(places[0]), places[0].parent / "ledger")
    return lambda bank: Site(replace(config, privacy=replace(config.privacy, bank=str(bank))))


def charges(site):
    with Ledger.read(site.config.privacy) as ledger:
        return list(ledger.charges)


def test_own_records_are_no_bank_and_nothing_is_charged(places, site, task):
    own = site(places[0].parent / "west" / "data")
    before = charges(own)
    with pytest.raises(ConfigError, match="10 patient ids that are the site's own too"):
        serve(task, own)
    assert charges(own) == before


def test_a_task_against_a_public_bank_trains_all_parts_for_one_charge(places, site, task):
    hospital = site(places[1])
    before = len(charges(hospital))
    update = serve(task, hospital)
    assert set(update.delta) == set(PARTS)
    assert all(any(np.abs(a).max() > 0 for a in update.delta[p].values()) for p in PARTS)
    charge = charges(hospital)[-1]
    assert len(charges(hospital)) == before + 1
    assert (charge.noise, charge.rate, charge.steps) == (1.0, 0.5, 2)


def test_a_site_without_a_bank_refuses(site, task):
    with pytest.raises(SiteError) as caught:
        serve(task, site(""))
    assert caught.value.code == "privacy_plan"
