"""Named tensors as a few flat arrays plus a manifest, and back.

Flower pays about 10 ms for every array of a message (20 MB as 1,220 arrays: a minute a round; as
one: 4-6 s), so all tensors of one group and dtype travel as one flat array. The manifest holds
names, shapes and a SHA-256 of each flat array; unpacking trusts none of it.
"""

from __future__ import annotations

import hashlib
import json
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]
"""Name -> array."""

Groups = dict[str, Arrays]
"""Group (a model part, or `sums`) -> its named arrays."""

Tensors = list[tuple[str, tuple[int, ...]]]
"""Names and shapes, in the order in which they lie in a flat array."""

DTYPES = ("float32", "float64", "int64", "uint8", "uint16", "int8")
"""The dtypes that may travel; the last two only as what a codec made of float32 (codec.py)."""


def pack(groups: Mapping[str, Mapping[str, NDArray[Any]]]) -> tuple[Arrays, str]:
    """Pack groups of named arrays.

    Returns:
        flat arrays by key `group|dtype`, each 1-D, and the manifest as JSON text.

    Raises:
        WireError: a dtype that may not travel.
    """
    flat: Arrays = {}
    manifest: dict[str, Any] = {}
    for group in sorted(groups):
        by_dtype: dict[str, list[str]] = {}
        for name in sorted(groups[group]):
            by_dtype.setdefault(str(groups[group][name].dtype), []).append(name)
        for dtype, names in sorted(by_dtype.items()):
            if dtype not in DTYPES:
                raise WireError(f"{group}.{names[0]} is {dtype}; only {', '.join(DTYPES)} travel.")
            tensors = [groups[group][n] for n in names]
            key = f"{group}|{dtype}"
            flat[key] = np.concatenate([t.reshape(-1) for t in tensors])
            manifest[key] = {
                "sha256": hashlib.sha256(flat[key].data).hexdigest(),
                "tensors": [[n, list(t.shape)] for n, t in zip(names, tensors, strict=True)],
            }
    return flat, json.dumps(manifest, separators=(",", ":"))


def unpack(flat: Mapping[str, NDArray[Any]], manifest: str) -> Groups:
    """Undo `pack`, checking dtypes, lengths and hashes.

    Raises:
        WireError: anything that does not agree with the manifest.
    """
    entries, pairs = _read_manifest(manifest)
    if set(flat) != set(pairs):
        raise WireError("the arrays of a message are not those of its manifest")
    groups: Groups = {}
    for key, tensors in pairs.items():
        group, _, dtype = key.partition("|")
        array = flat[key]
        if dtype not in DTYPES or str(array.dtype) != dtype or array.ndim != 1:
            raise WireError(f"array {key!r} is not a flat {dtype or 'array'}")
        digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        if digest != entries[key].get("sha256"):
            raise WireError(f"array {key!r} does not have the SHA-256 of its manifest")
        groups.setdefault(group, {}).update(_split(key, array, tensors))
    return groups


def _read_manifest(manifest: str) -> tuple[dict[str, Any], dict[str, Tensors]]:
    try:
        entries: dict[str, Any] = json.loads(manifest)
        pairs = {
            k: [(str(n), tuple(int(d) for d in s)) for n, s in e["tensors"]]
            for k, e in entries.items()
        }
    # A RecursionError is a text of 100,000 brackets, an OverflowError a size of Infinity.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise WireError("the manifest of a message is not readable") from None
    return entries, pairs


def _split(key: str, array: NDArray[Any], tensors: Tensors) -> Arrays:
    if any(d < 0 for _, shape in tensors for d in shape):
        raise WireError(f"array {key!r} claims a negative size")
    if len({name for name, _ in tensors}) != len(tensors):
        raise WireError(f"array {key!r} names a tensor twice")
    if sum(prod(shape) for _, shape in tensors) != array.size:
        raise WireError(f"array {key!r} has not the length of its manifest")
    parts: Arrays = {}
    start = 0
    for name, shape in tensors:
        size = prod(shape)
        try:
            parts[name] = array[start : start + size].reshape(shape)
        except (ValueError, OverflowError):  # 80 dimensions, or 0 x 10^30
            raise WireError(f"array {key!r} claims a shape that no array has") from None
        start += size
    return parts


def fingerprint(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).data)
    return total.hexdigest()
