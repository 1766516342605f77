"""Patients whose gradients are known by hand: the model is one vector, the loss a product with it.

Random networks alone are a weak test of a sensitivity bound: their gradients agree too well for one
patient to reverse a bucket. Here a patient's gradient is any vector that one likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from cardionets_core.training.objective import Losses, Noise, Objective, make_losses, no_noise
from simulations.privacy.held import empty_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet

PART = "vector"
"""The only part of the model, as a stage trains it."""


class _Part(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))


class LinearModel(nn.Module):
    """One vector of weights that starts at zero, float64.

    Args:
        size: its length.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.vector = _Part(size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.vector.weight.device


def linear_model(size: int) -> CardioNet:
    """Return the vector as the model that the private loop takes."""
    return cast("CardioNet", LinearModel(size))


def weights_of(model: CardioNet) -> NDArray[Any]:
    """Return the vector."""
    found: NDArray[Any] = cast("LinearModel", model).vector.weight.detach().numpy().copy()
    return found


def with_gradients(vectors: NDArray[Any]) -> Batch:
    """Return patients with these gradients [B, up to 4] under `PRODUCT`."""
    batch = empty_batch(len(vectors))
    batch.covariates[:, : vectors.shape[1]] = torch.from_numpy(vectors)
    return batch


def _product(model: CardioNet, batch: Batch, noise: Noise) -> Losses:
    weight = cast("LinearModel", model).vector.weight
    return _each(batch.covariates[:, : len(weight)].double() @ weight)


PRODUCT = Objective("product", no_noise, _product, per_patient=True)
"""Loss of patient i: x_i . w, so that their gradient is x_i."""


def with_coordinates(patients: int) -> Batch:
    """Return patients who each have a coordinate of their own, for `COORDINATE`."""
    batch = empty_batch(patients)
    batch.covariates[:, 0] = torch.arange(patients)
    return batch


STEEP = 1e3
"""Norm of a canary's gradient before clipping: far above any C."""


def _coordinate(model: CardioNet, batch: Batch, noise: Noise) -> Losses:
    weight = cast("LinearModel", model).vector.weight
    own = batch.covariates[:, :1] == torch.arange(len(weight))
    return _each(-STEEP * (own * weight).sum(1))


COORDINATE = Objective("coordinate", no_noise, _coordinate, per_patient=True)
"""Loss of canary i: -STEEP w_i. Its clipped gradient is -C e_i: a canary that nothing hides."""


def _each(loss: Tensor) -> Losses:
    return make_losses(loss, value=loss)
