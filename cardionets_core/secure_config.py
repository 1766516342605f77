"""Plain settings of secure aggregation: what a run plans, and what one message of it asks.

docs/secure_aggregation.md says what they do. Nothing here depends on patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["keys", "shares", "train", "agree", "unmask"]
"""The questions of a session, in their order; `agree` is asked where all sites sign."""

SECURE = "secure"
"""Group of arrays of secure aggregation in a message."""

KEYS, SHARES, RESIDUES, AGREEMENTS = "keys", "shares", "residues", "agreements"
"""Names of the arrays in it: uint8, one row per site of the roster, or one flat row."""

FEWEST = 2
"""Of a sum over one site nothing is hidden."""


@dataclass(frozen=True)
class SecureAggregationConfig:
    """How the updates of a run are added so that the server sees none of them.

    Attributes:
        enabled: whether they are.
        threshold: sites that a sum must be over, and that must be there to open it; how many of
            those that are asked at least, `lowest_threshold` says. 0: two thirds, and one more.
        clip: C; each site clips every value of its update to +-C before it is rounded. What is
            measured rather than learned has ranges of its own (measured.py).
        clips: part -> a C of its own.
    """

    enabled: bool = False
    threshold: int = 0
    clip: float = 4.0
    clips: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse numbers that no session can have."""
        if self.threshold < 0 or self.threshold == 1:
            raise ValueError(
                f"threshold is {self.threshold}; a sum over fewer than {FEWEST} sites hides "
                "nothing. Give 0 (two thirds of the sites, and one more) or a number of sites"
            )
        for name, clip in {"clip": self.clip, **self.clips}.items():
            if not (math.isfinite(clip) and clip > 0):
                raise ValueError(f"the clip of {name} is {clip}; it must be a number above 0")

    def threshold_for(self, sites: int) -> int:
        """Return the threshold among so many sites.

        floor(2 n / 3) + 1 holds while fewer than a third of the sites lie, where they sign what
        they were told (Bonawitz et al. 2017, section 6.2).
        """
        return self.threshold or min(sites, 2 * sites // 3 + 1)


@dataclass(frozen=True)
class SecureTask:
    """What one message of a session asks of a site.

    Attributes:
        session: its name, made anew for every try of a round.
        phase: which of the questions this is.
        threshold: as in the plan; the same in all phases, like clip, clips and largest.
        clip: likewise.
        clips: likewise.
        largest: the most training studies that a site of this round has declared.
        roster: sites whose keys came, in the order of the rows of `keys` and `shares`.
        present: sites whose answer to the question before came (`train`, `agree`); with `unmask`
            the same as with `agree`.
    """

    session: str
    phase: Phase
    threshold: int
    clip: float
    clips: dict[str, float]
    largest: int
    roster: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
