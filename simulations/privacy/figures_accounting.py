"""Epsilon as our accountants tell it, against Opacus' and Google's, over many histories."""

from __future__ import annotations

import json
import math
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.privacy.accounting import Charge, epsilon_at, epsilon_prv, epsilon_rdp
from simulations.privacy.row import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parents[2]
STORED = HERE / "tests" / "cardionets_core" / "privacy" / "peers.json"
"""What dp-accounting said when benchmarks/privacy/peers.py was last run."""

PEERS = HERE / "benchmarks" / "privacy" / "peers.py"
PYTHON = HERE / ".venv-peers" / "bin" / "python"
PEERS_LIMIT_S = 300
MOST, LEAST, ERROR = 0.01, 0.5, 0.01
BUCKETS = Charge(1.2, 256 / 5000, 977)
"""A plan that reads epsilon 8 or so: n = 5,000, batch 256, 50 epochs."""


@dataclass(frozen=True)
class Case:
    """A history, and what dp-accounting says of it.

    Attributes:
        charges: its steps.
        delta: of epsilon.
        pld: epsilon by privacy loss distributions.
        rdp: epsilon by Renyi DP.
        at: (order, epsilon) by Renyi DP at single orders.
    """

    charges: tuple[Charge, ...]
    delta: float
    pld: float
    rdp: float
    at: tuple[tuple[float, float], ...]


def accounting(work: Path) -> Iterator[Row]:
    """Compare both of our accountants, and the ledger's one order, with two peers each."""
    cases, source = _cases(work)
    large = [c for c in cases if c.pld >= LEAST]
    rdp = [epsilon_rdp(c.charges, c.delta) for c in large]
    yield _agreement("RDP against Opacus' RDP", rdp, [_opacus(c, "rdp") for c in large], "")
    yield _agreement("RDP against dp-accounting's RDP", rdp, [c.rdp for c in large], source)
    yield from _at_one_order(cases, source)
    some = large[:: max(1, len(large) // 24)]  # PRV takes a second for each, at both
    prv = [epsilon_prv(c.charges, c.delta) for c in some]
    yield _agreement("PRV against Opacus' PRV", prv, [_opacus(c, "prv") for c in some], "")
    yield _agreement("PRV against dp-accounting's PLD", prv, [c.pld for c in some], source)
    yield from _small([c for c in cases if c.pld < LEAST], source)
    right, wrong = (
        epsilon_prv([Charge(BUCKETS.noise * f, BUCKETS.rate, BUCKETS.steps)], 1e-5)
        for f in (1, 0.5)
    )
    yield Row(
        f"buckets with noise sigma C instead of sigma 2C: what would read epsilon {right:.1f} is",
        "",
        f"{wrong:.1f}",
        None,
        note="why the factor stands in one place of the code",
    )


def _at_one_order(cases: list[Case], source: str) -> Iterator[Row]:
    """The figure by which a ledger gates: both libraries take a list of one order, too."""
    asked = [(c, order, theirs) for c in cases for order, theirs in c.at]
    ours = [epsilon_at(c.charges, c.delta, order) for c, order, _ in asked]
    opacus = [_opacus(c, "rdp", order) for c, order, _ in asked]
    words = "RDP at one order, the ledger's gate, against"
    yield _agreement(f"{words} Opacus' at it", ours, opacus, "")
    yield _agreement(f"{words} dp-accounting's at it", ours, [e for *_, e in asked], source)


def _small(cases: list[Case], source: str) -> Iterator[Row]:
    """Tiny epsilons: a per cent of them is below the accountants' own error."""
    pairs = [
        (c, min(epsilon_prv(c.charges, c.delta), epsilon_rdp(c.charges, c.delta))) for c in cases
    ]
    apart = max(abs(ours - c.pld) for c, ours in pairs)
    yield Row(
        f"epsilon below {LEAST}: largest difference to dp-accounting over {len(cases)} histories",
        f"<= {ERROR}",
        f"{apart:.4f}",
        apart <= ERROR,
        note=source,
    )
    yield Row(
        "the same histories: ours below dp-accounting's upper bound by at most",
        "1 %",
        f"{max(1 - ours / c.pld for c, ours in pairs):.2%}",
        all(ours >= (1 - MOST) * c.pld for c, ours in pairs),
        note="epsilon must not be understated; Opacus' RDP cannot tell less than 0.1 here",
    )


def _cases(work: Path) -> tuple[list[Case], str]:
    """Return the histories, from dp-accounting itself where it is installed; else as stored."""
    text, source = STORED.read_text(encoding="utf-8"), "stored"
    if PYTHON.exists():
        found = subprocess.run(
            [str(PYTHON), str(PEERS)],
            capture_output=True,
            text=True,
            timeout=PEERS_LIMIT_S,
            check=False,
        )
        if found.returncode == 0:
            text, source = found.stdout, "asked now"
    content: dict[str, Any] = json.loads(text)
    version = content["facts"]["dp_accounting"]
    cases = [
        Case(
            charges=tuple(Charge(*h) for h in c["history"]),
            delta=c["delta"],
            pld=c["pld"],
            rdp=c["rdp"],
            at=tuple((order, epsilon) for order, epsilon in c["at"]),
        )
        for c in content["cases"]
    ]
    return cases, f"dp-accounting {version}, {source}"


def _opacus(case: Case, kind: str, order: float | None = None) -> float:
    from opacus.accountants import PRVAccountant, RDPAccountant

    accountant = PRVAccountant() if kind == "prv" else RDPAccountant()
    accountant.history = [(c.noise, c.rate, c.steps) for c in case.charges]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, far from the result
        if order is not None:
            return float(accountant.get_epsilon(case.delta, alphas=[order]))
        return float(accountant.get_epsilon(case.delta))


def _agreement(words: str, ours: list[float], theirs: list[float], note: str) -> Row:
    apart = [abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)]
    worst = max(apart) if apart and not any(map(math.isnan, apart)) else math.inf
    return Row(
        f"{words}: largest difference over {len(ours)} histories",
        "<= 1 %",
        f"{worst:.2%}",
        worst <= MOST,
        note=note,
    )
