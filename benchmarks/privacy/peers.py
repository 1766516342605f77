"""What Google's dp-accounting says of the histories that our accountants are compared with.

python -m venv .venv-peers && .venv-peers/bin/pip install dp-accounting==0.6.0
.venv-peers/bin/python benchmarks/privacy/peers.py > tests/cardionets_core/privacy/peers.json

dp-accounting wants an older attrs than Flower does, so it has a virtual environment of its own and
this file imports nothing of ours. Neighbours differ by adding or removing one patient; patients are
sampled by independent coins. `pld` composes privacy loss distributions (pessimistic, so an upper
bound), `rdp` is its own Renyi accountant with its own orders, `at` with one order alone.

The histories are of the sizes of the planning table in docs/privacy.md (with the noise that PRV
needs for its epsilons, in three digits), and some of several kinds of steps.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

from dp_accounting import dp_event, privacy_accountant
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.rdp import rdp_privacy_accountant

NEIGHBOURS = privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE

TABLE = (
    (500, 64, 10, (4.48, 1.86, 1.01)),
    (500, 256, 50, (19.2, 7.18, 3.16)),
    (5000, 64, 100, (4.34, 1.74, 0.948)),
    (5000, 256, 10, (2.90, 1.30, 0.791)),
    (5000, 256, 50, (6.13, 2.39, 1.20)),
    (40000, 64, 10, (0.849, 0.628, 0.485)),
    (40000, 256, 100, (3.35, 1.39, 0.810)),
    (40000, 1024, 50, (4.71, 1.86, 0.996)),
)
"""(n, batch, epochs, (noise for epsilon 1, 3 and 8 by PRV))."""

MIXED = (
    ("two_stages", [(1.5, 0.05, 500), (0.9, 0.02, 800)]),
    ("stages_and_releases", [(2.0, 0.0512, 977), (2.0, 0.1024, 488), (10.0, 1.0, 3)]),
    ("one_release", [(10.0, 1.0, 1)]),
    ("sum_over_all", [(4.0, 1.0, 5)]),
    ("hardly_anything", [(20.0, 0.01, 10)]),
)
ORDERS = (2.0, 3.0, 8.0)
"""Orders at which the Renyi accountant is asked, too: about those of epsilon 20, 8 and 2.
Whole ones: between them dp-accounting interpolates, up to a per cent above the exact figure."""

DELTA = 1e-5
"""Of the guarantee; 1 / (10 n) where that is less."""


def cases() -> list[tuple[str, float, list[tuple[float, float, int]]]]:
    """Return the name, delta and history (noise, rate, steps) of every comparison."""
    rows = [
        (
            f"n{n}_b{batch}_e{epochs}_eps{epsilon}",
            min(DELTA, 0.1 / n),
            [(noise, batch / n, round(epochs * n / batch))],
        )
        for n, batch, epochs, noises in TABLE
        for epsilon, noise in zip((1, 3, 8), noises, strict=True)
    ]
    return [*rows, *((name, DELTA, history) for name, history in MIXED)]


def epsilon(accountant: privacy_accountant.PrivacyAccountant, delta: float, history: list) -> float:
    """Return what an accountant says of a history."""
    for noise, rate, steps in history:
        step = dp_event.GaussianDpEvent(noise)
        if rate < 1:
            step = dp_event.PoissonSampledDpEvent(rate, step)
        accountant.compose(step, steps)
    return float(accountant.get_epsilon(delta))


def renyi(orders: list[float] | None = None) -> rdp_privacy_accountant.RdpAccountant:
    """Return a Renyi accountant with orders, or with its own."""
    return rdp_privacy_accountant.RdpAccountant(orders, NEIGHBOURS)


def main() -> None:
    """Print the comparisons as JSON."""
    rows = []
    for name, delta, history in cases():
        pld = epsilon(pld_privacy_accountant.PLDAccountant(NEIGHBOURS), delta, history)
        rdp = epsilon(renyi(), delta, history)
        at = [[order, round(epsilon(renyi([order]), delta, history), 6)] for order in ORDERS]
        values = {"pld": round(pld, 6), "rdp": round(rdp, 6), "at": at}
        rows.append({"name": name, "delta": delta, "history": history, **values})
        print(name, values, file=sys.stderr)
    facts = {"dp_accounting": version("dp-accounting")}
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    print(f'{{\n "facts": {json.dumps(facts)},\n "cases": [\n  {lines}\n ]\n}}')


if __name__ == "__main__":
    main()
