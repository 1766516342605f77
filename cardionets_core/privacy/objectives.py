"""What each stage minimises where patients are clipped: who may be in one loss together.

Clipping bounds a patient's part of a step only where the loss is a sum over what is clipped. Most
objectives are sums over patients. Contrastive alignment is not: every patient is a negative of all
others, and per-patient gradients of such a loss, though they can be computed, are clipped in vain
(docs/privacy.md, section "Contrastive losses"). Here it becomes a sum over buckets, or a sum over
patients whose negatives are public.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.bank import Bank, Negatives
from cardionets_core.runtime import derive_seed
from cardionets_core.training.alignment import (
    CONTRASTIVE,
    encode_pairs,
    negative_weights,
    pair_losses,
)
from cardionets_core.training.objective import Losses, Noise, Objective
from cardionets_core.training.objectives import KINDS, make_objective

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy_config import PrivateTask


def is_decomposable(name: str, options: Mapping[str, float] | None = None) -> bool:
    """Return whether an objective is a sum over patients, which per-patient clipping needs.

    Raises:
        ConfigError: an unknown objective or option.
    """
    return make_objective(name, options or {}, 0.0).per_patient


def private_objective(
    name: str,
    options: Mapping[str, float],
    progress: float,
    *,
    task: PrivateTask,
    bank: Bank | None = None,
) -> Objective:
    """Return the objective `name` in a form that the mechanism of `task` bounds.

    Args:
        name: one of training.objectives.KINDS.
        options: numbers by name.
        progress: share of the stage's rounds that are done, in [0, 1).
        task: says how a contrastive loss is made private.
        bank: public negatives; needed for `public_negatives` only.

    Returns:
        An objective to be clipped per patient where its `per_patient` is True. Where it is not, its
        mean over a bucket is one loss, to be clipped per bucket: all that it computes over its
        batch (weights of negatives, regression) stays inside the bucket.

    Raises:
        ConfigError: an unknown objective or option; a loss that mixes patients and has no private
            form here, or not the one that is asked; no bank.
    """
    objective = make_objective(name, options, progress)
    if objective.per_patient:
        return objective
    if name != CONTRASTIVE.name:
        raise ConfigError(_mixes(name) + " It has no private form: leave the stage out.")
    if task.contrastive == "bucket":
        return objective
    if task.contrastive == "public_negatives":
        return _public_negatives({**KINDS[name].defaults, **options}, bank, progress)
    raise ConfigError(
        f"{_mixes(name)} privacy.contrastive is {task.contrastive!r}; choose public_negatives "
        "(where sites have a bank of public records) or bucket."
    )


def _mixes(name: str) -> str:
    return (
        f"objective {name}: a patient's loss depends on the other patients of the batch, so that "
        "clipping per patient bounds nothing (one patient moves the sum by several times C)."
    )


def _public_negatives(options: dict[str, float], bank: Bank | None, progress: float) -> Objective:
    if bank is None:
        raise ConfigError(
            "privacy.contrastive=public_negatives needs a bank of public records at the site: name "
            "a prepared folder as privacy.bank in the site's YAML, or plan "
            "privacy.contrastive=bucket."
        )
    loss = partial(public_negatives_loss, options=options)
    return Objective(CONTRASTIVE.name, StepNegatives(bank, progress), loss, per_patient=True)


class StepNegatives:
    """Draws the negatives of a step: the same ones, from the bank alone, for everybody in it.

    They are embedded without gradient when the weights have changed and kept while they stay as
    they are: a step asks for them once per patient. Neither the patient, nor the number of
    patients, nor a random number of theirs is of any account; nor how many steps had nobody in
    them, whom nobody asks: which records are drawn follows from the updates of the weights alone.

    Args:
        bank: of public records.
        progress: of the stage; other rounds begin with other records.
    """

    def __init__(self, bank: Bank, progress: float) -> None:
        self._bank, self._progress = bank, progress
        self._weights: tuple[int, ...] = ()
        self._drawn: dict[str, Tensor] = {}

    def __call__(self, model: CardioNet, batch: Batch, generator: torch.Generator) -> Noise:
        """Return the step's negatives by name, each [B, ...]: rows are views of one tensor."""
        weights = tuple(w for p in model.parameters() for w in (id(p), p._version))
        if weights != self._weights:
            updates = sum(p._version for p in model.parameters())
            seed = derive_seed("bank", self._bank.digest, str(self._progress), updates)
            self._drawn = self._bank.draw(model, torch.Generator().manual_seed(seed)).tensors()
            self._weights = weights
        return {k: v.expand(len(batch), *v.shape) for k, v in self._drawn.items()}


