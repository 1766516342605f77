"""Which engine a private task may use on this machine: one that treats every row of a pass alike.

Where a patient stands in a pass follows from who else was sampled. A kernel may compute its first
and its last rows in another order than those between, or divide a sum over more workers there: then
a patient's last bits follow from their place, and under weights made for it their whole gradient
does (docs/privacy.md, Floating point). Orders of operations follow from shapes, not from numbers;
so one pass over a patient who does not exist, put into every row, shows whether they are all equal.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.engines import each_gradient
from cardionets_core.privacy.model_randomness import made_up_patients, moved
from cardionets_core.privacy.step import CHUNK, LOADED
from cardionets_core.training.loop import freeze_all_but

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.engines import Engine
    from cardionets_core.training.objective import Objective

SLOWER: dict[Engine, tuple[Engine, ...]] = {
    "ghost": ("ghost", "vmap"),
    "vmap": ("vmap",),
    "loop": (),
}
"""Engine -> those to try in turn, before one patient at a time."""

log = logging.getLogger("cardionets.site")


def engine_here(
    asked: Engine, model: CardioNet, objective: Objective, trains: Sequence[str]
) -> Engine:
    """Return the engine that is asked for, or one that computes alike at every place of a pass.

    The answer follows from the model's shapes and this machine, and from no patient and no weight:
    the weights are the server's choice, and could be such that nothing shows.

    Args:
        asked: `loop` has one row in a pass, and so is always such an engine.
        model: of the task, on its device.
        objective: in its private form.
        trains: parts whose parameters are differentiated.
    """
    for engine in SLOWER[asked]:
        if is_blind_to_places(model, objective, trains, engine=engine):
            return engine
        log.warning(
            "%s: this machine computes patients otherwise at other places of a pass, so the engine "
            "`%s` would not be private here; a slower one is used",
            objective.name,
            engine,
        )
    return "loop"


def is_blind_to_places(
    model: CardioNet, objective: Objective, trains: Sequence[str], *, engine: Engine
) -> bool:
    """Return whether an engine finds the same, bit for bit, in every row of a pass.

    Args:
        engine: `vmap` or `ghost`.
    """
    tried = moved(build_model(model.config, seed=0).to(model.device)).train()
    freeze_all_but(tried, trains)
    batch, noise = made_up_patients(tried, objective)
    chunk = LOADED if engine == "ghost" else CHUNK
    rows = torch.zeros(chunk, dtype=torch.long, device=model.device)
    batch, noise = batch.rows(rows), {k: v[rows] for k, v in noise.items()}
    if engine == "vmap":
        found = list(each_gradient(tried, objective, trains)(batch, noise).values())
    else:
        from cardionets_core.privacy.ghost import each_layer  # its libraries take seconds

        layers = each_layer(tried, batch, noise, objective, trains)
        found = [tensor for layer in layers for tensor in layer.held()]
    return all(_is_repeated(tensor) for tensor in found)


def _is_repeated(rows: Tensor) -> bool:
    return torch.equal(rows, rows[:1].expand_as(rows))
