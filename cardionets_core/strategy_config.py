"""StrategyConfig: how the updates of a round become the next global model, and from how many."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cardionets_core.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

StrategyName = Literal[
    "fedavg",
    "fedprox",
    "scaffold",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
]

STRATEGIES: dict[str, dict[str, float]] = {
    "fedavg": {},
    "fedprox": {"mu": 0.01},
    "scaffold": {"lr": 1.0},
    "fedavgm": {"lr": 1.0, "momentum": 0.9},
    "fedadam": {"lr": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "fedyogi": {"lr": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "median": {},
    "trimmed_mean": {"trim": 0.2},
    "krum": {"malicious": 1},
    "multi_krum": {"malicious": 1, "keep": 0},
}
"""Strategy -> its options and their defaults; `keep` 0 is all that Krum's proof covers."""

_SHARE = (lambda v: 0 <= v < 1, "at least 0 and below 1")
_WHOLE = (lambda v: v >= 0 and v == int(v), "a whole number of sites, 0 or more")
_ALLOWED: dict[str, tuple[Callable[[float], bool], str]] = {
    "mu": (lambda v: v >= 0, "at least 0"),
    "lr": (lambda v: v > 0, "above 0"),
    "momentum": _SHARE,
    "beta_1": _SHARE,
    "beta_2": _SHARE,
    "tau": (lambda v: v > 0, "above 0"),
    "trim": (lambda v: 0 < v < 0.5, "above 0 and below 0.5"),
    "malicious": _WHOLE,
    "keep": _WHOLE,
}


@dataclass(frozen=True)
class StrategyConfig:
    """How updates become the next global model; docs/strategies.md has the formulas.

    Attributes:
        name: the strategy.
        options: its numbers; those that are not named are the ones of STRATEGIES.
    """

    name: StrategyName = "fedavg"
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse options that this strategy does not have, and values that it cannot take."""
        known = STRATEGIES[self.name]
        for key, value in self.options.items():
            if key not in known:
                listed = ", ".join(known) or "none"
                raise ValueError(
                    f"{self.name} has no option {key!r}{nearest(key, known)}. Its options: {listed}"
                )
            allowed, words = _ALLOWED[key]
            if not (math.isfinite(value) and allowed(value)):
                raise ValueError(f"option {key} is {value}; it must be {words}")

    @property
    def robust(self) -> bool:
        """Whether the rule doubts the updates, and so must see all of them at once."""
        return self.name in ("median", "trimmed_mean", "krum", "multi_krum")

    def numbers(self) -> dict[str, float]:
        """Return every option of the strategy with its value."""
        return STRATEGIES[self.name] | self.options

    def sites_needed(self) -> tuple[int, str]:
        """Return how many updates a round must bring for the rule to hold, and why."""
        numbers = self.numbers()
        if self.name == "median":
            return 3, "a median outvotes one wrong site among 3"
        if self.name == "trimmed_mean":
            sites = max(3, math.ceil(1 / numbers["trim"]))
            sites += int(numbers["trim"] * sites) < 1  # 1 / trim was rounded down
            return sites, f"trim={numbers['trim']:g} cuts nobody among fewer"
        if self.name in ("krum", "multi_krum"):
            wrong, keep = int(numbers["malicious"]), int(numbers.get("keep", 1))
            needed = max(2 * wrong + 3, keep + wrong + 2)
            why = "2 x malicious + 3" if needed == 2 * wrong + 3 else "keep + malicious + 2"
            return needed, f"{why} with malicious={wrong}"
        return 1, "a mean needs one"
