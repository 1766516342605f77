"""What each stage minimises: a name, a draw of all randomness and a loss per patient.

    objective = make_objective("contrastive", {"temperature": 0.05}, progress=0.3)
    noise = objective.draw(model, batch, generator)
    loss = objective.loss(model, batch, noise).per_patient.mean()

Rules that every objective keeps:
- All randomness comes from `draw`; every tensor of it has leading dimension B, so it can be sliced
  with the batch. It is drawn on the generator's device and moved: the same bits on every device.
- `per_patient` [B] is what is averaged. Where `Objective.per_patient` is True, row i depends on
  patient i and noise row i only, which is what per-patient clipping needs.
- Missing values are masked and averaged within the patient. A patient who has nothing that the
  objective needs gives exactly 0 and would dilute the mean: the loop samples only patients who
  have it (`NEEDS`).
- The objective never freezes anything: the loop lets gradients reach the parts that the stage
  trains. Only what an objective uses as a given (latents, the condition's ECG features, a teacher)
  is detached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError, nearest
from cardionets_core.training.alignment import CONTRASTIVE, DISTILL
from cardionets_core.training.generative import GENERATIVE, TOKENIZER
from cardionets_core.training.masked import CMR_MASKED, ECG_MASKED
from cardionets_core.training.objective import Losses, Noise, Objective, ObjectiveKind
from cardionets_core.training.supervised import DISEASES, PHENOTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KINDS", "NEEDS", "TRAINED_PARTS", "Losses", "Noise", "Objective", "make_objective"]

KINDS: dict[str, ObjectiveKind] = {
    kind.name: kind
    for kind in (
        ECG_MASKED,
        CMR_MASKED,
        TOKENIZER,
        CONTRASTIVE,
        DISTILL,
        GENERATIVE,
        PHENOTYPES,
        DISEASES,
    )
}
"""Name -> objective kind."""

NEEDS: dict[str, frozenset[str]] = {name: kind.needs for name, kind in KINDS.items()}
"""Name -> what a patient must have to be sampled (words of SiteDataset.indices)."""

TRAINED_PARTS: dict[str, tuple[str, ...]] = {name: kind.parts for name, kind in KINDS.items()}
"""Name -> the parts that a stage with this objective trains by default."""


def make_objective(name: str, options: Mapping[str, float], progress: float) -> Objective:
    """Return the objective `name` with `options` over its defaults.

    Args:
        name: one of KINDS.
        options: numbers by name; the kind's `defaults` lists what there is.
        progress: share of the stage's rounds that are done, in [0, 1).

    Raises:
        ConfigError: an unknown objective or option, or a progress out of range.
    """
    if name not in KINDS:
        raise ConfigError(
            f"objective {name!r} is unknown{nearest(name, KINDS)}. Known: {', '.join(KINDS)}."
        )
    kind = KINDS[name]
    for key in options:
        if key not in kind.defaults:
            known = ", ".join(kind.defaults) or "none"
            raise ConfigError(
                f"objective {name!r}: unknown option {key!r}{nearest(key, kind.defaults)}. "
                f"Known options: {known}."
            )
    if not 0.0 <= progress < 1.0:
        raise ConfigError(f"objective {name!r}: progress {progress} is not in [0, 1).")
    return kind.make({**kind.defaults, **options}, progress)
