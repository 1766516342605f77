"""Makes the first and only ledger of a patient population, with terms that stay."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from cardionets_core.privacy import population
from cardionets_core.privacy.ledger import ledger_path
from cardionets_core.privacy.ledger_entries import FORMAT, OPEN, Terms
from cardionets_core.privacy.ledger_file import check_new, create, refuse
from cardionets_core.privacy.order import usual_order
from cardionets_core.privacy.population import Population

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cardionets_core.privacy_config import SitePrivacy


def init_ledger(
    settings: SitePrivacy,
    *,
    patients: Iterable[str],
    salt: str,
    order: float | None = None,
    claim_folder: Path | None = None,
    table: Path | None = None,
) -> str:
    """Make the first and only ledger of a population; return its head.

    Args:
        settings: the site's privacy settings; epsilon and delta are recorded.
        patients: ids of all patients of the site's table.
        salt: the site's secret.
        order: at which everything will be charged; None: the usual one of epsilon and delta.
        claim_folder: the site's cache.
        table: the site's manifest.

    Raises:
        PrivacyError: there is or was one, the patients are in another one, or delta is above 1/n.
    """
    path, name = ledger_path(settings), secrets.token_hex(16)
    own = Population.of(name, patients, salt)
    if not own.digests:
        raise refuse("The site's table holds no patient; prepare the records first.")
    if settings.delta > 1 / len(own.digests):
        raise refuse(
            f"privacy.delta is {settings.delta:g}, above 1 / patients: publishing one whole record "
            f"would pass. A tenth of 1 / patients ({0.1 / len(own.digests):.2g}) or less is usual."
        )
    if not path.parent.is_dir():
        raise refuse(f"{path.parent} does not exist; make the folder on a disk that is backed up.")
    check_new(path)
    population.check_strangers(path, own)
    population.check_marks(path, claim_folder, table)
    population.write(path, own)
    terms = Terms(
        ledger=name,
        epsilon=settings.epsilon,
        delta=settings.delta,
        order=usual_order(settings.epsilon, settings.delta) if order is None else order,
        patients=settings.patients,
    )
    body = {"kind": OPEN, "format": FORMAT, "time": int(time.time()), **asdict(terms)}
    head = create(path, body).hash
    population.leave_marks(path, name, claim_folder, table)
    return head
