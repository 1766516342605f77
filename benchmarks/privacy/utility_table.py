"""The rows of benchmarks/privacy/utility.py as the Markdown table of docs/privacy.md.

python benchmarks/privacy/utility_table.py                  # of utility.json, which is committed
python benchmarks/privacy/utility_table.py outputs/one.json outputs/two.json --merged FILE

Later files replace rows of earlier ones that they measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from simulations.privacy.drawings import draw_utility

Row = dict[str, Any]

COMMITTED = Path(__file__).with_name("utility.json")
STAGES = (
    "phenotypes",
    "diseases",
    "ecg_masked",
    "cmr_masked",
    "tokenizer",
    "contrastive",
    "distill",
    "generative",
)
LEVERS = {
    "scratch": "from scratch",
    "public": "from public hearts",
    "head": "from public hearts, encoder frozen",
    "bucket": "buckets of 4",
    "bank": "public negatives",
    "built on": "on parts of public pairs",
}
EPSILONS = ("inf", "8.0", "3.0", "1.0")
HEAD = "| patients | stage, lever | metric | epochs | start | inf | 8 | 3 | 1 |"


def merged(files: list[Path]) -> list[Row]:
    """Return the rows of several runs in the table's order, each measured last."""
    rows = {
        (r["patients"], r["stage"], r["lever"], r["epochs"], r["batch_factor"]): r
        for path in files
        for r in json.loads(path.read_text(encoding="utf-8"))
    }
    return sorted(rows.values(), key=_place)


def _place(row: Row) -> tuple[int, int, int, int]:
    patients = int(row["patients"].split()[0])
    return (
        STAGES.index(row["stage"]),
        patients,
        list(LEVERS).index(row["lever"]),
        row["batch_factor"],
    )


def line(row: Row) -> str:
    """Return one row as the page shows it."""
    lever = LEVERS[row["lever"]]
    if row["batch_factor"] > 1:
        lever += f", batches x {row['batch_factor']}"
    values = [row["start"], *(row["values"][e] for e in EPSILONS)]
    numbers = " | ".join(f"{v:.3f}" for v in values)
    metric = row["metric"].split(",")[0].split(" (")[0]
    patients = row["patients"].replace("real", "of PTB-XL")
    return f"| {patients} | {row['stage']}, {lever} | {metric} | {row['epochs']} | {numbers} |"


def main() -> None:
    """Print the table, and write the rows behind it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="*", default=[COMMITTED])
    parser.add_argument("--merged", type=Path, help="Write all rows here.")
    parser.add_argument("--picture", type=Path, help="Draw them into this SVG.")
    given = parser.parse_args()
    rows = merged(given.files)
    print(HEAD, "|" + "---|" * HEAD.count(" | ") + "---|", *map(line, rows), sep="\n")
    if given.picture:
        given.picture.write_bytes(draw_utility(rows))
    if given.merged:
        given.merged.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
