"""The wire: Task (server to site) and Update (site to server) to and from Flower records.

docs/wire_protocol.md lists every field. Nothing else crosses the wall.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.lib import format as npy

from cardionets_core import __version__
from cardionets_core.config_tree import build
from cardionets_core.errors import SITE_ERROR_CODES, ConfigError, SiteError, WireError
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.model_config import ModelConfig
from cardionets_core.packing import Groups, pack, unpack
from cardionets_core.privacy_config import PrivacyReport, PrivateTask
from cardionets_core.secure_config import SecureTask
from cardionets_core.wire_config import Codec
from cardionets_core.wire_limits import (
    check_counts,
    check_metrics,
    check_modalities,
    check_privacy,
    check_site_name,
    check_versions,
    check_whole,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ARRAYS, CONFIG, REFUSAL = "arrays", "config", "refusal"
"""Names of the records inside a message; the first two are Flower's own words."""

BEFORE = "seconds_before"
"""Key of a number in an update's config: a double, so that it takes 8 bytes whatever it says."""

LONGEST_S = 366 * 86400.0
"""No training that anybody still waits for has taken longer."""

NPY = "numpy.ndarray"
"""Flower's word for an array in NumPy's npy format."""

SUMS = "sums"
"""Group of the additive float64 sums in an update."""

MISSING_PARTS = "missing_parts"
"""The code of a site that has not kept a frozen part; the server sends all of them again."""

MISSING_MEMORY = "missing_memory"
"""The code of a site that has not, or not whole, the memory that a task names; the server asks once
more, for the personal tensors of the memory before it, or nothing."""

OR_NOTHING = "?"
"""Ending of the name of a memory that a site may do without."""

MESSAGE_TYPES = {"handshake": "query", "evaluate": "evaluate"}
"""Kind of a task -> Flower's message type; every other kind is `train`."""


Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class TrainPlan:
    """What the site's training loop must know; see StageConfig for the meaning of each number.

    Attributes:
        proximal_mu: FedProx's mu: local training is held near the weights that it began from.
        budget_s: seconds that local training may take; 0 is no limit.
        partial: at the budget, answer with the steps done; False: refuse with the code `budget`.
        optimizer: of the local steps.
        control: SCAFFOLD's control variate of the site: `start` it at zero, `keep` the one that it
            remembers; `none` is another strategy.
        codec: how the update's floating arrays travel.
    """

    local_epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    clip_norm: float
    max_steps: int
    progress: float
    options: dict[str, float] = field(default_factory=dict)
    proximal_mu: float = 0.0
    budget_s: float = 0.0
    partial: bool = False
    optimizer: Optimizer = "adamw"
    control: Literal["none", "start", "keep"] = "none"
    codec: Codec = "float32"


@dataclass(frozen=True)
class Notice:
    """That the last answer of a site was not used, and why: a key of UPDATE_REFUSALS."""

    stage: str
    round: int
    code: str


@dataclass(frozen=True)
class TaskHeader:
    """All of a task but its arrays.

    Attributes:
        run: name of the run.
        config_hash: SHA-256 of the RunConfig that the coordinator published.
        version: CardioNets version of the server.
        stage: name of the stage.
        action: what the site does: describe itself, train, fit sums or score sums.
        round: 1-based within the stage.
        seed: for this stage and round; the site mixes its own name in.
        threads: CPU threads per process.
        model: the model to build.
        phenotypes: names, in the order of the heads' outputs.
        diseases: likewise.
        scaler_mean: mean of each phenotype over the federation; empty before the handshake.
        scaler_sd: likewise.
        trains: parts that this stage trains.
        parts: every part that the stage needs -> fingerprint of the weights to use.
        min_patients: fewer training patients than this: the site answers `refused_cohort`.
        train: set when action is `train`.
        evaluation: options of the evaluate stage.
        notice: what became of the site's last answer, where it was not used.
        memory: `STAGE/ROUND` of the site's last update that the server used in this run; the site
            goes on from what it remembered then. Empty: from nothing. With OR_NOTHING: from its
            personal tensors of then, if they are whole.
        local: patterns of tensors (`part` or `part.name`) that stay at the sites.
        model_seed: seed of the initial weights, for tensors that never travel.
        privacy: set where the task must be served with differential privacy.
        secure: set where the update is hidden in a sum: which message of a session this is.
    """

    run: str
    config_hash: str
    stage: str
    action: Literal["describe", "train", "fit", "score"]
    round: int
    seed: int
    threads: int
    model: ModelConfig
    phenotypes: tuple[str, ...]
    diseases: tuple[str, ...]
    version: str = __version__
    scaler_mean: tuple[float, ...] = ()
    scaler_sd: tuple[float, ...] = ()
    trains: tuple[str, ...] = ()
    parts: dict[str, str] = field(default_factory=dict)
    min_patients: int = 1
    train: TrainPlan | None = None
    evaluation: EvaluationOptions | None = None
    notice: Notice | None = None
    memory: str = ""
    local: tuple[str, ...] = ()
    model_seed: int = 0
    privacy: PrivateTask | None = None
    secure: SecureTask | None = None


