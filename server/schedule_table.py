"""The table that a coordinator sees before a private run starts: what its schedule costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cardionets_core.privacy.accounting import epsilon_rdp
from cardionets_core.privacy.expected_errors import patients_for, scored_outputs
from cardionets_core.privacy.noise_plan import USUAL_DELTA
from cardionets_core.privacy.plan import EVERYTHING, LATENTS, planned, planned_charges
from cardionets_core.privacy.schedule import quoted
from cardionets_core.privacy_config import NOT_MEMBERSHIP

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cardionets_core.privacy.plan import Planned
    from cardionets_core.run_config import RunConfig

OUT_OF = 1000
"""Declared patients that a step's size is told of, as long as no site has declared any."""

PURPOSE = {
    "handshake": "phenotype sums",
    LATENTS: "tokenizer's statistics",
    "evaluate": "sums of metrics",
}
"""Stage -> what is released in it, where it is no training."""


def schedule_table(config: RunConfig) -> RenderableType:
    """Return what a private plan costs a site that serves all of it."""
    table = Table(
        "stage", "releases of", "noise", "rate", f"of {OUT_OF:,}", "steps", "releases",
        "epsilon alone",
        box=None, pad_edge=False, header_style="dim",
    )  # fmt: skip
    for column in table.columns[2:]:
        column.justify = "right"
    for row in planned(config, EVERYTHING):
        table.add_row(*_cells(row))
    return Group(table, *(Text(line) for line in _lines(config)), *_warning(config))


def _cells(row: Planned) -> tuple[str, ...]:
    charge = row.charge
    return (
        row.stage,
        PURPOSE.get(row.stage, "training"),
        f"{charge.noise:g}",
        f"{charge.rate:g}",
        f"{charge.rate * OUT_OF:,.0f}",
        f"{charge.steps:,}",
        str(row.releases),
        f"{epsilon_rdp([charge], USUAL_DELTA):.2f}",
    )


def _lines(config: RunConfig) -> list[str]:
    whole = quoted(planned_charges(config, EVERYTHING), USUAL_DELTA)
    lines = [
        f"whole schedule, as it stands before round 1: {whole.words()}, at delta {whole.delta:g}",
        "Ledgers gate by RDP, each at an order of its own, where it costs as much or more; PRV is "
        "the figure to quote. Per patient of a site that serves all stages, add or remove one. "
        "Each site's own follows when it has said what it declares.",
    ]
    if needed := patients_for(config):
        lines.append(
            "The evaluation's metrics become usable from about "
            f"{float(f'{needed:.2g}'):,.0f} test patients on at one site "
            f"({scored_outputs(config)})."
        )
    return lines


def _warning(config: RunConfig) -> tuple[Text, ...]:
    if config.privacy.profile == "membership":
        return ()
    return (Text(f"WARNING {NOT_MEMBERSHIP}.", style="bold red"),)
