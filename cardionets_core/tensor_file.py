"""Named arrays as the bytes of a safetensors file, one array at a time.

The library builds the whole file in memory, and a copy of every array before that: a server that
saves after every round would need three models where it holds one. These are the same bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cardionets_core.packing import Arrays

DTYPES = ("I64", "F64", "F32", "U8")
"""What safetensors calls the dtypes that we keep, in the order in which they lie in a file."""

NAMES = {"float64": "F64", "float32": "F32", "int64": "I64", "uint8": "U8"}

ALIGNED = 8
"""The header is filled up with spaces to a multiple of this."""


def tensor_bytes(tensors: Arrays) -> Iterator[memoryview]:
    """Yield the bytes of a safetensors file: its header, then each array.

    Args:
        tensors: name -> array of one of NAMES.

    Raises:
        ValueError: another dtype.
    """
    for name, array in tensors.items():
        if str(array.dtype) not in NAMES:
            raise ValueError(f"{name} is {array.dtype}; a checkpoint holds {', '.join(NAMES)}")
    names = sorted(tensors, key=lambda n: (DTYPES.index(NAMES[str(tensors[n].dtype)]), n))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        array = tensors[name]
        start, end = end, end + array.nbytes
        kind = NAMES[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNED)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in names:
        yield np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data
