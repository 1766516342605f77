"""Public negatives must not tell whether somebody was there: a step without patients is a step."""

from __future__ import annotations

import torch
from torch import nn

from cardionets_core.privacy.bank import Negatives
from cardionets_core.privacy.objectives import StepNegatives


class Numbers:
    """A bank of which the first number that its generator gives stands for the records drawn."""

    digest = "bank"

    def draw(self, model, generator):
        number = torch.rand(1, generator=generator)
        return Negatives(*(number for _ in range(8)))


def negatives_of_steps(asked):
    """Take four noisy steps; return the negatives of those in which somebody was sampled."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    draw = StepNegatives(Numbers(), 0.0)
    found = {}
    for step in range(4):
        if step in asked:
            found[step] = float(draw(model, range(3), None)["ecg"][0])
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return found


def test_an_empty_step_changes_nobodys_negatives():
    """Else one patient, alone in a step, would change all later steps of everybody."""
    always, seldom = negatives_of_steps({0, 1, 2, 3}), negatives_of_steps({1, 3})
    assert {s: always[s] for s in seldom} == seldom
    assert len(set(always.values())) == 4
