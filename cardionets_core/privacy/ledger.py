"""The ledger of a patient population: what its privacy has cost, in all runs, stages and metrics.

    with Ledger.opened(settings, patients=ids, salt=salt, expect_head=task.head) as ledger:
        ledger.reserve(key, mechanism.charge)      # all steps of the round, before its first batch
        report = ledger.report()

Opacus' accountant lives in memory and forgets with its process. This one charges first, on the
disk (ledger_file.py), for known patients (population.py), at one Renyi order that its first entry
fixes (order.py), and never gives back. docs/privacy.md, Ledger, has the rules; the text of its
errors stays at the site.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.errors import PrivacyError
from cardionets_core.privacy import population
from cardionets_core.privacy.accounting import epsilon_at
from cardionets_core.privacy.ledger_entries import (
    CHARGE,
    CLOCK,
    RAISE,
    Terms,
    charge_of,
    item_of,
    raises_of,
)
from cardionets_core.privacy.ledger_file import EntryFile, refuse
from cardionets_core.privacy.order import first_charge
from cardionets_core.privacy.population import Population
from cardionets_core.privacy_config import PrivacyReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cardionets_core.privacy.accounting import Charge
    from cardionets_core.privacy.ledger_entries import Item, Raised
    from cardionets_core.privacy_config import SitePrivacy

CLOCK_SLACK_S = 300
"""A clock may be put right by so much; more means a restored machine, or a wrong clock."""

SAME = 1 + 1e-9
"""Two sums of the same charges may differ in their last bits."""


class Ledger:
    """An open, locked ledger; `opened` makes it.

    Args:
        file: its entries.
        settings: the site's privacy settings.

    Attributes:
        delta: of the guarantee: the YAML's, and at most the one that the ledger was made with.
        budget: the epsilon that may be spent: the site's own, which is at most the recorded one.
        recorded: the epsilon that the ledger's newest `open` or `raise` names.
        terms: what was fixed when the ledger was made; a raised budget changes none of it.
    """

    def __init__(self, file: EntryFile, settings: SitePrivacy) -> None:
        self._file = file
        try:
            self.terms = Terms.of(file.entries[0].body)
        except (ValueError, KeyError, TypeError) as error:
            raise refuse(
                f"{file.path} is not a ledger of this version ({error}): an order cannot be fixed "
                "after the first charge. Use the version that made it; what it spent counts on."
            ) from error
        self.delta, self.budget = min(settings.delta, self.terms.delta), settings.epsilon
        self._stated_delta = settings.delta
        self._is_bound = False
        self.recorded = self.raises[-1].epsilon if self.raises else self.terms.epsilon

    @classmethod
    @contextmanager
    def opened(
        cls,
        settings: SitePrivacy,
        *,
        patients: Iterable[str],
        salt: str,
        expect_head: str = "",
        answered: Iterable[str] = (),
        claim_folder: Path | None = None,
        table: Path | None = None,
    ) -> Iterator[Ledger]:
        """Open, lock and check the site's ledger.

        Args:
            settings: the site's privacy settings.
            patients: ids of all patients of the site's table, of every split.
            salt: the site's secret (SiteData.salt).
            expect_head: newest head that the coordinator has seen (PrivateTask.head_of).
            answered: heads in the answers that the site has kept.
            claim_folder: the site's cache, where the ledger leaves its mark.
            table: the site's manifest, beside which it leaves another one if it can.

        Raises:
            PrivacyError: `privacy_ledger`.
        """
        with cls.read(settings) as ledger:
            too_much = ledger.above_recorded()
            if too_much:
                raise refuse(too_much)
            ledger.check_clock()
            ledger._check_heads({expect_head} - {""}, "the coordinator has seen")
            ledger.check_answered(answered)
            population.bound(ledger.path, Population.of(ledger.terms.ledger, patients, salt))
            population.leave_marks(ledger.path, ledger.terms.ledger, claim_folder, table)
            ledger._is_bound = True
            yield ledger

    @classmethod
    @contextmanager
    def read(cls, settings: SitePrivacy) -> Iterator[Ledger]:
        """Open and lock the ledger without asking whose it is: to look at it, or raise it.

        Raises:
            PrivacyError: `privacy_ledger`; `privacy_plan` where the site names no ledger.
        """
        with EntryFile.opened(ledger_path(settings)) as file:
            yield cls(file, settings)

    @property
    def path(self) -> Path:
        """The file of the entries."""
        return self._file.path

    @property
    def head(self) -> str:
        """Hash of the newest entry, 64 hex digits."""
        return self._file.entries[-1].hash

    @property
    def entries(self) -> int:
        """How many entries there are."""
        return len(self._file.entries)

    @property
    def written(self) -> int:
        """When the newest entry was written, in seconds since the epoch."""
        return int(self._file.entries[-1].body["time"])

    @property
    def order(self) -> float:
        """Renyi's alpha, at which everything is charged."""
        return self.terms.order

    @property
    def items(self) -> tuple[Item, ...]:
        """All charges with run, stage and round, oldest first."""
        return tuple(item_of(e.body) for e in self._file.entries if e.body["kind"] == CHARGE)

    @property
    def raises(self) -> tuple[Raised, ...]:
        """All raised budgets, oldest first."""
        return raises_of([e.body for e in self._file.entries])

    @property
    def promised(self) -> float:
        """The epsilon that was recorded before the first charge: what was fixed beforehand."""
        kinds = [e.body["kind"] for e in self._file.entries]
        first = kinds.index(CHARGE) if CHARGE in kinds else len(kinds)
        sooner = [r.epsilon for r in self.raises if r.entry <= first]
        return sooner[-1] if sooner else self.terms.epsilon

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All charges, oldest first."""
        return tuple(charge_of(e.body) for e in self._file.entries if e.body["kind"] == CHARGE)

    def epsilon(self, more: Iterable[Charge] = ()) -> float:
        """Return what is spent, by RDP at `order` and `delta`, with `more` on top."""
        return epsilon_at((*self.charges, *more), self.delta, self.order)

    def reserve(self, key: str, charge: Charge) -> str:
        """Charge before the first batch is drawn; return the head. Never refunded.

        Args:
            key: `charge_key` of the task; a key that is charged again costs again.
            charge: all steps of the task.

        Raises:
            PrivacyError: as `reserve_together`.
        """
        return self.reserve_together({key: charge})

    def reserve_together(self, charges: Mapping[str, Charge]) -> str:
        """Charge all that a task costs, one entry each, or nothing; return the head.

        Args:
            charges: key -> what is charged under it.

        Raises:
            PrivacyError: `privacy_spent`, when the budget does not cover all of it;
                `privacy_ledger`, when an entry could not be written to the disk.
        """
        if not self._is_bound:
            raise ValueError("a ledger that was opened to be read cannot be charged: use `opened`")
        after = self.epsilon(charges.values())
        if not after <= self.budget * SAME:
            asked = " and ".join(
                f"{c.steps} steps of noise {c.noise:g} at rate {c.rate:g}" for c in charges.values()
            )
            raise PrivacyError(
                "privacy_spent",
                f"{self.path}: epsilon {self.epsilon():.3f} of {self.budget:g} is spent, and "
                f"{asked} would make it {after:.3f}{self._of_order()}. Nothing was computed; "
                "`cardionets-site budget show` lists what was spent, and the hospital alone may "
                "raise it (`budget raise`).",
            )
        keys = Counter(e.body.get("key") for e in self._file.entries)
        for key, charge in charges.items():
            values = {"noise": charge.noise, "rate": charge.rate, "steps": charge.steps}
            self._append(CHARGE, key=key, attempt=keys[key] + 1, **values)
        return self.head

    def _of_order(self) -> str:
        """Return what is said of a budget in which the ledger's order leaves no room at all."""
        least = first_charge(self.delta, self.order)
        if self.budget > least:
            return ""
        return f" (at its order {self.order:g} the first charge alone counts {least:.3f})"

    def report(self) -> PrivacyReport:
        """Return what an update may say of the ledger."""
        return PrivacyReport(
            epsilon=self.epsilon(),
            delta=self.delta,
            head=self.head,
            entries=self.entries,
            budget=self.budget,
            order=self.order,
            promised=self.promised,
            raises=len(self.raises),
        )

    def raise_budget(self, epsilon: float) -> None:
        """Record a larger budget, at the order that stands: an explicit act of the hospital.

        Raises:
            PrivacyError: as `check_raise`, or it cannot be written.
        """
        self.check_raise(epsilon)
        self._append(RAISE, epsilon=epsilon)
        self.recorded = epsilon

    def check_raise(self, epsilon: float) -> None:
        """Refuse what `raise_budget` would, before a person is asked.

        Raises:
            PrivacyError: it is no budget, or no larger than the one that is recorded.
        """
        self.check_clock()
        if not math.isfinite(epsilon):
            raise refuse(
                f"epsilon {epsilon} is no budget: it would never be spent. Name a number above "
                f"{self.recorded:g}, which {self.path} records."
            )
        if not epsilon > self.recorded:
            raise refuse(
                f"{self.path} records epsilon {self.recorded:g} already; to spend less, lower "
                "privacy.epsilon in the site's YAML."
            )

    def accept_clock(self) -> None:
        """Record that the clock now says an earlier time, and that a person has looked why."""
        self._append(CLOCK)

    def _append(self, kind: str, **values: Any) -> None:
        now = int(time.time())
        stamp = now if kind == CLOCK else max(now, self.written)
        self._file.append({"kind": kind, "time": stamp, **values})

    def above_recorded(self) -> str:
        """Return why a YAML that allows more than an explicit act recorded is refused, or ''."""
        for name, stated, recorded in (
            ("epsilon", self.budget, self.recorded),
            ("delta", self._stated_delta, self.terms.delta),
        ):
            if stated > recorded * SAME:
                way = "record it with `cardionets-site budget raise`" if name == "epsilon" else ""
                return (
                    f"privacy.{name} is {stated:g}, but {self.path} allows {recorded:g}. "
                    f"Lower privacy.{name}{', or ' + way if way else ''}."
                )
        return ""

    def check_clock(self) -> None:
        """Refuse a clock that went back.

        Raises:
            PrivacyError: `privacy_ledger`.
        """
        now = time.time()
        if now < self.written - CLOCK_SLACK_S:
            raise refuse(
                f"{self.path}: its newest entry is of {_date(self.written)}, but the clock says "
                f"{_date(now)}: the machine was put back to an earlier state, or its clock is "
                "wrong. Set the clock; if it is right and no entry is missing, `cardionets-site "
                "budget accept-clock`."
            )

    def check_answered(self, heads: Iterable[str]) -> None:
        """Refuse a ledger that lacks a head which an answer that the site has kept bears.

        Raises:
            PrivacyError: `privacy_ledger`.
        """
        self._check_heads(heads, "a kept answer of this site bears")

    def _check_heads(self, expected: Iterable[str], known_by: str) -> None:
        missing = sorted(set(expected) - {entry.hash for entry in self._file.entries})
        if missing:
            raise refuse(
                f"{self.path} lacks an entry that {known_by} (hash {missing[0][:12]!r}...): it was "
                "put back from an older backup, or is another ledger. Put back its newest state, "
                "all three files. What was charged since the backup stands nowhere else: the two "
                "cannot be merged, and a copy that was charged in the meantime is no substitute. "
                "If the newest state is lost, these patients can take part in no further private "
                "run."
            )


def ledger_path(settings: SitePrivacy) -> Path:
    """Return where a site's ledger is.

    Raises:
        PrivacyError: `privacy_plan`, when the site names none, or not by its whole path.
    """
    if not settings.ledger:
        raise PrivacyError(
            "privacy_plan",
            "privacy.ledger is not set in the site's YAML, so this site takes no part in private "
            "runs. Name a file, then `cardionets-site budget init`.",
        )
    path = Path(settings.ledger)
    if not path.is_absolute():
        raise refuse(
            f"privacy.ledger names {path}, which is another place for a service that starts "
            "elsewhere; write the whole path."
        )
    return path


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
