"""The ledger of a patient population: what its privacy has cost, in all runs and stages."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from cardionets_core.privacy.accounting import Charge
    from cardionets_core.privacy_config import PrivacyReport, SitePrivacy


class Ledger:
    """An open, locked ledger; `opened` makes it.

    Attributes:
        delta: of the guarantee.
        budget: the epsilon that may be spent.
    """

    delta: float
    budget: float

    @classmethod
    @contextmanager
    def opened(
        cls,
        settings: SitePrivacy,
        *,
        patients: Iterable[str],
        salt: str,
        expect_head: str = "",
        claim_folder: Path | None = None,
    ) -> Iterator[Ledger]:
        """Open, lock and check the site's ledger.

        Args:
            settings: the site's privacy settings.
            patients: ids of all patients of the site's table, of every split.
            salt: the site's secret (SiteData.salt).
            expect_head: newest head that the coordinator has seen (PrivateTask.head).
            claim_folder: the site's cache, where the ledger leaves its mark.

        Raises:
            PrivacyError: `privacy_ledger`.
        """
        raise NotImplementedError

    @property
    def head(self) -> str:
        """Hash of the newest entry, 64 hex digits."""
        raise NotImplementedError

    @property
    def entries(self) -> int:
        """How many entries there are."""
        raise NotImplementedError

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All charges, oldest first."""
        raise NotImplementedError

    def epsilon(self, more: Iterable[Charge] = ()) -> float:
        """Return what is spent, by RDP at `delta`, with `more` on top."""
        raise NotImplementedError

    def reserve(self, key: str, charge: Charge) -> str:
        """Charge before the first batch is drawn; return the head. Never refunded.

        Args:
            key: `charge_key` of the task; a key that is charged again costs again.
            charge: all steps of the task.

        Raises:
            PrivacyError: `privacy_spent`, when the budget does not cover it; `privacy_ledger`,
                when the entry could not be written to the disk.
        """
        raise NotImplementedError

    def report(self) -> PrivacyReport:
        """Return what an update may say of the ledger."""
        raise NotImplementedError


def charge_key(*, run: str, stage: str, number: int, what: str, weights: str) -> str:
    """Return the key of a task's charge.

    Args:
        run: name of the run.
        stage: name of the stage; `show` adds up by run and stage.
        number: of the round.
        what: `train`, `evaluate`, `handshake`.
        weights: SHA-256 of the incoming weights (or of the task).
    """
    raise NotImplementedError
