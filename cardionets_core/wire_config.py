"""WireConfig: how updates travel from the sites to the server (codec.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Codec = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class WireConfig:
    """How updates travel; docs/wire_protocol.md says what each codec costs and keeps.

    Attributes:
        codec: of the floating arrays of an update.
    """

    codec: Codec = "float32"
