"""What one update costs the server, and a federation of 1,000 sites x 40 M parameters.

python benchmarks/aggregation.py                    # about 5 minutes on one core
python benchmarks/aggregation.py --sites 50         # a quick look

Times are CPU times of one thread: other work on the machine hardly moves them.

Four tables. The cost of one update from Flower's message to the sum, step by step. 1,000 updates
folded as they are made, each time beside a running float64 sum of the same numbers: time and peak
memory. Flower's own average of a few. And how many models five updates give in their 120 orders,
and a federation in two orders and as a tree of regional servers.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import flwr
import numpy as np

from cardionets_core.codec import decode, encode
from cardionets_core.messages import Update, update_from_records, update_to_records
from cardionets_core.run_config import StageConfig
from cardionets_core.screening_config import ScreeningConfig
from server.aggregation import ExactMean
from server.screening import Asked, Firewall
from simulations.faults.flower_average import average, reply
from simulations.faults.orders import different_models, exact, five_updates, float64_sum
from simulations.faults.peak import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cardionets_core.packing import Groups
    from cardionets_core.wire_config import Codec

    Floats = np.ndarray[Any, np.dtype[Any]]

PART, ARRAYS = "part", 100
"""Updates have one part of this many arrays."""

SEED = 0
FLOWER_SITES = 8
CHECKED = 16
"""Updates of which the sum is taken in two orders and as a tree."""


COLUMNS = ("MB sent", "unpack", "decode", "screen", "fold", "all")


class Sites:
    """Updates made from a seed: noise of the size that training gives, scaled for every site.

    Drawing 40 M numbers takes longer than all that a server does with them, so they are drawn once.
    """

    def __init__(self, parameters: int) -> None:
        rng = np.random.default_rng(SEED)
        self._base = rng.standard_normal(parameters, dtype=np.float32) * np.float32(1e-3)
        self._buffer = np.empty_like(self._base)
        self._scales = rng.uniform(0.5, 2.0, 10_000).astype(np.float32)
        self._studies = rng.integers(50, 5000, 10_000)

    def studies(self, site: int) -> int:
        """Return the training studies of a site."""
        return int(self._studies[site])

    def update(self, site: int) -> Floats:
        """Return a site's numbers, in memory that the next call overwrites."""
        return np.multiply(self._base, self._scales[site], out=self._buffer)


def grouped(values: Floats) -> Groups:
    """Return one update of many arrays; none is copied."""
    return {PART: {f"w{i:03d}": a for i, a in enumerate(np.array_split(values, ARRAYS))}}


def timed(times: list[float], do: Callable[[], Any]) -> Any:
    """Return what `do` returns and add its CPU seconds to `times`: all of it runs in one thread."""
    start = time.process_time()
    result = do()
    times.append(time.process_time() - start)
    return result


def stream(sites: Sites, count: int, parameters: int, base: int) -> None:
    """Fold `count` updates as they are made; beside it, the same in a running float64 sum."""
    made: list[float] = []
    folds: list[float] = []
    peers: list[float] = []
    mean = ExactMean()
    for site in range(count):
        values = timed(made, lambda site=site: sites.update(site))
        delta, weight = grouped(values), sites.studies(site)
        timed(folds, lambda d=delta, w=weight: mean.fold(d, w))
    result = timed([], mean.mean)[PART]
    peak, model = (peak_bytes() - base) / 1e6, parameters * 4 / 1e6
    total = np.zeros(parameters)
    for site in range(count):
        values, weight = sites.update(site), sites.studies(site)
        timed(peers, lambda v=values, w=weight: np.add(total, v.astype(np.float64) * w, out=total))
    total /= mean.weight
    worst = max(
        float(np.abs(a - b).max())
        for a, b in zip(result.values(), np.array_split(total, ARRAYS), strict=True)
    )
    fold, peer = float(np.median(folds)), float(np.median(peers))
    print(f"\n{count} sites x {parameters / 1e6:g} M parameters, folded one by one")
    print(f"  making an update   {np.median(made) * 1e3:7.0f} ms   (no part of a server's work)")
    print(f"  exact fold         {fold * 1e3:7.0f} ms   {sum(folds):.0f} s in all")
    print(f"  float64 sum        {peer * 1e3:7.0f} ms   exact / float64 {fold / peer:.2f}")
    above = (peak - 2 * model) / model
    print(f"  peak memory        {peak:7.0f} MB   {above:.2f} x the model", end="")
    print(f" (without {2 * model:.0f} MB that only make the updates)")
    print(f"  largest difference between the two means {worst:.1e}")


