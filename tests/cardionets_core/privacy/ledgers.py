"""A hospital's ledger for tests, and what a crash may leave of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cardionets_core.errors import PrivacyError
from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.ledger_entries import charge_key
from cardionets_core.privacy.new_ledger import init_ledger
from cardionets_core.privacy_config import SitePrivacy

PATIENTS = tuple(f"p{n}" for n in range(40))
SALT = "the hospital's secret"
CHARGE = Charge(noise=2.0, rate=0.1, steps=20)


@dataclass(frozen=True)
class Hospital:
    """A ledger's folder and what the site's YAML says."""

    settings: SitePrivacy
    patients: tuple[str, ...] = PATIENTS
    salt: str = SALT
    cache: Path | None = None
    table: Path | None = None

    @property
    def path(self):
        return Path(self.settings.ledger)

    def init(self, order=None):
        return init_ledger(
            self.settings,
            patients=self.patients,
            salt=self.salt,
            order=order,
            claim_folder=self.cache,
            table=self.table,
        )

    def opened(self, expect_head="", answered=()):
        return Ledger.opened(
            self.settings,
            patients=self.patients,
            salt=self.salt,
            expect_head=expect_head,
            answered=answered,
            claim_folder=self.cache,
            table=self.table,
        )

    def charged(self, number, charge=CHARGE):
        """Charge a round and return the head."""
        with self.opened() as ledger:
            return ledger.reserve(key(number), charge)

    def count(self):
        """Return how many charges the ledger holds."""
        with self.opened() as ledger:
            return len(ledger.charges)

    def having(self, **values):
        """Return the same hospital with other settings."""
        return replace(self, settings=replace(self.settings, **values))

    def copied(self, folder):
        """Return this hospital with a copy of its ledger in another folder."""
        shutil.copytree(self.path.parent, folder)
        return self.having(ledger=str(folder / self.path.name))


def key(number, run="run-1", stage="ecg_masked"):
    return charge_key(run=run, stage=stage, number=number, what="train", weights=f"{number:064x}")


def hospital(folder, **values):
    """Return a hospital of 40 patients whose ledger is not made yet."""
    folder.mkdir(parents=True, exist_ok=True)
    stated = {"ledger": str(folder / "ledger.jsonl"), "patients": 40, "epsilon": 8.0, **values}
    return Hospital(SitePrivacy(**stated))


def with_charges(folder):
    """Return a hospital whose ledger holds three charges."""
    made = hospital(folder)
    made.init()
    for number in (1, 2, 3):
        made.charged(number)
    return made


def refused(code="privacy_ledger", match=None):
    return pytest.raises(PrivacyError, match=match, check=lambda error: error.code == code)
