"""All checks of one site, one after the other; what fails in one of them is a finding too."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cardionets_core.errors import CardioNetsError
from cardionets_core.run_config import CONF, RunConfig, compose, run_config_from
from cardionets_core.vocabulary import DISEASES
from client.checks.budget import check_budget, no_budget
from client.checks.configuration import read_configuration
from client.checks.connection import Connection
from client.checks.findings import AREAS, Area, CheckResult, Finding, error, ok
from client.checks.folders import check_cache, check_permissions, check_places
from client.checks.machine import Machine
from client.checks.reach import check_connection
from client.checks.secure_sums import check_secure_sums
from client.checks.versions import check_clock, check_versions

if TYPE_CHECKING:
    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.data.manifest import Manifest
    from cardionets_core.site_config import SiteConfig

TRIAL_SECONDS = 20.0

T = TypeVar("T")

Progress = Callable[[str], None]
"""Told in a few words what is being done."""


@dataclass(frozen=True)
class CheckRequest:
    """What to check.

    Attributes:
        config: the site's YAML.
        overrides: Hydra overrides of it.
        plan: overrides of a run's default plan (`model=tiny`): the model that records are prepared
            for, batch sizes, local epochs.
        connection: how the site would connect.
        trial_seconds: how long to train; 0 leaves the trial out, and says so.
        log_file: where the caller writes `CheckResult.failures`; named in their findings.
    """

    config: Path
    overrides: tuple[str, ...] = ()
    plan: tuple[str, ...] = ("model=tiny",)
    connection: Connection = field(default_factory=Connection)
    trial_seconds: float = TRIAL_SECONDS
    log_file: str = "the log"


def run_checks(
    request: CheckRequest,
    *,
    machine: Machine | None = None,
    progress: Progress = lambda doing: None,
) -> CheckResult:
    """Check everything that can be checked; nothing leaves this machine but one empty request.

    Raises:
        ConfigError: the plan's overrides are wrong; all else is a finding.
    """
    return _Check(request, _default_plan(request.plan), machine or Machine(), progress).run()


@lru_cache(maxsize=8)
def _default_plan(overrides: tuple[str, ...], *, every_disease: bool = True) -> RunConfig:
    """Return a run's default plan; with every disease, so that every label is counted."""
    diseases = [f"diseases=[{','.join(DISEASES)}]"] if every_disease else []
    words = ["name=check", *diseases, *overrides]
    return run_config_from(compose("run", words, package=CONF))


