"""Tokenizer, latent statistics, token order and the two token heads against known answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch

from cardionets_core.batch import Batch
from cardionets_core.model_config import GeneratorConfig, ModelConfig
from cardionets_core.models.blocks import initialise_weights, sincos_positions
from cardionets_core.models.cardionet import build_model
from cardionets_core.models.generator import reveal_schedule
from cardionets_core.models.s4d import StateSpaceBlock, StateSpaceKernel
from cardionets_core.models.token_heads import DdpmHead, FlowHead, cosine_signal

MakeBatch = Callable[..., Batch]
MEAN, SD = 1.5, 0.4  # of the Gaussian that the toy heads sample


def test_pixel_tokenizer_is_lossless(micro: ModelConfig, make_batch: MakeBatch) -> None:
    config = replace(micro, tokenizer=replace(micro.tokenizer, kind="pixel"))
    model, batch = build_model(config), make_batch(config, 3)
    model.update_latent_statistics([batch])
    cine = batch.cine[:, 0]
    latent = model.encode_latent(cine)
    assert latent.shape[1] == 2 * 4 * 4
    assert torch.allclose(model.decode_latent(latent), cine, atol=1e-6)


@pytest.mark.parametrize("statistics", ["channel", "cell"])
def test_latent_statistics_standardise_and_average_over_sites(
    micro: ModelConfig, make_batch: MakeBatch, statistics: Literal["channel", "cell"]
) -> None:
    config = replace(micro, tokenizer=replace(micro.tokenizer, statistics=statistics))
    model = build_model(config, seed=3)
    first, second = make_batch(micro, 4, seed=1), make_batch(micro, 12, seed=2)
    second.cine.mul_(0.2)
    second.view_mask[0, model.generated_view] = False  # this patient must not count
    sites = []
    for batch in (first, second):
        model.update_latent_statistics([batch])
        net = model.tokenizer
        sites.append(torch.stack([net.latent_mean, net.latent_square]))
    model.update_latent_statistics([first, second])
    pooled = torch.stack([model.tokenizer.latent_mean, model.tokenizer.latent_square])
    assert torch.allclose((4 * sites[0] + 11 * sites[1]) / 15, pooled, rtol=1e-5)
    kept = torch.cat([first.cine[:, 0], second.cine[1:, 0]])
    axes = (0,) if statistics == "cell" else (0, 2, 3, 4)
    latent = model.encode_latent(kept)
    spread, centre = torch.std_mean(latent, dim=axes, correction=0)
    assert torch.allclose(centre, torch.zeros_like(centre), atol=1e-3)
    assert torch.allclose(spread, torch.ones_like(spread), atol=1e-2)


def test_no_patient_leaves_the_statistics_alone(micro: ModelConfig, make_batch: MakeBatch) -> None:
    model, batch = build_model(micro), make_batch(micro, 2)
    batch.view_mask[:] = False
    model.update_latent_statistics([batch])
    assert bool((model.tokenizer.latent_square == 1).all())


def test_tokens_are_the_latent_cut_in_blocks(micro: ModelConfig) -> None:
    generator = build_model(micro).generator
    shape = (2, micro.tokenizer.latent_channels, *micro.latent_grid)
    latent = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    tokens = generator.patchify(latent)
    assert tokens.shape == (2, generator.count, generator.token_values)
    assert torch.equal(generator.unpatchify(tokens), latent)
    assert torch.equal(tokens[1, 0].reshape(4, 2, 2, 2), latent[1, :, :2, :2, :2])
    assert torch.equal(tokens[0, 3].reshape(4, 2, 2, 2), latent[0, :, :2, 2:4, 2:4])


@pytest.mark.parametrize(("count", "steps"), [(16, 8), (180, 16), (4, 9), (36, 1), (7, 7)])
def test_reveal_schedule_is_increasing_and_complete(count: int, steps: int) -> None:
    schedule = reveal_schedule(count, steps)
    assert len(schedule) == min(steps, count)
    assert schedule[-1] == count
    assert all(b > a for a, b in zip([0, *schedule], schedule, strict=False))


def gaussian_velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """E[token - noise | x_t] for tokens N(MEAN, SD^2): what a perfect flow head gives."""
    t = time[..., None].double()
    slope = (t * SD**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * SD**2)
    return (MEAN + slope * (x.double() - t * MEAN)).float()


def gaussian_noise(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """E[noise | x_t] for the same tokens under the diffusion's schedule."""
    signal = cosine_signal()[(time * 1000).round().long()][..., None]
    return (1 - signal).sqrt() * (x - signal.sqrt() * MEAN) / (signal * SD**2 + 1 - signal)


