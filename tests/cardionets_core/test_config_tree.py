"""Mappings into dataclasses: right values come through, nothing unknown does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.config_tree import build, digest, to_mapping
from cardionets_core.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    size: int = 1
    ratio: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["vit", "s4d"] = "vit"
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    words: tuple[str, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    three: tuple[int, str, float] = (1, "a", 0.5)
    options: dict[str, float] = field(default_factory=dict)
    groups: dict[str, Inner] = field(default_factory=dict)
    on: bool = False
    free: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.name == "wrong":
            raise ValueError("name is wrong")


FULL = {
    "name": "n",
    "kind": "s4d",
    "inner": {"size": 3},
    "maybe": {"ratio": 2},
    "words": ["a", "b"],
    "pairs": [[1, 2], [3, 4]],
    "three": [7, "x", 1],
    "options": {"temperature": 1},
    "groups": {"one": {"size": 9}},
    "on": True,
    "free": {"anything": [1, {"at": "all"}]},
}


def test_every_kind_of_field_is_built():
    built = build(Outer, FULL)
    assert built == Outer(
        name="n",
        kind="s4d",
        inner=Inner(3),
        maybe=Inner(1, 2.0),
        words=("a", "b"),
        pairs=((1, 2), (3, 4)),
        three=(7, "x", 1.0),
        options={"temperature": 1.0},
        groups={"one": Inner(9)},
        on=True,
        free={"anything": [1, {"at": "all"}]},
    )
    assert isinstance(built.maybe.ratio, float) and isinstance(built.options["temperature"], float)


def test_to_mapping_and_build_are_inverse():
    built = build(Outer, FULL)
    assert build(Outer, json.loads(json.dumps(to_mapping(built)))) == built
    assert build(Outer, to_mapping(Outer("n"))) == Outer("n")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "n"}, r"unknown key 'nam' \(did you mean 'name'\?\)"),
        (
            {"name": "n", "inner": {"siz": 1}},
            r"site\.inner: unknown key 'siz' \(did you mean 'size'",
        ),
        ({"name": "n", "groups": {"one": {"x": 1}}}, r"site\.groups\.one: unknown key 'x'"),
        ({}, "missing key 'name'"),
        ({"name": 3}, r"site\.name: expected str, got 3"),
        ({"name": "n", "inner": {"size": 1.5}}, "expected int"),
        ({"name": "n", "inner": {"size": True}}, "expected int"),
        ({"name": "n", "inner": {"ratio": True}}, "expected a number"),
        ({"name": "n", "inner": {"ratio": "0.5"}}, "expected a number"),
        ({"name": "n", "inner": {"ratio": 10**400}}, "too large"),
        ({"name": "n", "on": 1}, "expected bool"),
        ({"name": "n", "kind": "vti"}, r"not one of \['vit', 's4d'\] \(did you mean 'vit'"),
        ({"name": "n", "kind": ["vit"]}, "not one of"),
        ({"name": "n", "inner": None}, "expected a group of keys"),
        ({"name": "n", "maybe": 3}, "expected a group of keys"),
        ({"name": "n", "words": "ab"}, "expected a list"),
        ({"name": "n", "words": ["a", 1]}, r"words\[1\]: expected str"),
        ({"name": "n", "three": [1, "a"]}, "expected 3 values, got 2"),
        ({"name": "n", "options": [1]}, "expected a group of keys"),
        ({"name": "wrong"}, "site: name is wrong"),
    ],
)
def test_wrong_values_are_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        build(Outer, values, "site")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*FULL, "_target_", "more"]), JSON, max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_json_is_built_or_refused_with_a_config_error(values):
    try:
        built = build(Outer, values)
    except ConfigError:
        return
    assert isinstance(built, Outer)


def test_the_digest_is_that_of_the_values():
    built = build(Outer, FULL)
    assert digest(built) == digest(build(Outer, dict(reversed(FULL.items()))))
    assert digest(built) != digest(build(Outer, FULL | {"inner": {"size": 4}}))
    assert len(digest(built)) == 64


def test_the_digest_of_a_small_config_is_this_one():
    """A digest that changes silently would part every site from its coordinator."""
    import hashlib

    text = b'{"ratio":0.5,"size":1}'
    assert digest(Inner()) == hashlib.sha256(text).hexdigest()
