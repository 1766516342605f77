"""Codecs: the floating arrays of an update in fewer bytes, and back.

    float32    as they are
    bfloat16   16 bits each, rounded to nearest even; sent as their bits, uint16
    int8       8 bits each and one float32 scale for every BLOCK values (symmetric: scale x q)

What a codec rounds off is not lost. The site keeps it and adds it to its next update of the stage,
so that the sum of all decoded updates stays within one rounding step of the sum of the true ones
(error feedback: Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847, Algorithm 1).

Arrays of fewer than BLOCK values (biases, gains) travel as float32: they are 0.1 to 1.3 % of a
model's values, and rounding harms them most. So do measured statistics of any size (measured.py).
Integers and float64 travel as they are. Names, dtypes and shapes alone decide, never values, so
both sides decide alike. The receiver decodes only what the task asked for, and trusts neither sizes
nor scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.errors import SiteError, WireError
from cardionets_core.measured import RANGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cardionets_core.packing import Arrays, Groups
    from cardionets_core.wire_config import Codec

BLOCK = 1024
"""Values that share a scale; smaller arrays are not encoded."""

SCALE = "|scale"
"""Ending of the name under which the scales of an int8 array travel."""

STEPS = 127
"""Steps of int8 on either side of zero; -128 is not used."""

LARGEST = 2.0**127
"""Larger values are not encoded: bfloat16 would round the largest float32 to infinity."""

LARGEST_SCALE = 2.0**121
"""More than any encoder gives; STEPS times it is still a float32."""

ENCODED: dict[Codec, str] = {"bfloat16": "uint16", "int8": "int8"}
"""Codec -> dtype on the wire of an array that it encodes."""


def encode(
    groups: Groups, codec: Codec, residual: Mapping[str, Mapping[str, NDArray[Any]]]
) -> tuple[Groups, Groups]:
    """Encode an update and say what to add to the next one.

    Args:
        groups: part -> name -> array, the update.
        codec: what the task asked for.
        residual: what the last call returned in this stage; arrays that it lacks begin at zero.

    Returns:
        what to send, and the new residual: (groups + residual) - decoded.

    Raises:
        SiteError: `diverged`, a value that is not finite or beyond any use.
    """
    if codec == "float32":
        return groups, {}
    wire: Groups = {}
    rest: Groups = {}
    for part, arrays in groups.items():
        wire[part], kept = {}, residual.get(part, {})
        for name, array in arrays.items():
            if not _is_encoded(part, name, array):
                wire[part][name] = array
                continue
            values = array + kept[name] if name in kept else array
            sent = _encode_array(values, codec)
            wire[part] |= {name + ending: a for ending, a in sent.items()}
            decoded = _decode_array(sent[""], sent.get(SCALE))
            rest.setdefault(part, {})[name] = np.subtract(values, decoded, out=decoded)
    return wire, rest


def decode(groups: Groups, codec: Codec) -> Groups:
    """Return the update that was encoded; its floating arrays are float32 again.

    Raises:
        WireError: an array that `codec` does not send, or a scale that none has.
    """
    return {part: _decode_part(part, arrays, codec) for part, arrays in groups.items()}


def _decode_part(part: str, arrays: Arrays, codec: Codec) -> Arrays:
    decoded: Arrays = {}
    scales = {}
    if codec == "int8":
        owners = {n for n, a in arrays.items() if a.dtype == np.int8}
        scales = {n: arrays[n + SCALE] for n in owners if n + SCALE in arrays}
    for name, array in arrays.items():
        if name.removesuffix(SCALE) in scales and name.endswith(SCALE):
            continue
        dtype = str(array.dtype)
        # An array that the codec would have encoded must be encoded, and no other may be.
        wanted = ENCODED.get(codec, "float32") if _is_shortened(part, name, array) else "float32"
        if dtype in ("float32", *ENCODED.values()) and dtype != wanted:
            raise WireError(f"array {name!r} of {part!r} is {dtype}; {codec} sends it as {wanted}")
        if dtype == "int8":
            _check_int8(part, name, array, scales.get(name))
        encoded = dtype in ENCODED.values()
        decoded[name] = _decode_array(array, scales.get(name)) if encoded else array
    return decoded


def _is_encoded(part: str, name: str, array: NDArray[Any]) -> bool:
    return array.dtype == np.float32 and _is_shortened(part, name, array)


def _is_shortened(part: str, name: str, array: NDArray[Any]) -> bool:
    """Return whether float32 values of this array are encoded; known to both sides."""
    return array.size >= BLOCK and (part, name) not in RANGES


def _encode_array(values: NDArray[Any], codec: Codec) -> Arrays:
    """Return ending of the name -> array to send."""
    flat = values.reshape(-1)
    largest = np.maximum.reduceat(np.abs(flat), _starts(flat.size))
    if not largest.max() <= LARGEST:
        raise SiteError("diverged")
    if codec == "bfloat16":
        return {"": _to_bfloat16(flat).reshape(values.shape)}
    scale = _scales(largest)
    steps = _per_value(np.where(scale > 0, scale, np.float32(1)), flat.size)
    np.rint(np.divide(flat, steps, out=steps), out=steps)
    return {"": steps.astype(np.int8).reshape(values.shape), SCALE: scale}


def _to_bfloat16(values: NDArray[Any]) -> NDArray[Any]:
    """Return the upper 16 bits of each float32, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits >> np.uint32(16)  # then in place: new memory costs more than the sums
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    return rounded.astype(np.uint16)


def _scales(largest: NDArray[Any]) -> NDArray[Any]:
    """Return the least float32 scales that reach the largest value of each block in STEPS steps."""
    scale = (largest.astype(np.float64) / STEPS).astype(np.float32)
    short = scale.astype(np.float64) * STEPS < largest
    return np.where(short, np.nextafter(scale, np.float32(np.inf)), scale)


def _decode_array(array: NDArray[Any], scale: NDArray[Any] | None) -> NDArray[Any]:
    if scale is None:
        bits = array.astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)
    flat = array.reshape(-1).astype(np.float32)
    flat *= _per_value(scale, flat.size)
    return flat.reshape(array.shape)


def _check_int8(part: str, name: str, array: NDArray[Any], scale: NDArray[Any] | None) -> None:
    if scale is None or scale.dtype != np.float32 or scale.shape != (len(_starts(array.size)),):
        raise WireError(f"array {name!r} of {part!r} has not one float32 scale per {BLOCK} values")
    if not np.all((scale >= 0) & (scale <= LARGEST_SCALE)):
        raise WireError(f"array {name!r} of {part!r} has a scale that is negative or not finite")
    if array.min() < -STEPS:
        raise WireError(f"array {name!r} of {part!r} has a step beyond {-STEPS}")


def _starts(size: int) -> NDArray[np.intp]:
    return np.arange(0, size, BLOCK)


def _per_value(scale: NDArray[Any], size: int) -> NDArray[Any]:
    return np.repeat(scale, BLOCK)[:size]
