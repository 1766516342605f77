"""A table while it is measured: its head, a bar over its parts, and its files after each of them.

`make faults` and `make privacy` measure different things in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

    from simulations.measured import Conditions

TITLE_COLUMNS = 52
"""Characters kept for what is being measured, so that the bar beside it stands still."""

Part = TypeVar("Part")
Outcome = TypeVar("Outcome")


def print_head(console: Console, above: Conditions) -> None:
    """Print what stands above a measured table."""
    for key, value in above.lines().items():
        console.print(f"{key:<10} {value}", soft_wrap=True, highlight=False, markup=False)


def measured_with_bar(
    measure: Callable[[Callable[[Part], None], Callable[[Outcome], None]], object],
    titles: Mapping[Part, str],
    *,
    console: Console,
    show: Callable[[Outcome], None],
    write: Callable[[list[Outcome]], None],
) -> list[Outcome]:
    """Measure with a bar over the parts; the files are written again after each of them.

    Args:
        measure: measures all parts; it is given what to call before and after each.
        titles: part -> what stands beside the bar while it is measured.
        console: where the bar is drawn.
        show: prints how a part ended.
        write: writes the files of all parts that have ended.

    Returns:
        How the parts ended, in the order in which they did.
    """
    columns = (
        TextColumn(f"{{task.description:<{TITLE_COLUMNS}}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    so_far: list[Outcome] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=len(titles))

        def begun(part: Part) -> None:
            progress.update(task, description=titles[part])

        def ended(outcome: Outcome) -> None:
            so_far.append(outcome)
            show(outcome)
            progress.advance(task)
            write(so_far)

        measure(begun, ended)
    return so_far