@dataclass(frozen=True)
class Task:
    """A header and the weights of the parts that travel with it (others the site holds already)."""

    header: TaskHeader
    weights: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """A site's answer.

    Attributes:
        site: the name in the site's own YAML.
        run: as in the task; likewise stage and round.
        num_examples: training studies behind the update, its weight in the mean (patients, where
            each has one study).
        metrics: plain numbers that the site's policy lets out.
        counts: whole numbers that it lets out (handshake).
        versions: versions of the site (handshake).
        modalities: what the site can serve (handshake).
        delta: new minus old weights of the trained parts.
        sums: float64 arrays that add up over sites.
        steps: optimizer steps taken; likewise `planned_steps`, those of the whole plan.
        examples: part -> training studies behind it, where parts differ; empty: `num_examples`.
        seconds_before: of training that lay before this task came: the site had kept the answer.
            0 where it has trained for this task.
        privacy: what the site's ledger says, where the task was private.
    """

    site: str
    run: str
    stage: str
    round: int
    num_examples: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    delta: Groups = field(default_factory=dict)
    sums: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    planned_steps: int = 0
    examples: dict[str, int] = field(default_factory=dict)
    seconds_before: float = 0.0
    privacy: PrivacyReport | None = None


def task_to_records(task: Task) -> RecordDict:
    """Pack a task for Flower."""
    return _records(asdict(task.header), task.weights)


def task_from_records(content: RecordDict) -> Task:
    """Unpack a task.

    Raises:
        WireError: the content is not a task of this version.
    """
    header, groups = _contents(content)
    try:
        return Task(build(TaskHeader, header, "task"), groups)
    except ConfigError as error:
        raise WireError(f"the task cannot be understood: {error}") from None


def update_to_records(update: Update) -> RecordDict:
    """Pack an update for Flower."""
    header = {k: v for k, v in vars(update).items() if k not in ("delta", "sums", BEFORE)}
    header["privacy"] = asdict(update.privacy) if update.privacy else None
    groups = dict(update.delta)
    if update.sums:
        groups[SUMS] = dict(update.sums)
    return _records(header, groups, {BEFORE: float(update.seconds_before)})


def update_from_records(content: RecordDict) -> Update:
    """Unpack an update.

    Raises:
        SiteError: the site refused; the error holds its code.
        WireError: the content is not an update.
    """
    if REFUSAL in content:
        code = str(content[REFUSAL].get("code", "internal"))
        raise SiteError(code if code in SITE_ERROR_CODES else "internal")
    header, groups = _contents(content)
    sums = groups.pop(SUMS, {})
    try:
        update = build(_UpdateHeader, header, "update")
    except ConfigError as error:
        raise WireError(f"the update cannot be understood: {error}") from None
    _check(update)
    return Update(**vars(update), delta=groups, sums=sums, seconds_before=_seconds_before(content))


def refusal(code: str) -> RecordDict:
    """Pack a coded refusal; the text behind it stays at the site."""
    return RecordDict({REFUSAL: ConfigRecord({"code": SiteError(code).code})})


