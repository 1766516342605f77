"""What a check finds: one finding per cause, a verdict per stage, and all of it together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Area = Literal[
    "configuration",
    "permissions",
    "versions",
    "disk",
    "data",
    "policy",
    "device",
    "connection",
    "budget",
]
Level = Literal["ok", "warning", "error"]

AREAS: tuple[Area, ...] = (
    "configuration",
    "permissions",
    "versions",
    "disk",
    "data",
    "policy",
    "device",
    "connection",
    "budget",
)
"""The order in which the screen and the page show them."""

CANNOT_JOIN = 2
"""Exit code where an error stands, or where no stage is left."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: where it belongs.
        level: `ok`; `warning`, with which a site may join; `error`, with which it cannot.
        what: what is so. Like cause and next step it holds no patient id and no file name.
        cause: why it is so, or why it matters.
        next_step: what to do about it.
        code: a stable name for scripts and tests.
    """

    area: Area
    level: Level
    what: str
    cause: str = ""
    next_step: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        """Refuse a complaint that does not say what to do."""
        if self.level != "ok" and not (self.cause and self.next_step and self.code):
            raise ValueError(f"{self.what!r}: a {self.level} needs cause, next step and code")

    def sentence(self) -> str:
        """Return everything in one line."""
        return " ".join(part for part in (self.what, self.cause, self.next_step) if part)


def ok(area: Area, what: str, code: str = "") -> Finding:
    """Return a finding that is as it should be."""
    return Finding(area, "ok", what, code=code)


def warning(area: Area, code: str, what: str, *, cause: str, next_step: str) -> Finding:
    """Return a finding that does not keep the site out."""
    return Finding(area, "warning", what, cause, next_step, code)


def error(area: Area, code: str, what: str, *, cause: str, next_step: str) -> Finding:
    """Return a finding that keeps the site out until it is corrected."""
    return Finding(area, "error", what, cause, next_step, code)


@dataclass(frozen=True)
class StageVerdict:
    """Whether this site would take part in one stage.

    Attributes:
        name: of the stage.
        takes_part: whether data and policy serve it.
        patients: persons that it would count; for a training stage those in the train split.
        why: the reason in a few words.
    """

    name: str
    takes_part: bool
    patients: int
    why: str


@dataclass(frozen=True)
class RefusedFiles:
    """Files in quarantine for one reason: its code, how many, its cause and the next step."""

    code: str
    files: int
    cause: str
    next_step: str


@dataclass(frozen=True)
class Trial:
    """What real training on this site's own records measured.

    Attributes:
        stage: the costliest stage that the site can serve.
        device: where it ran.
        threads: CPU threads that it ran with.
        patients: training studies of that stage.
        steps: optimizer steps that were timed.
        seconds: that they took.
        records_per_s: studies per second.
        epoch_s: one pass over the training studies, estimated.
        round_s: one round of the default plan, estimated; without the transfer.
        transfer_bytes: of a round, one way.
        peak_bytes: memory of the process, or of the GPU where it trained there.
        private_only: the site answers private tasks alone. Their rounds take fixed steps with a
            gradient for each patient: `epoch_s` and `round_s` say nothing of them.
    """

    stage: str
    device: str
    threads: int
    patients: int
    steps: int
    seconds: float
    records_per_s: float
    epoch_s: float
    round_s: float
    transfer_bytes: int
    peak_bytes: int
    private_only: bool = False


@dataclass(frozen=True)
class CheckResult:
    """All that one check found; an area that could not be looked at says so in its findings.

    Attributes:
        site, title: of the hospital; empty where the YAML could not be read.
        config: file name of the YAML.
        checked_at: by this machine's clock.
        preset: the model that records were prepared for.
        findings: in the order of AREAS.
        stages: one verdict per stage; empty where the data could not be opened.
        counts: of SiteDataset.counts(); empty likewise.
        refused: the quarantine by reason, most frequent first.
        quality: name and value, of a sample of the ECGs and of the preparation's report.
        trial: None where nothing was trained.
        failures: unexpected exceptions, each as its type and the lines of code that it went
            through; neither its text nor a value, which could name a patient.
    """

    site: str
    title: str
    config: str
    checked_at: datetime
    preset: str
    findings: tuple[Finding, ...]
    stages: tuple[StageVerdict, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    refused: tuple[RefusedFiles, ...] = ()
    quality: tuple[tuple[str, str], ...] = ()
    trial: Trial | None = None
    failures: tuple[str, ...] = ()

    def of_level(self, level: Level) -> tuple[Finding, ...]:
        """Return the findings of one level."""
        return tuple(f for f in self.findings if f.level == level)

    @property
    def joinable(self) -> tuple[str, ...]:
        """The training stages that data and policy serve."""
        others = ("handshake", "evaluate")
        return tuple(s.name for s in self.stages if s.takes_part and s.name not in others)

    @property
    def exit_code(self) -> int:
        """0 where at least one stage can be joined and no error stands in the way."""
        return 0 if self.joinable and not self.of_level("error") else CANNOT_JOIN

    @property
    def verdict(self) -> str:
        """One sentence for the top of the screen and the page."""
        errors = len(self.of_level("error"))
        if errors:
            many = "error stands" if errors == 1 else "errors stand"
            would = f" Data and policy would serve {', '.join(self.joinable)}."
            return f"Cannot join yet: {errors} {many} in the way.{would if self.joinable else ''}"
        if not self.joinable:
            return "Cannot join: no training stage is left that this site could serve."
        warnings = len(self.of_level("warning"))
        more = f" {warnings} warning{'s' if warnings > 1 else ''} below." if warnings else ""
        return f"Can join: {', '.join(self.joinable)}.{more}"
