"""Arrays of a part that are measured, not learned: how they travel.

A learned weight forgives rounding: it moves by little in every round, and what was rounded off is
made up for in the next. A measured statistic is a number that is used as it is. The generator
divides by sqrt(square - mean^2) of the tokenizer's latents, where an error that is small beside
`square` may be all of the variance; and a private run measures once, in the last round, so that no
later round mends it. So no codec rounds these arrays, and a secure sum gives them a range of their
own.
"""

from __future__ import annotations

LARGEST_RMS = 100.0
"""Of a channel of latents: the largest that a private release can say, and 30 times what trained
tokenizers have."""

RANGES: dict[tuple[str, str], float] = {
    ("tokenizer", "latent_mean"): 2 * LARGEST_RMS,
    ("tokenizer", "latent_square"): LARGEST_RMS**2,
}
"""Part and name of the array -> how far it may move in one round: a mean from one end of
-LARGEST_RMS .. LARGEST_RMS to the other, a mean square from 0 to its largest."""
