"""How fast does `cardionets prepare` go, and does its memory stay flat?

    python benchmarks/preparation.py --records 100000
    python benchmarks/preparation.py --records 2000 --workers 1

Writes WFDB records (12 leads, 10 s, beats with noise of their own), prepares them with the real
command, and prints the memory of all its processes per tenth of the time. Then the command runs
again on the same folder: that run has nothing to do. The peer of both is `wfdb.rdrecord` alone on
the first records, in this process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import psutil

from cardionets_core.vocabulary import LEADS
from simulations.measured import conditions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import wfdb

PER_FOLDER = 1_000
SECONDS = 10
COMMAND = (sys.executable, "-c", "from cardionets_core.cli import app; app()", "prepare")


def main() -> None:
    """Write the records, prepare them twice, print what it took."""
    options = _arguments()
    print(conditions().text())
    records = f"{options.records} records at {options.rate} Hz"
    print(f"seed       {options.seed}; {options.workers} workers; {records}")
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        source, out = Path(place) / "ecg", Path(place) / "prepared"
        _write(source, options)
        peer = _reading_alone(source)
        command = [*COMMAND, "--ecg", str(source), "--out", str(out)]
        command += ["--workers", str(options.workers)]
        first = _watched(command)
        again = _watched(command)
    rate = options.records / first[-1][0]
    print(f"\nfirst run   {first[-1][0]:,.0f} s, {rate:,.0f} records/s, ", end="")
    print(f"{rate / peer:.2f} x wfdb.rdrecord alone in one process ({peer:,.0f} records/s)")
    print(f"second run  {again[-1][0]:,.0f} s, {first[-1][0] / again[-1][0]:.0f} x faster")
    print("\nshare of the time   memory of all processes (MB, highest)")
    for share, memory in _tenths(first):
        print(f"{share:>16.0%}   {memory:,.0f}")


def _write(folder: Path, options: argparse.Namespace) -> None:
    rng = np.random.default_rng(options.seed)
    t = np.arange(SECONDS * options.rate) / options.rate
    beats = np.exp(-0.5 * ((((t * 1.1) % 1.0) - 0.3) / 0.012) ** 2)
    base = np.outer(beats, np.linspace(400, 1500, len(LEADS)))
    for k in range(options.records):
        place = folder / f"{k // PER_FOLDER:05d}"
        if k % PER_FOLDER == 0:
            place.mkdir(parents=True)
        samples = base + rng.normal(0, 8, (len(t), 1)) + rng.normal(0, 2, len(LEADS))
        (place / f"r{k:07d}.dat").write_bytes(np.rint(samples).astype("<i2").tobytes())
        lines = [f"r{k:07d} {len(LEADS)} {options.rate} {len(t)}"]
        lines += [f"r{k:07d}.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS]
        (place / f"r{k:07d}.hea").write_text("\n".join(lines) + "\n")


def _reading_alone(folder: Path, count: int = 200) -> float:
    """Return records per second of wfdb's reader, nothing else done."""
    headers = sorted((folder / "00000").glob("*.hea"))[:count]
    start = time.perf_counter()
    for header in headers:
        wfdb.rdrecord(str(header.with_suffix("")))
    return len(headers) / (time.perf_counter() - start)


def _watched(command: list[str]) -> list[tuple[float, float]]:
    """Run a command; return (seconds, MB of all its processes) along the way."""
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    seen = []
    while process.poll() is None:
        seen.append((time.perf_counter() - start, _memory_mb(process)))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"cardionets prepare ended with {process.returncode}")
    return [*seen, (time.perf_counter() - start, seen[-1][1] if seen else 0.0)]


def _memory_mb(process: psutil.Popen) -> float:
    """Return the memory that is the processes' own: pages of mapped files are the kernel's."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            usage = one.memory_info()
            total += usage.rss - usage.shared
        except psutil.Error:  # it ended meanwhile
            continue
    return total / 1e6


def _tenths(seen: list[tuple[float, float]]) -> list[tuple[float, float]]:
    end = seen[-1][0]
    tenths = []
    for k in range(10):
        inside = [m for t, m in seen if k / 10 <= t / end <= (k + 1) / 10]
        tenths.append(((k + 1) / 10, max(inside, default=float("nan"))))
    return tenths


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2_000)
    parser.add_argument("--rate", type=int, default=500, help="Hz")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", type=Path, default=None, help="where the files go for a while")
    return parser.parse_args()


if __name__ == "__main__":
    main()
