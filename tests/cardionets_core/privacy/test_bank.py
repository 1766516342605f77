"""A bank of public records: opened from folders, told apart from the site's own, and constant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cardionets_core.cohort.write import write_site
from cardionets_core.errors import ConfigError
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.bank import MOST_NEGATIVES, bank_of, open_bank
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.site_config import SiteConfig, SiteData
from client.site import open_dataset
from tests.cardionets_core.privacy.paired_site import paired_site


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A virtual hospital, and another one whose records are public."""
    folder = tmp_path_factory.mktemp("bank")
    write_site("A", patients=3, seed=1, out=folder / "own")
    write_site("B", patients=8, seed=2, out=folder / "public")
    return folder


@pytest.fixture(scope="module")
def config(hospital):
    own = hospital / "own"
    data = SiteData(
        root=str(own), manifest=str(own / "manifest.csv"), cache=str(hospital / "cache"), salt="s"
    )
    privacy = SitePrivacy(
        ledger=str(hospital / "ledger"), patients=3, bank=str(hospital / "public")
    )
    return SiteConfig(site="own", data=data, privacy=privacy)


@pytest.fixture(scope="module")
def own(config, micro):
    return open_dataset(
        config, micro, phenotypes=("lv_edv",), diseases=("heart_failure",), scaler=None
    )


def banked(config, folder):
    return replace(config, privacy=replace(config.privacy, bank=str(folder)))


def test_a_virtual_cohort_is_a_bank_and_the_folder_is_left_as_it_is(config, own, hospital, caplog):
    before = sorted(p.name for p in (hospital / "public").iterdir())
    with caplog.at_level("INFO", logger="cardionets.site"):
        bank = open_bank(config, own)
    assert bank.digest in caplog.text  # the hospital can tell which bank a round had
    assert len(bank.ecg_rows) == 8  # all splits: a bank is not held out from
    assert sorted(p.name for p in (hospital / "public").iterdir()) == before
    assert open_bank(config, own).digest == bank.digest


def test_its_digest_is_of_the_records(micro):
    own = paired_site(micro, 3)
    bank = paired_site(micro, 10, seed=4, prefix="public")
    other = paired_site(micro, 10, seed=4, prefix="public")
    assert bank_of(bank, own=own).digest == bank_of(other, own=own).digest
    middle = int(other.arrays.ecg_samples[9]) // 2
    other.arrays.ecg[9, 11, middle] += 1
    assert bank_of(bank, own=own).digest != bank_of(other, own=own).digest


def test_the_hospitals_own_folder_is_no_bank(config, own, hospital):
    write_site("A", patients=8, seed=1, out=hospital / "more")  # the same three, and five others
    with pytest.raises(ConfigError, match=r"privacy\.bank.*3 patient ids .* the site's own"):
        open_bank(banked(config, hospital / "more"), own)


def test_copies_of_own_records_under_other_names_are_found(micro):
    own = paired_site(micro, 12, seed=4, prefix="mine")
    bank = paired_site(micro, 12, seed=5, prefix="public")
    bank.arrays.ecg[7] = own.arrays.ecg[2]
    with pytest.raises(ConfigError, match="holds 1 records and 0 patient ids"):
        bank_of(bank, own=own)
    bank = paired_site(micro, 12, seed=5, prefix="public")
    bank.arrays.cine[3, 1] = own.arrays.cine[0, 1]
    with pytest.raises(ConfigError, match="holds 1 records and 0 patient ids"):
        bank_of(bank, own=own)


def test_records_without_content_are_no_copies(micro):
    own = paired_site(micro, 3, seed=4, prefix="mine")
    bank = paired_site(micro, 10, seed=5, prefix="public")
    own.arrays.ecg[0] = bank.arrays.ecg[0] = 0
    assert len(bank_of(bank, own=own).ecg_rows) == 10


@pytest.mark.parametrize("lacking", ["ecg", "cine"])
def test_it_needs_ecgs_and_cines_but_not_of_the_same_people(micro, lacking):
    own, first = paired_site(micro, 3), np.arange(24) < 12
    bank = bank_of(paired_site(micro, 24, prefix="b", seed=3, ecg=first, cine=~first), own=own)
    assert not set(bank.ecg_rows) & set(bank.cmr_rows)
    few = np.arange(24) < 7
    poor = paired_site(micro, 24, prefix="b", seed=3, **{lacking: few})
    with pytest.raises(ConfigError, match=f"holds 7 studies with {lacking}.*Add public records"):
        bank_of(poor, own=own)


def test_a_bank_of_unpaired_records_gives_negatives_of_both_kinds(micro):
    first = np.arange(24) < 12
    site = paired_site(micro, 24, prefix="b", seed=3, ecg=first, cine=~first)
    bank = bank_of(site, own=paired_site(micro, 3))
    found = bank.draw(build_model(micro, seed=1), torch.Generator().manual_seed(0))
    assert len(found.ecg) == len(found.cmr) == 12
    assert found.descriptor.isfinite().all()
    assert found.energy > 0


def test_a_large_bank_gives_other_records_in_other_steps(micro):
    site = paired_site(micro, MOST_NEGATIVES + 40, prefix="b", seed=3)
    bank = bank_of(site, own=paired_site(micro, 3))
    model = build_model(micro, seed=1)
    one, other = (bank.draw(model, torch.Generator().manual_seed(k)) for k in (0, 1))
    assert len(one.ecg) == len(one.cmr) == MOST_NEGATIVES
    seen = {tuple(row) for row in one.ecg.numpy().round(5).tolist()}
    new = [row for row in other.ecg.numpy().round(5).tolist() if tuple(row) not in seen]
    assert 10 <= len(new) <= 40


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_folder_that_is_none_is_refused_with_what_makes_one(config, own, tmp_path, kind):
    folder = tmp_path / "bank"
    if kind == "empty":
        folder.mkdir()
    with pytest.raises(ConfigError, match="Correct the path, or make the folder with"):
        open_bank(banked(config, folder), own)


def test_no_bank_is_named(config, own):
    with pytest.raises(ConfigError, match=r"privacy\.bank is not set"):
        open_bank(banked(config, ""), own)
