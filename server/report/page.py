"""What a report page is made of, and how it writes numbers: blocks in, one HTML string out."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import cardionets_core

if TYPE_CHECKING:
    from collections.abc import Mapping

TEMPLATES = (
    Path(__file__).parent / "templates",
    Path(cardionets_core.__file__).parent / "templates",
)
"""The page's own, and the core's with the style that all report pages share."""

SPACE = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""

NONE = "\N{EN DASH}"
"""Stands in a cell for a number that is not there."""

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Text:
    """A paragraph; `tone` is `plain`, `key` (what to take home), `note` (small) or `warning`."""

    text: str
    tone: Literal["plain", "key", "note", "warning"] = "plain"
    block: str = "text"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        head: its first cell.
        cells: the others; what follows a line break is printed small under the rest.
        kind: `plain`, `total` (ruled off) or `group` (a heading over the rows below it).
    """

    head: str
    cells: tuple[str, ...] = ()
    kind: Literal["plain", "total", "group"] = "plain"


@dataclass(frozen=True)
class Table:
    """A table; on a narrow screen it scrolls sideways under a first column that stays."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    words: bool = False
    """Whether the cells are words (ranged left) and not numbers (ranged right)."""
    block: str = "table"


@dataclass(frozen=True)
class Picture:
    """An image that lies inside the page; `alt` says what it shows to those who cannot see it.

    A wide one is not shrunk below legibility on a narrow screen but scrolls sideways.
    """

    data: bytes
    alt: str
    caption: str = ""
    wide: bool = False
    kind: Literal["png", "gif", "svg+xml"] = "png"
    block: str = "picture"

    @property
    def address(self) -> str:
        """The image as a data address."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Highlights:
    """Large single numbers with what they mean: (number, meaning)."""

    items: tuple[tuple[str, str], ...]
    block: str = "highlights"


@dataclass(frozen=True)
class Gallery:
    """Columns of blocks that stand side by side where there is room."""

    columns: tuple[tuple[Block, ...], ...]
    block: str = "gallery"


@dataclass(frozen=True)
class Group:
    """Blocks under one heading; a folded one opens on a click, and always in print."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False
    block: str = "group"


Block = Text | Table | Picture | Gallery | Highlights | Group


@dataclass(frozen=True)
class Section:
    """A part of the page that the table of contents names."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


def render(*, title: str, lead: tuple[Block, ...], sections: tuple[Section, ...]) -> str:
    """Return the page as one HTML string without any outside reference."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja")
    return page.render(title=title, lead=lead, sections=sections)


# ---------------------------------------------------------------------------------------- numbers


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals (none from 100 on), never as minus zero."""
    if value is None:
        return NONE
    if abs(value) >= 100:
        digits = 0
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def interval(estimate: Mapping[str, float | None] | None, digits: int = 2) -> str:
    """Return `value (low to high)` of an estimate, or the value alone where it has no interval."""
    value, _, bounds = stacked(estimate, digits).partition("\n")
    return f"{value} ({bounds})" if bounds else value


def stacked(estimate: Mapping[str, float | None] | None, digits: int = 2, unit: str = "") -> str:
    """Return an estimate for a cell: the value, and its interval on a line below."""
    if not estimate or estimate.get("value") is None:
        return NONE
    value = number(estimate["value"], digits) + unit
    low, high = estimate.get("low"), estimate.get("high")
    if low is None or high is None:
        return value
    return f"{value}\n{number(low, digits)} to {number(high, digits)}"


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share as a percentage."""
    return NONE if share is None else f"{number(100 * share, digits)}{SPACE}%"


def megabytes(count: int) -> str:
    """Return bytes as megabytes (10^6), with a decimal where it matters."""
    size = count / 1e6
    return f"{number(size, 0 if size >= 100 else 1 if size >= 0.95 else 2)}{SPACE}MB"


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes}{SPACE}min {rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60:02d}{SPACE}min"


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: `1 site`, `3 sites`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(words: list[str] | tuple[str, ...]) -> str:
    """Return words as a list in a sentence: `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