def cost_of_one(sites: Sites, parameters: int, repeats: int) -> None:
    """Print what one update costs from the message to the sum, for every codec."""
    print(f"\none update of {parameters * 4 / 1e6:g} MB, message to sum, ms (median of {repeats})")
    print(f"  {'codec':10}" + "".join(f"{title:>8}" for title in COLUMNS))
    for codec in ("float32", "bfloat16", "int8"):
        message = _message(grouped(sites.update(0)), codec)
        steps: list[list[float]] = [[], [], [], []]
        mean = ExactMean()
        for _ in range(repeats):
            _serve(message, codec, mean, steps)
        sent = sum(len(a.data) for a in message["arrays"].values()) / 1e6
        costs = [float(np.median(s)) * 1e3 for s in steps]
        numbers = "".join(f"{c:8.0f}" for c in [*costs, sum(costs)])
        print(f"  {codec:10}{sent:8.0f}{numbers}")


def _message(delta: Groups, codec: Codec) -> Any:
    wire, _ = encode(delta, codec, {})
    head = {"site": "a", "run": "r", "stage": "ecg_masked", "round": 1, "num_examples": 400}
    return update_to_records(Update(**head, delta=wire))


def _serve(message: Any, codec: Codec, mean: ExactMean, steps: list[list[float]]) -> None:
    """Do with a message what a round does, and write down the seconds of each step."""
    unpacked = timed(steps[0], lambda: update_from_records(message))
    delta = timed(steps[1], lambda: decode(unpacked.delta, codec))
    update = Update(**{**vars(unpacked), "delta": delta})
    asked = Asked("r", "ecg_masked", 1, delta, sites=1000)
    firewall = Firewall(asked, config=ScreeningConfig(), settings=StageConfig(), records=())
    reason = timed(steps[2], lambda: firewall.judge("a", update, max_examples=5000))
    if reason is not None:
        raise SystemExit(f"the firewall refused a clean update: {reason}")
    timed(steps[3], lambda: mean.fold(update.delta, update.num_examples))


def flower(sites: Sites, parameters: int) -> None:
    """Print what Flower's own FedAvg costs, which holds all replies."""
    replies = [
        reply(grouped(sites.update(i))[PART], sites.studies(i), node=2 + i)
        for i in range(FLOWER_SITES)
    ]
    times: list[float] = []
    timed(times, lambda: average(replies))
    size = f"{parameters * 4 / 1e6}"
    command = [sys.executable, "-m", "simulations.faults.flower_memory", str(FLOWER_SITES), size]
    models = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"\nFlower {flwr.__version__}, FedAvg.aggregate_train over {FLOWER_SITES} replies it holds"
    )
    print(f"  {times[0] / FLOWER_SITES * 1e3:.0f} ms per update, peak {models:.1f} x the model")


def sha_of(groups: Groups) -> str:
    """Return one SHA-256 over all arrays."""
    total = hashlib.sha256()
    for name in sorted(groups[PART]):
        total.update(groups[PART][name].data)
    return total.hexdigest()


def folded(sites: Sites, order: Iterable[int]) -> ExactMean:
    """Return the sum of some sites in an order."""
    mean = ExactMean()
    for site in order:
        mean.fold(grouped(sites.update(site)), sites.studies(site))
    return mean


def orders(sites: Sites) -> None:
    """Print how many models come of one set of updates."""
    print("\ndifferent models of 5 updates in 120 orders of arrival")
    for decades in (0.0, 8.0):
        updates = five_updates(seed=3, decades=decades)
        print(
            f"  sizes over {decades:.0f} decades   exact {different_models(exact, updates)}   "
            f"float64 sum {different_models(float64_sum, updates)}   "
            f"Flower's FedAvg {different_models(flower_mean, updates)}"
        )
    there = sha_of(folded(sites, range(CHECKED)).mean())
    back = sha_of(folded(sites, reversed(range(CHECKED))).mean())
    tree = ExactMean()
    for region in range(4):
        tree.merge(folded(sites, range(region, CHECKED, 4)))
    print(f"  {CHECKED} full updates: SHA-256 {there[:16]}")
    print(f"    in the opposite order {'the same' if back == there else 'ANOTHER'}")
    print(f"    as 4 regional sums    {'the same' if sha_of(tree.mean()) == there else 'ANOTHER'}")


def flower_mean(updates: Any) -> Floats:
    """Average as Flower's FedAvg does."""
    arrays = average([reply({"w": d}, n, node=2 + i) for i, (d, n) in enumerate(updates)])
    if arrays is None:
        raise SystemExit("Flower gave no average")
    return arrays["w"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="The cost of aggregation.")
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--parameters", type=int, default=40_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    print(f"command    python {' '.join(sys.argv)}")
    print(f"machine    {platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"versions   Python {platform.python_version()}, NumPy {np.__version__}, seed {SEED}")
    base = peak_bytes()
    sites = Sites(given.parameters)
    stream(sites, given.sites, given.parameters, base)
    cost_of_one(sites, given.parameters, given.repeats)
    flower(sites, given.parameters)
    orders(sites)


if __name__ == "__main__":
    main()
