"""Does the demo federation learn? Prints margins over the reference lines of the same run.

    python benchmarks/learning.py --seeds 1 2 3
    python benchmarks/learning.py --seeds 1 -- scenario=demo stage.contrastive.rounds=8
    python benchmarks/learning.py --runs outputs/run-20261121-230000

Peers, all measured in the same run on the same held-out patients: chance (retrieval), the training
mean and covariates only (phenotypes, diseases), the mean training image and the unconditional
sample (generated cines).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from cardionets_core.vocabulary import MAIN_PHENOTYPES
from simulations.measured import conditions


def main() -> None:
    """Run the federation once per seed, or read finished runs, and print the table."""
    options = _arguments()
    print(conditions().text())
    folders = [Path(r) for r in options.runs] or [_run(s, options) for s in options.seeds]
    summaries = [json.loads((f / "summary.json").read_text()) for f in folders]
    print(f"seeds      {[s['seed'] for s in summaries]}")
    rows = [margins(s["metrics"]["pooled"]) for s in summaries]
    print(f"\n{'measure':<44}{'ours':>9}{'peer':>9}{'difference':>12}{'ratio':>8}   peer")
    for key in rows[0]:
        _print_row(key, [r[key] for r in rows if r[key][0] is not None])


def margins(pooled: dict[str, Any]) -> dict[tuple[str, str], tuple[float | None, float]]:
    """Return (measure, peer) -> (ours, the peer's value)."""
    found: dict[tuple[str, str], tuple[float | None, float]] = {}
    for direction, result in pooled["retrieval"].items():
        for k, recall in result["recall"].items():
            found[(f"{direction} {k}", "chance")] = (recall["value"], recall["chance"])
    table = pooled["phenotypes"]["by_phenotype"]
    for name in MAIN_PHENOTYPES:
        for peer in ("mean", "covariates"):
            row = table[name]
            found[(f"R2 {name}, ECG", peer)] = (row["ecg"]["r2"]["value"], row[peer]["r2"]["value"])
    for ours in ("ecg", "ecg_covariates"):
        for peer in ("mean", "covariates"):
            average = pooled["phenotypes"]["average"]
            found[(f"R2 mean of all phenotypes, {ours}", peer)] = (
                average[ours]["r2"]["value"],
                average[peer]["r2"]["value"],
            )
    average = pooled["diseases"]["average"]
    found[("AUROC mean of diseases, ECG", "covariates")] = (
        average["ecg"]["auroc"]["value"],
        average["covariates"]["auroc"]["value"],
    )
    return found | _generation(pooled["generation"])


def _generation(result: dict[str, Any]) -> dict[tuple[str, str], tuple[float | None, float]]:
    found: dict[tuple[str, str], tuple[float | None, float]] = {}
    for peer in ("unconditional", "mean_image"):
        distances = result["frechet"]
        found[("cine: Frechet distance (lower is better)", peer)] = (
            distances["conditional"],
            distances[peer],
        )
        fidelity = result["fidelity"]["average"]
        found[("cine: phenotype fidelity, R2", peer)] = (
            fidelity["conditional"]["r2"]["value"],
            fidelity[peer]["r2"]["value"],
        )
        for score in ("ssim", "psnr"):
            found[(f"cine: {score} (blur wins it)", peer)] = (
                result[score]["conditional"]["value"],
                result[score][peer]["value"],
            )
    r = result["fidelity"]["average"]
    found[("cine: phenotype fidelity, r", "unconditional")] = (
        r["conditional"]["r"]["value"],
        r["unconditional"]["r"]["value"],
    )
    return found


def _print_row(key: tuple[str, str], pairs: list[tuple[float | None, float]]) -> None:
    ours = [float(a) for a, _ in pairs if a is not None]
    peers = [float(b) for a, b in pairs if a is not None and b is not None]
    if not ours or not peers:
        print(f"{key[0]:<44}{'undefined':>9}   {key[1]}")
        return
    a, b = mean(ours), mean(peers)
    spread = f" +-{pstdev(ours):.3f}" if len(ours) > 1 else ""
    ratio = f"{a / b:8.2f}" if b > 0 else f"{'-':>8}"
    print(f"{key[0]:<44}{a:9.3f}{b:9.3f}{a - b:12.3f}{ratio}   {key[1]}{spread}")


def _run(seed: int, options: argparse.Namespace) -> Path:
    """Run one federation in one process and return its folder."""
    folder = Path(options.output) / f"learning-seed{seed}"
    words = [f"seed={seed}", f"name={folder.name}", f"output={options.output}", *options.overrides]
    command = [sys.executable, "-m", "simulations", "engine=inprocess", *words]
    subprocess.run(command, check=True)
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument(
        "--runs", nargs="*", default=[], help="finished run folders to read instead"
    )
    parser.add_argument("--output", default="outputs")
    parser.add_argument("overrides", nargs="*", help="overrides of cardionets-simulate, after --")
    return parser.parse_args()


if __name__ == "__main__":
    main()