def public_negatives_loss(
    model: CardioNet, batch: Batch, noise: Noise, *, options: dict[str, float]
) -> Losses:
    """Symmetric InfoNCE of each patient against public negatives, plus their own regression.

    Row i depends on patient i, the public bank and the weights only. As in training.alignment,
    with two differences: all negatives are the bank's, and distances by descriptor are scaled by
    the spread over the bank and not over the batch.
    """
    negatives = Negatives(**noise)
    pairs = encode_pairs(model, batch, freeze_cmr=bool(options["freeze_cmr"]))
    to_ecg, to_cmr = _weights(batch, pairs.cmr.detach().float(), negatives, options=options)
    alignment = bank_nce(
        model.project_ecg(pairs.ecg),
        model.project_cmr(pairs.cmr),
        negatives,
        to_ecg=to_ecg,
        to_cmr=to_cmr,
        temperature=options["temperature"],
    )
    return pair_losses(model, batch, pairs, alignment, weight=options["phenotype_weight"])


def bank_nce(
    ecg: Tensor,
    cmr: Tensor,
    negatives: Negatives,
    *,
    to_ecg: Tensor,
    to_cmr: Tensor,
    temperature: float,
) -> Tensor:
    """Return the InfoNCE of each pair against the bank, [B]: the mean of both directions.

    -log(e^{s_i} / (e^{s_i} + sum_k w_ik e^{s_ik})), s = cosine / temperature: s_i of the pair, s_ik
    of the patient's ECG and CMR k of the bank; the mirror with the bank's ECGs.

    Args:
        ecg: unit vectors [B, E] of patients.
        cmr: unit vectors [B, E] of the same patients.
        negatives: of the bank.
        to_ecg: [B, K] weights in [0, 1] of the bank's ECGs.
        to_cmr: [B, L] weights of the bank's CMRs.
        temperature: above 0.
    """
    ecg, cmr = ecg.float(), cmr.float()
    own = (ecg * cmr).sum(-1, keepdim=True) / temperature
    forwards = torch.einsum("be,ble->bl", ecg, negatives.cmr) / temperature
    backwards = torch.einsum("be,bke->bk", cmr, negatives.ecg) / temperature
    each = [
        torch.cat([own, logits + _log(weights)], dim=1).logsumexp(1) - own[:, 0]
        for logits, weights in ((forwards, to_cmr), (backwards, to_ecg))
    ]
    return 0.5 * (each[0] + each[1])


def _log(weights: Tensor) -> Tensor:
    return weights.clamp(min=torch.finfo(weights.dtype).tiny).log()


def _weights(
    batch: Batch, descriptor: Tensor, negatives: Negatives, *, options: dict[str, float]
) -> tuple[Tensor, Tensor]:
    """Return the weights of the bank's ECGs [B, K] and of its CMRs [B, L].

    An unknown distance leaves a negative at full weight: an ECG of the bank has no CMR descriptor.
    """
    sigma = options["sigma"]
    if options["descriptor_phenotypes"]:
        known = batch.phenotype_mask.to(batch.phenotypes.dtype)
        value = batch.phenotypes * known
        return (
            negative_weights(
                _mean_square(value, known, negatives.ecg_phenotypes, negatives.ecg_known), sigma
            ),
            negative_weights(
                _mean_square(value, known, negatives.cmr_phenotypes, negatives.cmr_known), sigma
            ),
        )
    gap = (descriptor[:, None] - negatives.descriptor).square().sum(-1)
    to_cmr = negative_weights(gap / negatives.energy[:, None], sigma)
    return torch.ones_like(negatives.ecg[..., 0]), to_cmr


def _mean_square(value: Tensor, known: Tensor, other: Tensor, other_known: Tensor) -> Tensor:
    """Return mean squared distances [B, K] over the phenotypes that both have; infinite if none."""
    shared = torch.einsum("bp,bkp->bk", known, other_known)
    square = (value[:, None] - other).square() * known[:, None] * other_known
    mean = square.sum(-1) / shared.clamp(min=1.0)
    return torch.where(shared > 0, mean, torch.full_like(mean, torch.inf))
