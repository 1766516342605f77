"""From the updates of a round to one update: exact mean, or a robust rule over all of them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cardionets_core.errors import RunError
from server.aggregation import ExactMean
from server.strategies.robust import add_distances, krum_choice, median, trimmed_mean
from server.strategies.spool import Spool, SpoolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cardionets_core.packing import Groups
    from cardionets_core.strategy_config import StrategyConfig

    Floats = NDArray[np.float64]


class Combiner(Protocol):
    """Takes the screened updates of a round in any order and makes one of them."""

    def fold(self, site: str, delta: Groups, weight: int | Mapping[str, int]) -> None:
        """Take a site's update with its weight (training studies), for all parts or for each."""

    def combined(self) -> Groups:
        """Return the update of the round, float64, per part over the sites that trained it."""

    def chosen(self) -> list[str]:
        """Return the sites that the rule kept, where it keeps some and drops others, or []."""


@contextmanager
def combining(strategy: StrategyConfig, folder: Path) -> Iterator[Combiner]:
    """Give the combiner of a strategy; what it wrote to `folder` is gone at the end.

    Raises:
        RunError: the updates could not be kept there, or not read back.
    """
    if not strategy.robust:
        yield _Mean()
        return
    spool = Spool(folder)
    try:
        yield _Robust(strategy, spool)
    except SpoolError as error:
        raise RunError(
            f"{folder}: {error}. Strategy {strategy.name} keeps every site's update there for a "
            "round; make room, then resume the run."
        ) from error
    finally:
        spool.remove()


class _Mean:
    """The exact mean, weighted by training studies; forgets each update at once."""

    def __init__(self) -> None:
        self._mean = ExactMean()

    def fold(self, site: str, delta: Groups, weight: int | Mapping[str, int]) -> None:
        self._mean.fold(delta, weight)

    def combined(self) -> Groups:
        return self._mean.mean()

    def chosen(self) -> list[str]:
        return []


class _Robust:
    """Median, trimmed mean, Krum and Multi-Krum; keeps all updates on disk."""

    def __init__(self, strategy: StrategyConfig, spool: Spool) -> None:
        self._strategy = strategy
        self._spool = spool
        self._chosen: set[str] = set()

    def fold(self, site: str, delta: Groups, weight: int | Mapping[str, int]) -> None:
        self._spool.add(site, delta)

    def combined(self) -> Groups:
        groups: Groups = {}
        needed, why = self._strategy.sites_needed()
        for sites, parts in self._spool.parts().items():
            if len(sites) < needed:
                raise RunError(
                    f"{', '.join(parts)} came back from {len(sites)} sites; "
                    f"{self._strategy.name} needs {needed} ({why})."
                )
            kept = self._kept(sites, parts)
            for part in parts:
                flat = np.empty(self._spool.size(part))
                for where, values in self._spool.blocks(part, kept):
                    flat[where] = self._rule(values)
                groups[part] = self._spool.arrays(part, flat)
        return groups

    def chosen(self) -> list[str]:
        return sorted(self._chosen)

    def _rule(self, values: Floats) -> Floats:
        if self._strategy.name == "median":
            return median(values)
        if self._strategy.name == "trimmed_mean":
            return trimmed_mean(values, self._strategy.numbers()["trim"])
        mean: Floats = values.mean(axis=0)
        return mean

    def _kept(self, sites: Sequence[str], parts: Sequence[str]) -> list[str]:
        """Return the sites whose values count: all, or those that Krum chose over all `parts`.

        Parts that the same sites trained are judged together: an encoder belongs to its decoder.
        """
        if self._strategy.name not in ("krum", "multi_krum"):
            return list(sites)
        distances = np.zeros((len(sites), len(sites)))
        for part in parts:
            for _, values in self._spool.blocks(part, sites):
                add_distances(distances, values)
        malicious = int(self._strategy.numbers()["malicious"])
        keep = int(self._strategy.numbers().get("keep", 1)) or len(sites) - malicious - 2
        rows = krum_choice(distances, malicious=malicious, keep=keep)
        names = sorted(sites[i] for i in rows)
        self._chosen.update(names)
        return names
