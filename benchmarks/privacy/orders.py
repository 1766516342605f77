"""What it costs that a ledger has one Renyi order, by the rule that chooses it.

    python benchmarks/privacy/orders.py      # some two CPU minutes

The order is fixed before the first charge (docs/privacy.md, Accountants). Here are runs of which
each takes the whole budget: one training of a rate and a number of passes, alone or with the sums
of a run (noise 5, 3 and 3), with the noise that the best of all orders needs, where it is 0.6 to 4.
Then, at the order of a rule:

- `noise`: how much more noise the same run needs;
- `steps`: how many of its steps do not fit with the noise as it was.

A rule takes the order with the largest (epsilon - c(alpha)) / alpha^p, c being the conversion from
Renyi DP to epsilon. p = 1 is best for sums over all patients, p = 2 is `usual_order`. The last
table has the presets: at the usual order, and at the one that `budget init --run` fixes.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

import numpy as np

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.accounting import ORDERS, Charge, conversion, noise_for
from cardionets_core.privacy.order import added, best_order, first_charge, usual_order
from cardionets_core.privacy.planning import Allowance, plan_of, run_to_plan
from simulations.measured import conditions

BUDGETS = tuple(itertools.product((1.0, 3.0, 8.0, 20.0), (1e-5, 1e-6)))
POWERS = (1.0, 1.5, 2.0, 2.5, 3.0)
RATES = (0.005, 0.02, 0.05, 0.2)
PASSES = (1, 3, 10, 30, 100)
SUMS = (Charge(5.0, 1.0, 1), Charge(3.0, 1.0, 2))
USUAL_NOISE = (0.6, 4.0)
PRESETS = ("plan=private", "plan=private_from_public")


@dataclass(frozen=True)
class Run:
    """A run that takes its whole budget at the best order.

    Attributes:
        stages: (rate, steps) of each.
        sums: what it is charged besides.
        noise: that it needs.
    """

    stages: tuple[tuple[float, int], ...]
    sums: tuple[Charge, ...]
    noise: float

    def charges(self) -> list[Charge]:
        """Return the charges of the stages."""
        return [Charge(self.noise, *stage) for stage in self.stages]


def main() -> None:
    """Print all tables."""
    print(conditions().text())
    print(f"\n{'epsilon':>7} {'delta':>6} {'runs':>5}  order: largest and median loss")
    for epsilon, delta in BUDGETS:
        runs = _runs(epsilon, delta)
        print(f"{epsilon:>7g} {delta:>6.0e} {len(runs):>5}  best orders {_best(runs, delta)}")
        for power in POWERS:
            order = _by_room(epsilon, delta, power)
            print(f"{'':>21} p = {power:<4g} {_losses(runs, epsilon, delta, order)}")
    print()
    for word, (epsilon, delta) in itertools.product(PRESETS, BUDGETS):
        _preset(word, epsilon, delta)


def _runs(epsilon: float, delta: float) -> list[Run]:
    found = []
    for rate, passes, sums in itertools.product(RATES, PASSES, ((), SUMS)):
        stages = ((rate, round(passes / rate)),)
        try:
            noise = noise_for(stages, epsilon=epsilon, delta=delta, spent=sums)
        except ValueError:
            continue  # the sums alone are above the budget
        if USUAL_NOISE[0] <= noise <= USUAL_NOISE[1]:
            found.append(Run(stages, sums, noise))
    return found


def _by_room(epsilon: float, delta: float, power: float) -> float:
    orders = np.asarray(ORDERS)
    room = (epsilon - conversion(delta, orders)) / orders**power
    return float(orders[room.argmax()])


def _best(runs: list[Run], delta: float) -> str:
    orders = [best_order([*run.charges(), *run.sums], delta) for run in runs]
    return f"{min(orders):g} to {max(orders):g}"


def _losses(runs: list[Run], epsilon: float, delta: float, order: float) -> str:
    noise = [_more_noise(run, epsilon, delta, order) for run in runs]
    steps = [_fewer_steps(run, epsilon, delta, order) for run in runs]
    return (
        f"order {order:<5g} noise {max(noise):+6.1%} {statistics.median(noise):+6.1%}   "
        f"steps {-max(steps):6.1%} {-statistics.median(steps):6.1%}"
    )


def _more_noise(run: Run, epsilon: float, delta: float, order: float) -> float:
    try:
        needed = noise_for(run.stages, epsilon=epsilon, delta=delta, order=order, spent=run.sums)
    except ValueError:
        return float("inf")
    return needed / run.noise - 1


def _fewer_steps(run: Run, epsilon: float, delta: float, order: float) -> float:
    room = epsilon - first_charge(delta, order) - added(run.sums, order)
    return 1 - min(1.0, max(0.0, room / added(run.charges(), order)))


def _preset(word: str, epsilon: float, delta: float) -> None:
    allowed = Allowance(patients=2000, epsilon=epsilon, delta=delta)
    plan = plan_of(run_to_plan([word]), allowed)
    try:
        noise, own = plan.noise(), plan.best_order()
    except ConfigError:
        print(f"{word:<24} epsilon {epsilon:<3g} delta {delta:.0e}: its sums alone cost more")
        return
    run = Run(
        tuple((s.rate, s.charged) for s in plan.stages), tuple(c for _, c in plan.kept), noise
    )
    usual = usual_order(epsilon, delta)
    print(
        f"{word:<24} epsilon {epsilon:<3g} delta {delta:.0e}: noise {noise:g} at order {own:g} "
        f"({_more_noise(run, epsilon, delta, own):+.1%}); usual order {usual:g}: noise "
        f"{_more_noise(run, epsilon, delta, usual):+.1%}, steps "
        f"{-_fewer_steps(run, epsilon, delta, usual):.1%}"
    )


if __name__ == "__main__":
    main()
