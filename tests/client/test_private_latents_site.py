"""A private site's release of the tokenizer's latent statistics: charged with its round, once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import cardionets_core.codec
import client.private_training
from cardionets_core.checkpoint import part_arrays
from cardionets_core.codec import decode
from cardionets_core.errors import PrivacyError, SiteError
from cardionets_core.messages import Task
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import fingerprint
from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.site_config import load_site_config
from client.local_training import serve
from client.site import Site
from tests.narrow_hospital import DISEASES, PHENOTYPES
from tests.private_site import copy_with_ledger
from tests.task_header import brief_plan, task_header

pytestmark = pytest.mark.usefixtures("torch_as_it_was")

STATISTICS = ("latent_mean", "latent_square")
PRIVATE = PrivateTask(noise=2.0, rate=0.2, clip=1.0, steps=1, latent_noise=5.0)
STEPS, RELEASE = Charge(2.0, 0.2, 1), Charge(5.0, 1.0, 1)
PLAN = brief_plan(budget_s=600.0)


@pytest.fixture(scope="module")
def prepared(prepare_hospital):
    """A hospital with cines of 12 patients, prepared; not to be changed."""
    return load_site_config(prepare_hospital(patients=12, cmr_only=True))


@pytest.fixture
def site_of(prepared, tmp_path):
    """Return (**privacy) -> the hospital with table, cache and ledger of its own."""

    def make(**privacy):
        return Site(copy_with_ledger(prepared, tmp_path, modalities=["cine"], **privacy))

    return make


def training(model, asked=PRIVATE, *, plan=PLAN, **changes):
    """Return a task of the tokenizer's stage."""
    weights = {"tokenizer": part_arrays(build_model(model, seed=1), "tokenizer")}
    marks = {part: fingerprint(arrays) for part, arrays in weights.items()}
    header = task_header(
        stage="tokenizer",
        model=model,
        phenotypes=PHENOTYPES,
        diseases=DISEASES,
        trains=("tokenizer",),
        train=plan,
        privacy=asked,
    )
    return Task(replace(header, parts=marks, **changes), weights)


def charges(site):
    with Ledger.read(site.config.privacy) as ledger:
        return ledger.charges


def statistics(update):
    return [update.delta["tokenizer"][name] for name in STATISTICS]


def code_of(task, site):
    with pytest.raises((SiteError, PrivacyError)) as caught:
        serve(task, site)
    return caught.value.code


def test_steps_and_release_are_charged_before_the_first_batch(site_of, nano_model, monkeypatch):
    site, seen = site_of(), []

    def trained(*args, **more):
        seen.append(charges(site))
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(client.private_training, "train_privately", trained)
    with pytest.raises(RuntimeError):
        serve(training(nano_model), site)
    assert seen == [(STEPS, RELEASE)] == [charges(site)]


def test_it_leaves_once_and_is_sent_again_for_nothing(site_of, nano_model):
    site = site_of()
    first, again = serve(training(nano_model), site), serve(training(nano_model), site)
    assert charges(site) == (STEPS, RELEASE) and first.privacy == again.privacy
    assert fingerprint(first.delta["tokenizer"]) == fingerprint(again.delta["tokenizer"])
    for moved in statistics(first):
        assert moved.any() and (moved == moved[:, :1, :1, :1]).all()
    with Ledger.read(site.config.privacy) as ledger:
        assert [item.what for item in ledger.items] == ["train", "latents"]


def test_another_try_without_a_stored_answer_has_other_noise_and_costs_again(site_of, nano_model):
    site = site_of()
    first = serve(training(nano_model), site)
    for answer in site.runs.rglob("*answer.sealed"):
        answer.unlink()
    again = serve(training(nano_model), site)
    assert charges(site) == (STEPS, RELEASE) * 2
    assert all((a != b).any() for a, b in zip(statistics(first), statistics(again), strict=True))


def test_where_it_is_not_asked_for_the_constants_stay_and_nothing_is_charged(site_of, nano_model):
    site = site_of()
    update = serve(training(nano_model, replace(PRIVATE, latent_noise=0.0)), site)
    assert charges(site) == (STEPS,) and not any(a.any() for a in statistics(update))


@pytest.mark.parametrize("codec", ["bfloat16", "int8"])
def test_a_codec_leaves_what_was_released(codec, site_of, nano_model, monkeypatch):
    """The server's sums are those of the site, to a float32; and nothing more is charged."""
    monkeypatch.setattr(cardionets_core.codec, "BLOCK", 1)  # as if the arrays were large
    site, noised = site_of(), []
    release = client.private_training.release_latent_statistics

    def noted(net, *args, **more):
        release(net, *args, **more)
        noted.calls += 1
        noised.extend(part_arrays(net, "tokenizer")[name] for name in STATISTICS)

    noted.calls = 0
    monkeypatch.setattr(client.private_training, "release_latent_statistics", noted)
    update = serve(training(nano_model, plan=replace(PLAN, codec=codec)), site)
    assert noted.calls == 1 and charges(site) == (STEPS, RELEASE)
    sent = decode(update.delta, codec)["tokenizer"]
    assert update.delta["tokenizer"]["decoder.layers.0.weight"].dtype != np.float32
    for name, value, constant in zip(STATISTICS, noised, (0.0, 1.0), strict=True):
        np.testing.assert_array_equal(sent[name], value - np.float32(constant))


def test_a_budget_for_the_steps_alone_covers_neither(site_of, nano_model):
    site = site_of(epsilon=0.9)
    assert code_of(training(nano_model), site) == "privacy_spent"
    assert charges(site) == ()
    serve(training(nano_model, replace(PRIVATE, latent_noise=0.0)), site)
    assert charges(site) == (STEPS,)


@pytest.mark.parametrize("noise", [0.29, -5.0, math.nan, math.inf])
def test_less_noise_than_the_site_allows_is_refused(noise, site_of, nano_model):
    site = site_of()
    assert (
        code_of(training(nano_model, replace(PRIVATE, latent_noise=noise)), site) == "privacy_plan"
    )
    assert charges(site) == ()


def test_only_what_trains_the_tokenizer_may_measure_it(site_of, nano_model):
    site = site_of()
    asked = {"stage": "cmr_masked", "trains": ("cmr_encoder", "cmr_decoder")}
    assert code_of(training(nano_model, **asked), site) == "privacy_plan"
    describing = {"stage": "handshake", "action": "describe", "trains": (), "train": None}
    asked = replace(PRIVATE, rate=1.0)
    assert code_of(training(nano_model, asked, **describing), site) == "privacy_plan"
