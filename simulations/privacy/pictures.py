"""Pictures that a section draws beside its rows: files in its folder, with what they show."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PICTURES = "pictures.jsonl"


@dataclass(frozen=True)
class Drawn:
    """A picture of a section.

    Attributes:
        file: an SVG in the section's folder.
        alt: what it shows, for those who cannot see it.
        caption: what stands below it.
    """

    file: str
    alt: str
    caption: str


def keep(work: Path, svg: bytes, drawn: Drawn) -> None:
    """Put a picture into a section's folder; the page shows it."""
    (work / drawn.file).write_bytes(svg)
    with (work / PICTURES).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(drawn)) + "\n")


def kept(work: Path) -> list[Drawn]:
    """Return a section's pictures, in the order in which they were drawn."""
    path = work / PICTURES
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Drawn(**json.loads(line)) for line in lines]
