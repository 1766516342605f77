"""Charges this hospital's privacy ledger, before anything that costs privacy is computed."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.ledger_entries import charge_key
from client.memory import answered_heads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.messages import TaskHeader
    from cardionets_core.privacy.accounting import Charge
    from cardionets_core.privacy_config import PrivacyReport
    from client.site import Site


def charged(
    site: Site,
    dataset: SiteDataset,
    header: TaskHeader,
    charges: Mapping[str, Charge],
    *,
    mark: str,
) -> PrivacyReport:
    """Charge a task, all of it or nothing, and return what the ledger then says.

    Args:
        site: this hospital.
        dataset: its records; the ledger is of all patients in them.
        header: of a private task.
        charges: all that the task will cost: what for -> an entry of the ledger.
        mark: of the task (`task_mark`): it holds the weights, so that other weights cost again.

    Raises:
        PrivacyError: `privacy_spent` or `privacy_ledger`; nothing may be computed then.
    """
    run, stage, number = header.run, header.stage, header.round
    keyed = {
        charge_key(run=run, stage=stage, number=number, what=what, weights=mark): charge
        for what, charge in charges.items()
    }
    with _opened(site, dataset, header) as ledger:
        ledger.reserve_together(keyed)
        return ledger.report()


def uncharged(site: Site, dataset: SiteDataset, header: TaskHeader) -> PrivacyReport:
    """Return what the ledger says where an answer holds nothing of any patient.

    Raises:
        PrivacyError: `privacy_ledger`.
    """
    with _opened(site, dataset, header) as ledger:
        return ledger.report()


@contextmanager
def _opened(site: Site, dataset: SiteDataset, header: TaskHeader) -> Iterator[Ledger]:
    assert header.privacy is not None
    with Ledger.opened(
        site.config.privacy,
        patients=dataset.manifest.table["patient_id"].unique(),
        salt=site.config.data.salt,
        expect_head=header.privacy.head_of(run=header.run, site=site.name),
        answered=answered_heads(site.runs),
        claim_folder=Path(site.config.data.cache),
        table=Path(site.config.data.manifest),
    ) as ledger:
        yield ledger
