"""What the wire costs: arrays by their number, codecs, and a slow link.

python benchmarks/wire.py [flat] [codecs] [slow]      (about 6 minutes for all three)

flat     20 MB to a site and back as 1,220 arrays and as one, through a SuperLink and a SuperNode
codecs   bytes of an update of each preset, and the time of encoding beside that of a SHA-256
slow     one round at 4 Mbit/s, 200 ms round trip and 1 % packet loss: ours as float32 and as int8,
         and plain Flower with the same model and data; wants root for the packet loss
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.codec import decode, encode
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.run_config import model_preset
from server import launch as server_launch
from simulations.faults.figures_link import config_of, over_link
from simulations.faults.link import Link
from simulations.faults.packets import TUN
from simulations.faults.plain_federation import PlainFederation
from simulations.faults.small import ecg_hospitals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ECHO = Path(__file__).parent / "wire_echo"
CODECS = ("float32", "bfloat16", "int8")
MANY, REPEATS = 1220, 3
SLOW = {"bits_per_s": 4e6, "delay_s": 0.1}
LOSS = 0.01
PATIENCE_S = 1200.0


class EchoFederation(PlainFederation):
    """Plain Flower with one site and the echo app."""

    def echo(self, counts: Sequence[int], size: int) -> list[dict[str, Any]]:
        """Run one round per number of arrays and return how long each took."""
        settings = {"record": str(self.record), "bytes": size}
        settings["counts"] = ",".join(map(str, counts))
        command = server_launch.submit(settings, home=self._home("cli"), bundle=ECHO)
        self._ask(command)
        # Not asked for by `flwr ls`: each question is a process that the round would pay for.
        self.wait_for(lambda: len(self._echoes()) == len(counts), "the echoes", PATIENCE_S)
        return self._echoes()

    def _echoes(self) -> list[dict[str, Any]]:
        lines = self.record.read_text().split("\n")[:-1] if self.record.exists() else []
        return [json.loads(line) for line in lines]


def flat(work: Path) -> None:
    """Print what the number of arrays costs."""
    print("\n20 MB to a site and back, plain Flower")
    counts = [1] * (REPEATS + 1) + [MANY]
    with EchoFederation(work / "echo", {"echo": Path(__file__)}, Path(__file__)) as federation:
        rounds = federation.echo(counts, 20_000_000)
    # The first round also starts the site's app for the first time.
    one = [r["seconds"] for r in rounds[1:] if r["arrays"] == 1]
    many = [r["seconds"] for r in rounds if r["arrays"] == MANY]
    print(f"  as one array      {_spread(one)}")
    print(f"  as {MANY} arrays   {_spread(many)}   ratio {np.median(many) / np.median(one):.1f}")


def codecs(_work: Path) -> None:
    """Print bytes and times of the codecs."""
    print("\nbytes of an update of all parts, MB (share of float32)")
    for preset in ("tiny", "small", "base"):
        shapes = _shapes(preset)
        sizes = {codec: sum(_encoded_bytes(s, codec) for s in shapes) for codec in CODECS}
        shares = [f"{c} {b / 1e6:8.2f} ({b / sizes['float32']:.3f})" for c, b in sizes.items()]
        print(f"  {preset:<6}", "   ".join(shares))
    values = np.random.default_rng(0).standard_normal((25, 1_000_000), dtype=np.float32)
    groups = {"part": {str(i): row * np.float32(1e-3) for i, row in enumerate(values)}}
    sha = _seconds(lambda: [hashlib.sha256(a.data) for a in groups["part"].values()])
    print(f"\n100 MB of float32; SHA-256 takes {sha * 1e3:.0f} ms")
    for codec in CODECS[1:]:
        wire, rest = encode(groups, codec, {})
        times = {
            "encode": _seconds(lambda c=codec: encode(groups, c, {})),
            "with residual": _seconds(lambda c=codec, r=rest: encode(groups, c, r)),
            "decode": _seconds(lambda c=codec, w=wire: decode(w, c)),
        }
        print(f"  {codec:<9}", _times(times, sha))


def slow(work: Path) -> None:
    """Print one round over a slow, far and lossy link."""
    lossy = os.geteuid() == 0 and TUN.exists()
    link = {**SLOW, "loss": LOSS if lossy else 0.0}
    bound = 1460 * 8 / 0.2 * math.sqrt(1.5 / LOSS) / 1e6
    print("\none round of the tiny preset's ECG stage at 4 Mbit/s, 200 ms, 1 % loss")
    print(f"  (Mathis: at most {bound:.2f} Mbit/s a connection, two connections; cubic)")
    if not lossy:
        print("  without root no packet is lost: the times below are those of 4 Mbit/s, 200 ms")
    sites = ecg_hospitals(work / "hospitals", 1)
    for codec in ("float32", "int8"):
        config = config_of(f"slow-{codec}", rounds=1, sites=1, codec=codec, model=("model=tiny",))
        crossed = over_link(work, config, sites, **link)
        _print_transfer(f"ours, {codec}", crossed.events, down=1, up=1)
        if not crossed.weights:
            print("    the run did not complete")
    _plain_flower(work, sites, link)


def _plain_flower(work: Path, sites: dict[str, Path], link: dict[str, float]) -> None:
    plan = work / "slow-float32" / "config.json"
    address: list[str] = []
    federation = PlainFederation(work / "plain", sites, plan, superlink_of=lambda _port: address[0])
    with Link(work / "plain" / "link", federation.port, **link) as slow_link:
        address.append(slow_link.address)
        with federation:
            federation.submit(rounds=1)
            # Its evaluation, another trip of the model, is not waited for.
            federation.wait_for(
                lambda: bool(federation.steps("train_back")), "an update", PATIENCE_S
            )
            _print_transfer("plain Flower", slow_link.events(), down=0, up=0)


def _print_transfer(name: str, events: Sequence[dict[str, Any]], *, down: int, up: int) -> None:
    words = []
    for way, number in (("down", down), ("up", up)):
        mine = [e for e in events if e.get("way") == way and e["message"] == number]
        objects = [e for e in mine if e["event"] == "object"]
        seconds = max(e["time"] for e in objects) - min(e["began"] for e in objects)
        size = sum(e["passed"] for e in objects)
        words.append(f"{way:>5} {size / 1e6:5.2f} MB, {len(objects):3} objects, {seconds:6.1f} s")
    print(f"  {name:<14}", "   ".join(words), flush=True)


def _shapes(preset: str) -> list[tuple[int, ...]]:
    model = build_model(model_preset(preset), device="meta")
    return [tuple(t.shape) for p in PARTS for t in model.get_submodule(p).state_dict().values()]


def _encoded_bytes(shape: tuple[int, ...], codec: str) -> int:
    wire, _ = encode({"p": {"w": np.zeros(shape, dtype=np.float32)}}, codec, {})
    return sum(array.nbytes for array in wire["p"].values())


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _times(times: dict[str, float], sha: float) -> str:
    return "   ".join(f"{n} {t * 1e3:5.0f} ms ({t / sha:.1f} x SHA-256)" for n, t in times.items())


def _spread(times: Sequence[float]) -> str:
    return f"{np.median(times):6.1f} s (of {len(times)}: {min(times):.1f} to {max(times):.1f})"


def main() -> None:
    """Print the chosen sections."""
    chosen = sys.argv[1:] or ["flat", "codecs", "slow"]
    sections = {"flat": flat, "codecs": codecs, "slow": slow}
    unknown = set(chosen) - set(sections)
    if unknown:
        sys.exit(f"error: no section {', '.join(sorted(unknown))}; there are {', '.join(sections)}")
    versions = {n: importlib.metadata.version(n) for n in ("flwr", "numpy", "torch")}
    print(f"command    python {' '.join(sys.argv)}")
    print(f"machine    {platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"versions   Python {platform.python_version()}, {versions}; seed 0", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            sections[name](Path(folder))


if __name__ == "__main__":
    main()
