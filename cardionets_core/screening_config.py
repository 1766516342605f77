"""ScreeningConfig: what the update firewall lets through (server/screening.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScreeningConfig:
    """The bounds of the update firewall; docs/screening.md says how each number is used.

    Attributes:
        max_norm: largest L2 norm of a part's update, whatever the others send; 0 is off.
        norm_factor: an update may be this many times the median of those used before; 0 is off.
        norm_after: updates of the stage that must have been used before the median judges.
        norm_rounds: rounds of the stage that the median looks back on.
        norm_floor: an update of at most this share of its part's own norm is never too large.
        remembered: hashes of used updates that are kept, to know a replay.
    """

    max_norm: float = 0.0
    norm_factor: float = 5.0
    norm_after: int = 4
    norm_rounds: int = 10
    norm_floor: float = 1e-3
    remembered: int = 10_000

    def __post_init__(self) -> None:
        """Refuse numbers that would refuse everybody, or that mean nothing."""
        for name in ("max_norm", "norm_factor", "norm_floor", "remembered"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("norm_after", "norm_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if 0 < self.norm_factor < 1:
            raise ValueError(
                f"norm_factor is {self.norm_factor}; below 1 it refuses half of all honest "
                "updates. Give 1 or more, or 0 to switch it off"
            )