def test_flow_carries_noise_to_a_known_gaussian_at_second_order() -> None:
    head = FlowHead(GeneratorConfig(), token_values=1)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, 500, 1, generator=generator)
    errors = []
    for steps in (4, 8, 16, 32):
        end = head.sample(gaussian_velocity, start, steps=steps, generator=generator)
        errors.append(float((end - (MEAN + SD * start)).abs().max()))  # the exact map
    assert errors[-1] < 2e-3
    assert all(late < early / 3 for early, late in pairwise(errors))


def test_ddpm_samples_a_known_gaussian() -> None:
    head = DdpmHead(GeneratorConfig(head="ddpm"), token_values=1)
    generator = torch.Generator().manual_seed(0)
    initialise_weights(head, generator)
    start = torch.randn(1, 20_000, 1, generator=generator)
    end = head.sample(gaussian_noise, start, steps=100, generator=generator)
    assert float(end.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(end.std()) == pytest.approx(SD, abs=0.03)


def test_cosine_schedule_against_its_formula() -> None:
    signal = cosine_signal().double().numpy()
    steps = np.arange(1, 900) / 1000
    curve = (
        np.cos((steps + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    )
    np.testing.assert_allclose(signal[:899], curve, rtol=1e-4)
    assert signal[-1] < 1e-4


def test_flow_head_learns_a_gaussian() -> None:
    """The head, trained on its own loss, must find the distribution and not only its mean."""
    head = FlowHead(GeneratorConfig(head_width=32, head_depth=1, width=8), token_values=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        initialise_weights(head, generator)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    source = torch.zeros(1, 256, 8)
    for _ in range(250):
        target = MEAN + SD * torch.randn(1, 256, 1, generator=generator)
        noise = torch.randn(1, 256, 1, generator=generator)
        loss = head.loss(target, source, time=head.draw_time((1, 256), generator), noise=noise)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        start = torch.randn(1, 256, 1, generator=generator)
        end = head.sample(lambda x, t: head.mlp(x, t, source), start, steps=8, generator=generator)
    assert float(end.mean()) == pytest.approx(MEAN, abs=0.15)
    assert float(end.std()) == pytest.approx(SD, abs=0.15)


def test_state_space_kernel_against_the_recurrence() -> None:
    """The convolution kernel must be what stepping the linear system gives (zero-order hold)."""
    width, states, length = 3, 4, 12
    kernel = StateSpaceKernel(width, states)
    with torch.no_grad():
        initialise_weights(kernel, torch.Generator().manual_seed(1))
        taps = kernel(length)[0].numpy()
    rate = -np.exp(kernel.log_decay.detach().numpy()) + 1j * kernel.frequency.detach().numpy()
    step = np.exp(kernel.log_step.detach().numpy())[:, None]
    pairs = kernel.readout.detach().numpy()[0]
    readout = pairs[..., 0] + 1j * pairs[..., 1]
    state = (np.exp(step * rate) - 1) / rate  # after an impulse
    for tap in range(length):
        np.testing.assert_allclose(taps[:, tap], 2 * (readout * state).sum(1).real, atol=1e-4)
        state = np.exp(step * rate) * state


def test_state_space_block_filters_both_ways_against_direct_convolution() -> None:
    block = StateSpaceBlock(2, 3)
    with torch.no_grad():
        initialise_weights(block, torch.Generator().manual_seed(1))
        signal = torch.randn(1, 9, 2, generator=torch.Generator().manual_seed(2))
        filtered = block._filter(signal)[0].numpy()
        forwards, backwards = (k.numpy() for k in block.kernel(9))
    x = signal[0].numpy()
    for feature in range(2):
        for n in range(9):
            past = sum(forwards[feature, n - m] * x[m, feature] for m in range(n + 1))
            future = sum(backwards[feature, m - n] * x[m, feature] for m in range(n + 1, 9))
            assert filtered[n, feature] == pytest.approx(past + future, abs=1e-4)


def test_position_codes_tell_all_cells_apart() -> None:
    codes = sincos_positions((3, 4, 5), 20)
    assert codes.shape == (60, 20)
    distance = torch.cdist(codes, codes) + 10 * torch.eye(60)
    assert float(distance.min()) > 1e-2
