"""Personal parts: tensors of the model that every site trains for itself and that never travel.

A pattern is a part (`ecg_decoder`) or `part.name` with wildcards over the part's tensors
(`ecg_encoder.*norm*`, FedBN's idea: Li et al. 2021, arXiv 2102.07623). docs/strategies.md says what
a run with personal parts can and cannot do.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError, nearest
from cardionets_core.models.cardionet import build_model
from cardionets_core.training.stages import HEADS, STAGES, Stage, configured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cardionets_core.model_config import ModelConfig
    from cardionets_core.packing import Groups
    from cardionets_core.run_config import RunConfig

HEAD_SOURCES = ("ecg_encoder", "ecg_projector")
"""What a head starts from (CardioNet.start_head)."""

Names = dict[str, tuple[str, ...]]
"""Part -> names of its tensors."""


def is_local(patterns: Sequence[str], part: str, name: str) -> bool:
    """Return whether a tensor stays at the sites."""
    for pattern in patterns:
        wanted_part, dot, wanted_name = pattern.partition(".")
        if fnmatchcase(part, wanted_part) and (not dot or fnmatchcase(name, wanted_name)):
            return True
    return False


def split(groups: Groups, patterns: Sequence[str]) -> tuple[Groups, Groups]:
    """Return what travels and what stays; a part of which nothing is left is in neither."""
    travels: Groups = {}
    stays: Groups = {}
    for part, arrays in groups.items():
        for name, array in arrays.items():
            side = stays if is_local(patterns, part, name) else travels
            side.setdefault(part, {})[name] = array
    return travels, stays


def local_names(model: ModelConfig, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return `part.name` of every tensor of a model that stays at the sites; builds no weights."""
    if not patterns:
        return ()
    names = tensor_names(model).items()
    return tuple(f"{p}.{n}" for p, ns in names for n in ns if is_local(patterns, p, n))


def needed_parts(stage: Stage, model: ModelConfig, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the parts that a site needs for a stage; a personal head starts at the site."""
    head = HEADS.get(stage.name)
    if head is None or not any(n.startswith(f"{head}.") for n in local_names(model, patterns)):
        return stage.parts
    return (*stage.parts, *(p for p in HEAD_SOURCES if p not in stage.parts))


def check_local_parts(config: RunConfig) -> None:
    """Check the patterns of a plan before anything is started.

    Raises:
        ConfigError: a pattern that matches nothing (with the nearest name), a stage that has
            nothing left to average, or a head that travels but starts from what does not.
    """
    patterns, model = config.local_parts, config.sized_model()
    if not patterns:
        return
    names = tensor_names(model)
    for pattern in patterns:
        _require_match(pattern, names)
    for stage_name in config.stages:
        if stage_name not in STAGES:
            continue
        stage = configured(stage_name, config.stage[stage_name].options, model)
        if any(_nothing_left(member, patterns, names) for member in stage.members or (stage,)):
            raise ConfigError(
                f"local_parts: all that a site trains in stage {stage_name} would stay there, and "
                "nothing is left to average. Narrow the patterns, or leave the stage out."
            )
        for source, copy in _head_copies(stage, names):
            if is_local(patterns, *source) and not is_local(patterns, *copy):
                raise ConfigError(
                    f"local_parts: {'.'.join(source)} stays at the sites, and stage {stage_name} "
                    f"starts {'.'.join(copy)} from it. Add {'.'.join(copy)!r} (or a pattern that "
                    "matches it), or leave the stage out."
                )


def tensor_names(model: ModelConfig) -> Names:
    """Return part -> names of its tensors; builds no weights."""
    built = build_model(model, device="meta")
    return {part: tuple(child.state_dict()) for part, child in built.named_children()}


def _nothing_left(stage: Stage, patterns: Sequence[str], names: Names) -> bool:
    return all(is_local(patterns, p, n) for p in stage.trains for n in names[p])


def _require_match(pattern: str, names: Names) -> None:
    if any(is_local((pattern,), p, n) for p, found in names.items() for n in found):
        return
    part, dot, _ = pattern.partition(".")
    if dot and part in names:
        known = [f"{part}.{n}" for n in names[part]]
        hint = nearest(pattern, known) or f" (for instance {known[0]!r})"
        raise ConfigError(f"local_parts: {pattern!r} matches no tensor of {part}{hint}.")
    raise ConfigError(
        f"local_parts: {pattern!r} matches nothing{nearest(part, names)}. "
        f"Parts: {', '.join(names)}; or part.name with wildcards (ecg_encoder.*norm*)."
    )


def _head_copies(stage: Stage, names: Names) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Yield (part, name) of what CardioNet.start_head copies, and of the copy."""
    head = HEADS.get(stage.name)
    if head is None:
        return
    for name in names[head]:
        block, _, rest = name.partition(".")
        if block == "encoder":
            yield ("ecg_encoder", rest), (head, name)
        elif head == "phenotype_head":
            yield ("ecg_projector", f"regress.{rest}"), (head, name)