class _Check:
    """One check under way: what was found so far.

    Args:
        request: what to check.
        plan: a run's default plan.
        machine: this computer.
        progress: told what is being done.
    """

    def __init__(
        self, request: CheckRequest, plan: RunConfig, machine: Machine, progress: Progress
    ) -> None:
        self._request, self._plan, self._machine = request, plan, machine
        self._progress = progress
        self._name = request.config.name
        self._found: list[Finding] = []
        self._result = CheckResult("", "", self._name, machine.now(), plan.model.preset, ())

    def run(self) -> CheckResult:
        """Run every check that its predecessors leave possible."""
        request, machine = self._request, self._machine
        config = self._look("configuration", self._configuration)
        self._look("permissions", lambda: self._add(check_permissions(config, request.config)))
        self._look("versions", lambda: self._add(check_versions(machine)))
        self._look("versions", lambda: self._add(check_clock(machine, request.config)))
        if config is not None:
            if not self._misread:  # a key that was left out could be one of those it speaks of
                self._look("policy", lambda: self._add(check_secure_sums(config)))
            self._site(config)
        self._progress("connecting to the coordinator")
        self._look("connection", lambda: self._add(check_connection(request.connection, machine)))
        if self._misread:
            self._cannot("budget", "The ledger was not looked at.")
        elif config is None or not config.privacy.ledger:
            self._add([no_budget(config)])
        order = {area: k for k, area in enumerate(AREAS)}
        return replace(
            self._result, findings=tuple(sorted(self._found, key=lambda f: order[f.area]))
        )

    @property
    def _misread(self) -> bool:
        """Whether a key is wrong: then it may be the one that says what pays for the records."""
        return any(f.area == "configuration" and f.level == "error" for f in self._found)

    def _configuration(self) -> SiteConfig | None:
        config, found = read_configuration(self._request.config, self._request.overrides)
        self._add(found)
        if config is not None:
            self._result = replace(self._result, site=config.site, title=config.title)
        return config

    def _site(self, config: SiteConfig) -> None:
        """Look at the places, the device, the data and the policy of a readable configuration."""
        from client.checks.device import check_device

        machine = self._machine
        places = self._look("configuration", lambda: self._places(config))
        self._look("device", lambda: self._add(check_device(config, machine)))
        if not places:
            self._cannot("data", "The data were not looked at.")
            return
        self._progress("reading the manifest")
        manifest = self._look("data", lambda: self._table(config))
        if manifest is None:
            self._cannot("data", "The records were not looked at.")
            return
        if not self._look("disk", lambda: self._room(config, manifest)):
            self._cannot("data", "The records were not prepared.")
            return
        dataset = self._look("data", lambda: self._records(config))
        if dataset is None:
            return
        self._look("data", lambda: self._numbers(config, dataset))
        self._look("policy", lambda: self._policy(config, dataset))
        if config.privacy.ledger and not self._misread:
            plan = _default_plan(self._request.plan, every_disease=False)
            self._look("budget", lambda: self._add(check_budget(config, dataset, plan)))
        self._look("device", lambda: self._trial(config, dataset))

    def _places(self, config: SiteConfig) -> bool:
        found = self._add(check_places(config, self._name, self._machine))
        return not any(f.code.startswith(("root", "manifest")) for f in found)

    def _table(self, config: SiteConfig) -> Manifest | None:
        from client.checks.table import check_table

        manifest, found = check_table(config)
        self._add(found)
        return manifest

    def _room(self, config: SiteConfig, manifest: Manifest) -> bool:
        from client.checks.size import bytes_to_write

        needed = bytes_to_write(config, manifest, self._plan.sized_model())
        found = self._add(check_cache(config, self._name, self._machine, needed))
        return not any(f.level == "error" for f in found)

    def _records(self, config: SiteConfig) -> SiteDataset:
        from client.checks.records import check_records, refused_files
        from client.site import open_dataset

        self._progress("preparing records")
        dataset = open_dataset(
            config,
            self._plan.sized_model(),
            phenotypes=self._plan.phenotypes,
            diseases=self._plan.diseases,
            scaler=None,
            progress=lambda done: self._progress(f"preparing records: {done} studies"),
        )
        refused = refused_files(dataset)
        self._add(check_records(dataset, refused))
        self._result = replace(self._result, counts=dataset.counts(), refused=refused)
        return dataset

    def _numbers(self, config: SiteConfig, dataset: SiteDataset) -> None:
        from client.checks.labels import check_labels
        from client.checks.quality import check_sample
        from client.checks.records import check_split

        self._add(check_split(dataset, config))
        self._add(check_labels(dataset.manifest))
        found, quality = check_sample(dataset.manifest)
        self._add(found)
        self._result = replace(self._result, quality=quality)
        if config.data.prepared:
            self._preparation(Path(config.data.prepared))

    def _preparation(self, prepared: Path) -> None:
        from client.checks import preparation

        numbers, found = preparation.read_report(prepared)
        self._add(found)
        if numbers:
            self._add(preparation.check_preparation(numbers))
            self._result = replace(
                self._result,
                refused=(*self._result.refused, *preparation.refused_recordings(numbers)),
                quality=(*self._result.quality, *preparation.quality_rows(numbers)),
            )

    def _policy(self, config: SiteConfig, dataset: SiteDataset) -> None:
        from client.checks.policy import check_policy, judge_stages

        stages = judge_stages(config.policy, dataset, self._plan)
        self._result = replace(self._result, stages=stages)
        self._add(check_policy(config.policy, stages, dataset.counts()["patients"]))

    def _trial(self, config: SiteConfig, dataset: SiteDataset) -> None:
        from client.checks.device import check_trial, no_trial
        from client.checks.trial import run_trial

        stages = self._result.joinable
        if not stages or any(f.level == "error" for f in self._found):
            self._cannot("device", "No trial was trained.")
            return
        if self._request.trial_seconds <= 0:
            self._add([no_trial()])
            return
        self._progress(f"training for {self._request.trial_seconds:g} s")
        trial, found = run_trial(config, dataset, stages, self._plan, self._request.trial_seconds)
        self._add(found)
        if trial is not None:
            deadline_s = self._plan.stage[trial.stage].deadline_s
            self._add(check_trial(trial, deadline_s, self._machine))
            self._result = replace(self._result, trial=trial)

    def _add(self, found: list[Finding]) -> list[Finding]:
        self._found += found
        return found

    def _cannot(self, area: Area, what: str) -> None:
        """Say that something was left out because of an error that is named already."""
        self._add([ok(area, f"{what} Correct the errors first, then check again.", "left_out")])

    def _look(self, area: Area, look: Callable[[], T]) -> T | None:
        """Run one check; whatever it raises becomes a finding."""
        try:
            return look()
        except CardioNetsError as cause:
            self._add([_refused(area, str(cause))])
        except Exception as cause:
            # Neither the text of the exception (it may hold a path with a name) nor its values.
            frames = traceback.extract_tb(cause.__traceback__)
            places = "".join(f"\n  {f.filename}:{f.lineno} in {f.name}" for f in frames)
            failure = f"{type(cause).__name__} while checking {area}{places}"
            self._result = replace(self._result, failures=(*self._result.failures, failure))
            self._add([_internal(area, type(cause).__name__, self._request.log_file)])
        return None


def _refused(area: Area, text: str) -> Finding:
    return error(
        area,
        "refused",
        text,
        cause="This part of the site cannot be used as it is.",
        next_step="Correct what the message names and check again.",
    )


def _internal(area: Area, kind: str, log_file: str) -> Finding:
    return error(
        area,
        "internal",
        f"The check of {area} failed ({kind}).",
        cause="This is a fault of the program, or of the installation.",
        next_step=f"Send {log_file} to the maintainers: it names lines of code, and no data.",
    )
