"""Peak memory of plain Flower's FedAvg over N replies, in a process of its own (figure 9).

python -m simulations.faults.flower_memory SITES MEGABYTES

Prints the growth of this process's peak memory over the aggregation, replies included, in models.
"""

from __future__ import annotations

import sys

import numpy as np

from simulations.faults.flower_average import average, reply
from simulations.faults.peak import peak_bytes

ARRAYS = 10


def peak_models(sites: int, megabytes: float) -> float:
    """Return peak memory beyond the start, divided by the size of one model.

    Args:
        sites: replies of one model each.
        megabytes: size of a model, 10^6 bytes.
    """
    rng = np.random.default_rng(0)
    numbers = int(megabytes * 1e6 / 4 / ARRAYS)
    average([reply({"w": np.zeros(2, dtype=np.float32)}, 1)])  # what an import allocates is ours
    before = peak_bytes()
    replies = [
        reply(
            {f"w{i}": rng.standard_normal(numbers, dtype=np.float32) for i in range(ARRAYS)},
            10 + node,
            node=2 + node,
        )
        for node in range(sites)
    ]
    average(replies)
    return (peak_bytes() - before) / (megabytes * 1e6)


if __name__ == "__main__":
    sys.stdout.write(f"{peak_models(int(sys.argv[1]), float(sys.argv[2]))}\n")
