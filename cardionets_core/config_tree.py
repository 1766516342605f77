"""Plain mappings (YAML, JSON) into frozen dataclasses and back; nothing unknown gets through."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cardionets_core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

# Evaluated from text each time, the annotations of a task's header would cost 2 ms a message.
_hints_of = functools.cache(get_type_hints)


def build(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Build the dataclass `cls` from `values`, checking every key and type.

    Args:
        cls: a dataclass; its fields may be scalars, tuples, dicts, Literals or other dataclasses.
        values: a mapping with string keys.
        where: what to call the mapping in an error message.

    Raises:
        ConfigError: an unknown key (with the nearest right one), a missing key or a wrong type.
    """
    hints = _hints_of(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigError(
                f"{where}: unknown key {key!r}{nearest(str(key), fields)}. "
                f"Known keys: {', '.join(fields)}."
            )
    kwargs = {k: _convert(hints[k], v, f"{where}.{k}") for k, v in values.items()}
    missing = [n for n, f in fields.items() if n not in kwargs and _required(f)]
    if missing:
        raise ConfigError(f"{where}: missing key {missing[0]!r}; add it.")
    try:
        return cls(**kwargs)
    except ValueError as error:  # a __post_init__ check
        raise ConfigError(f"{where}: {str(error).removesuffix('.')}.") from None


def to_mapping(config: Any) -> dict[str, Any]:
    """Return the dataclass as plain dicts, lists and scalars, ready for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def digest(config: Any) -> str:
    """Return the SHA-256 of the dataclass as canonical JSON: the same config, the same digest."""
    text = json.dumps(to_mapping(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


_KINDS = {float: "a number"}
"""Kinds of settings whose name in Python is no word for a person."""


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            choice = nearest(str(value), map(str, args))
            raise ConfigError(f"{where}: {value!r} is not one of {list(args)}{choice}.")
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a group of keys, got {value!r}.")
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a group of keys, got {value!r}.")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    return _scalar(hint, value, where)


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, got {value!r}.")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(args) != len(value):
        raise ConfigError(f"{where}: expected {len(args)} values, got {len(value)}.")
    return tuple(
        _convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True))
    )


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: the number is too large.") from None
    if hint in (int, float, str, bool) and (
        not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    ):
        raise ConfigError(f"{where}: expected {_KINDS.get(hint, hint.__name__)}, got {value!r}.")
    return value
