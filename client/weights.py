"""The model of a task at its site: what travelled, what is the site's own, and what moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cardionets_core.checkpoint import load_parts, part_arrays
from cardionets_core.errors import SiteError, WireError
from cardionets_core.local_parts import HEAD_SOURCES, is_local, split
from cardionets_core.messages import MISSING_PARTS
from cardionets_core.models.cardionet import PARTS, CardioNet, build_model
from cardionets_core.packing import fingerprint
from cardionets_core.training.control import correction, next_control, server_control
from cardionets_core.training.stages import HEADS
from client.memory import CONTROL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from cardionets_core.messages import Task, TaskHeader
    from cardionets_core.packing import Groups
    from client.memory import Memory
    from client.site import Site


def gather_weights(task: Task, site: Site) -> Groups:
    """Return the weights of every part of the task: those that travelled and those kept here.

    Raises:
        SiteError: `missing_parts`, when a frozen part neither travelled nor is kept.
        WireError: weights that do not have the fingerprint of the header.
    """
    weights: Groups = {}
    for part, mark in task.header.parts.items():
        arrays = task.weights.get(part)
        if arrays is None:
            arrays = site.kept_part(part, mark)
            if arrays is None:
                raise SiteError(MISSING_PARTS)
        elif fingerprint(arrays) != mark:
            raise WireError(f"part {part!r} does not have the fingerprint of its task")
        elif part not in task.header.trains:
            site.keep_part(part, arrays)
        weights[part] = arrays
    return weights


def load_model(header: TaskHeader, weights: Groups, own: Groups) -> CardioNet:
    """Build the model of a task and load what travelled and what stays at the site.

    A tensor that stays, and that the site has not trained yet, begins where it begins in every
    site: at the seeded start or, in a head, at the aligned encoder.

    Args:
        header: of the task.
        weights: part -> name -> array, as they travelled or were kept.
        own: likewise, the site's personal tensors.

    Raises:
        CheckpointError: a tensor is missing, or of another shape.
        WireError: a tensor travelled that stays at the sites.
    """
    model = build_model(header.model, seed=header.model_seed)
    if not header.local:
        load_parts(model, {p: a for p, a in weights.items() if p in PARTS})
        return model
    loaded: set[str] = set()
    for part in PARTS:
        if part in HEADS.values() and loaded.issuperset(HEAD_SOURCES):
            model.start_head(part)
        start = part_arrays(model, part)
        stays = {n: a for n, a in start.items() if is_local(header.local, part, n)}
        arrived = weights.get(part, {})
        if stays.keys() & arrived.keys():
            raise WireError(f"a tensor of {part!r} travelled that stays at the sites")
        if arrived or len(stays) == len(start):
            trained = {n: own.get(part, {}).get(n, a) for n, a in stays.items()}
            load_parts(model, {part: arrived | trained})
            loaded.add(part)
    return model


def personal(model: CardioNet, parts: Iterable[str], patterns: Sequence[str]) -> Groups:
    """Return the tensors of these parts that stay at the site."""
    if not patterns:
        return {}
    return split({p: part_arrays(model, p) for p in parts}, patterns)[1]


def difference(model: CardioNet, before: Groups) -> Groups:
    """Return new minus old weights of the arrays in `before`, in their dtypes."""
    after = {part: part_arrays(model, part) for part in before}
    return {p: {n: after[p][n] - old for n, old in arrays.items()} for p, arrays in before.items()}


@dataclass(frozen=True)
class Controls:
    """SCAFFOLD's control variates in a task: the server's and the site's; nothing in other tasks.

    Attributes:
        used: whether the task is SCAFFOLD's.
        server: c; empty is zero.
        own: c_i; empty is zero.
    """

    used: bool
    server: Groups
    own: Groups

    @classmethod
    def of(cls, task: Task, memory: Memory, weights: Groups) -> Controls:
        """Return the control variates of a task.

        Args:
            task: the task.
            memory: of this stage.
            weights: the trained parts as they travelled.

        Raises:
            WireError: the server's does not look like the weights.
        """
        mode = task.header.train.control if task.header.train else "none"
        server = server_control(task.weights)
        for part, arrays in server.items():
            known = weights.get(part, {})
            if any(n not in known or known[n].shape != a.shape for n, a in arrays.items()):
                raise WireError(f"the control variate of {part!r} does not look like its weights")
        own = memory.groups.get(CONTROL, {}) if mode == "keep" else {}
        return cls(mode != "none", server, own)

    def correction(self, parts: Collection[str]) -> dict[str, torch.Tensor]:
        """Return name of a parameter of these parts -> what is added to its gradient."""
        groups = correction(self.server, self.own) if self.used else {}
        return {
            f"{part}.{name}": torch.from_numpy(array)
            for part, arrays in groups.items()
            if part in parts
            for name, array in arrays.items()
        }

    def after(self, model: CardioNet, delta: Groups, *, steps: int, lr: float) -> Groups:
        """Return the site's control variate after training with SCAFFOLD; see `next_control`."""
        learned = {
            part: {
                n: arrays[n] for n, _ in model.get_submodule(part).named_parameters() if n in arrays
            }
            for part, arrays in delta.items()
        }
        return next_control(self.own, self.server, learned, steps=steps, lr=lr)