def payload_bytes(content: RecordDict) -> int:
    """Return the bytes of a message's arrays, texts and doubles: its cost, framing aside."""
    total = 0
    # Not by `content.array_records`: it makes a reference cycle that holds the arrays for a while.
    for record in content.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            total += sum(8 if isinstance(v, float) else len(str(v)) for v in record.values())
    return total


@dataclass(frozen=True)
class _UpdateHeader:
    site: str
    run: str
    stage: str
    round: int
    num_examples: int
    metrics: dict[str, float]
    counts: dict[str, int]
    versions: dict[str, str]
    modalities: tuple[str, ...]
    steps: int = 0
    planned_steps: int = 0
    examples: dict[str, int] = field(default_factory=dict)
    privacy: PrivacyReport | None = None


def _records(
    header: dict[str, Any], groups: Groups, numbers: Mapping[str, float] | None = None
) -> RecordDict:
    flat, manifest = pack(groups)
    # Each flat array goes as its bytes are made: never two copies of all weights at a time.
    arrays = ArrayRecord({key: _write_array(flat.pop(key)) for key in list(flat)})
    texts = {"header": json.dumps(header), "manifest": manifest}
    config = ConfigRecord({**texts, **(numbers or {})})
    return RecordDict({ARRAYS: arrays, CONFIG: config})


def _contents(content: RecordDict) -> tuple[dict[str, Any], Groups]:
    if ARRAYS not in content or CONFIG not in content:
        raise WireError("the message holds no arrays or no config")
    config, arrays = content[CONFIG], content[ARRAYS]
    if not isinstance(config, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        raise WireError("the records of the message have the wrong kind")
    try:
        header = json.loads(str(config["header"]))
    except (ValueError, KeyError, RecursionError):
        raise WireError("the message's header is not readable") from None
    if not isinstance(header, dict):
        raise WireError("the message's header is not an object")
    flat = {k: _read_array(k, a) for k, a in arrays.items()}
    return header, unpack(flat, str(config.get("manifest", "")))


def _seconds_before(content: RecordDict) -> float:
    config = content[CONFIG]
    assert isinstance(config, ConfigRecord)  # `_contents` has looked
    seconds = config.get(BEFORE, 0.0)
    # It stretches the deadlines of rounds to come, up to the plan's `deadline_s`.
    if not isinstance(seconds, float) or not 0 <= seconds <= LONGEST_S:  # NaN is not, either
        raise WireError("the update says that its training took no real time")
    return seconds


def _write_array(values: NDArray[Any]) -> Array:
    """Return the array as Flower serialises it (npy), in one copy instead of three."""
    start = io.BytesIO()
    npy.write_array_header_1_0(start, npy.header_data_from_array_1_0(values))
    data = start.getvalue() + values.data
    return Array(dtype=str(values.dtype), shape=values.shape, stype=NPY, data=data)


def _read_array(key: str, array: Array) -> NDArray[Any]:
    """Return the array that lies in the message's bytes, without a copy and read-only."""
    if array.stype != NPY:
        raise WireError(f"array {key!r} is not serialised as {NPY}")
    start = io.BytesIO(array.data)
    # NumPy's reader of foreign bytes raises a dozen kinds, from EOFError to tokenize.TokenError.
    try:
        if npy.read_magic(start) != (1, 0):
            raise ValueError("another version of the format")
        shape, fortran, dtype = npy.read_array_header_1_0(start)
        values = np.frombuffer(array.data, dtype, offset=start.tell())
        return values.reshape(shape, order="F" if fortran else "C")
    except Exception:
        raise WireError(f"array {key!r} is not readable") from None


def _check(update: _UpdateHeader) -> None:
    """Refuse what would break a checkpoint's JSON, a sum or a file's name much later."""
    check_site_name(update.site)
    check_whole([update.num_examples, update.round, update.steps, update.planned_steps])
    check_counts(update.counts)
    check_counts(update.examples)
    check_metrics(update.metrics)
    check_versions(update.versions)
    check_modalities(update.modalities)
    if update.privacy is not None:
        check_privacy(**vars(update.privacy))
