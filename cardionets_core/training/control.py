"""SCAFFOLD's control variates at a site (Karimireddy et al. 2020, arXiv 1910.06378, Algorithm 1).

A site's c_i is its mean gradient along its last local training, the server's c the mean of all c_i.
Local steps go along  gradient - c_i + c,  so that each site moves as all of them together would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cardionets_core.packing import Groups

PREFIX = "control."
"""The server's control variate of a part travels in the group `control.PART`."""


def server_control(weights: Groups) -> Groups:
    """Return the server's control variate among the groups of a task; empty: it is zero."""
    return {g.removeprefix(PREFIX): a for g, a in weights.items() if g.startswith(PREFIX)}


def correction(server: Groups, own: Groups) -> Groups:
    """Return c - c_i, what is added to a gradient; either is zero where it is not named."""
    negative = {p: {n: -c for n, c in arrays.items()} for p, arrays in own.items()}
    return {
        part: negative.get(part, {})
        | {n: c - own.get(part, {}).get(n, 0) for n, c in server.get(part, {}).items()}
        for part in server.keys() | own.keys()
    }


def next_control(own: Groups, server: Groups, delta: Groups, *, steps: int, lr: float) -> Groups:
    """Return c_i after local training (option II): c_i - c + (x - y) / (K lr).

    Args:
        own: c_i; zero where it is not named.
        server: c, likewise.
        delta: y - x of the learned arrays, as the server gets it.
        steps: K.
        lr: of the local steps.
    """
    following: Groups = {}
    for part, arrays in delta.items():
        following[part] = {}
        for name, moved in arrays.items():
            total = moved.astype(np.float64) / (-steps * lr)
            for sign, control in ((1, own), (-1, server)):
                if name in control.get(part, {}):
                    total += sign * control[part][name].astype(np.float64)
            following[part][name] = total.astype(moved.dtype)
    return following
