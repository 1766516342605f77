"""The fixed time of a round beyond training, phase by phase, beside plain Flower's FedAvg.

    python benchmarks/rounds.py [--sites 5 2] [--rounds 8] [--flower-rounds 4] [--preset nano]

Both as real processes on this machine, one after the other, over the same hospitals, model and
local steps (one step of one batch, and validation). Flower trains and evaluates, as its FedAvg
does; here validation is folded into the train reply. Medians over rounds, the first left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from simulations.faults.round_phases import Comparison, RoundTimes, compare, median_phases
from simulations.faults.small import NANO
from simulations.measured import conditions


def main() -> None:
    """Print the table."""
    options = _arguments()
    sys.stdout.reconfigure(line_buffering=True)  # minutes pass between the lines
    print(conditions().text())
    print("seeds      run 1; hospitals by their names")
    preset = NANO if options.preset == "nano" else (f"model={options.preset}",)
    for sites in options.sites:
        work = Path(options.output) / f"rounds-{sites}"
        shutil.rmtree(work, ignore_errors=True)
        found = compare(
            work,
            sites=sites,
            rounds=options.rounds,
            flower_rounds=options.flower_rounds,
            preset=preset,
        )
        _print(found, options.preset)


def _print(found: Comparison, preset: str) -> None:
    print(
        f"\n{found.sites} sites, {preset}: {found.task_bytes / 1e6:.2f} MB to each site and round; "
        f"load now {os.getloadavg()[0]:.1f}"
    )
    for name, rounds in (("CardioNets", found.ours), ("plain Flower", found.flower)):
        _print_side(name, rounds)
    print(f"  overhead   ours {found.ours_s:.2f} s   Flower {found.flower_s:.2f} s", end="")
    print(f"   ratio {found.ratio:.2f}   (at most 0.33)")


def _print_side(name: str, rounds: tuple[RoundTimes, ...]) -> None:
    overheads = sorted(r.overhead for r in rounds)
    print(f"  {name}, median of {len(rounds)} rounds", end="")
    print(f" (overhead {overheads[0]:.2f} to {overheads[-1]:.2f} s)")
    for phase, seconds in median_phases(rounds).items():
        print(f"    {phase:<32}{seconds:8.2f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sites", type=int, nargs="*", default=[5, 2])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--flower-rounds", type=int, default=4)
    parser.add_argument("--preset", default="nano", help="nano, or a model preset such as tiny")
    parser.add_argument("--output", default="outputs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
