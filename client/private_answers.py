"""What a private site answers but weights: what it is, and how well the model does; noised, once.

Each kind of answer of a run is kept and sent again for no charge: a restarted coordinator asks all
sites again what they are, and a repeated evaluation must not cost another release.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.errors import SiteError, WireError
from cardionets_core.faults import fault_point
from cardionets_core.privacy.evaluation import (
    private_fit_sums,
    private_options,
    private_score_sums,
    require_probes,
)
from cardionets_core.privacy.metrics import release_charge
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.statistics import private_statistics
from cardionets_core.runtime import pick_device
from client.charging import charged, uncharged
from client.memory import LOCAL, RunMemory, task_mark
from client.policy import is_enough
from client.release import description, evaluated, require_declared
from client.weights import gather_weights, load_model

if TYPE_CHECKING:
    from cardionets_core.evaluation.sums import Sums
    from cardionets_core.messages import Task, TaskHeader, Update
    from client.site import Site

PROBES = "probes"
"""Group of arrays in a score task that are not model weights."""

STATISTICS = ("phenotype_n", "phenotype_sum", "phenotype_square")
"""The sums of the handshake."""


def answer_privately(task: Task, site: Site) -> Update:
    """Serve a private task that trains nothing; the same one is answered the same again.

    Raises:
        SiteError: `refused_cohort`, where the hospital declares too few patients.
        PrivacyError: the ledger does not allow it; nothing was computed.
    """
    header = task.header
    if not is_enough(site.config.policy, header, site.config.privacy.patients):
        raise SiteError("refused_cohort")
    memory, mark = RunMemory(site.runs, header), answer_mark(task, site)
    answered = memory.answer(mark, header.action)
    if answered is None:
        with memory.alone(0.0):
            answered = memory.answer(mark, header.action)  # of the process that was waited for
            if answered is None:
                answered = _answered(task, site, mark)
                memory.keep_answer(mark, answered, header.action)
                fault_point("ledger_written")
    return answered


def answer_mark(task: Task, site: Site) -> str:
    """Return the mark of a task; what a restarted server knows by now does not make another."""
    if task.header.action == "describe":
        task = replace(task, header=replace(task.header, scaler_mean=(), scaler_sd=()))
    return task_mark(task, site.config)


def _answered(task: Task, site: Site, mark: str) -> Update:
    """Charge the ledger, then compute the one release that answers a task."""
    if task.header.action == "describe":
        return _description(task.header, site, mark)
    return _evaluation(task, site, mark)


def _description(header: TaskHeader, site: Site, mark: str) -> Update:
    privacy, dataset = site.config.privacy, site.dataset(header)
    assert header.privacy is not None
    require_declared(privacy)
    noise = header.privacy.noise
    if "phenotypes" not in privacy.modalities:  # by its own word: nothing is looked at
        nothing = np.zeros(len(header.phenotypes))
        sums: Sums = dict.fromkeys(STATISTICS, nothing)
        report = uncharged(site, dataset, header)
    else:
        report = charged(site, dataset, header, {header.action: release_charge(noise)}, mark=mark)
        sums = private_statistics(dataset, noise, PrivacyRandom())
    return description(header, site.name, privacy, sums=sums, report=report)


def _evaluation(task: Task, site: Site, mark: str) -> Update:
    header, dataset = task.header, site.dataset(task.header)
    if header.evaluation is None or header.privacy is None:
        raise WireError("an evaluation task without options")
    if "ecg" not in site.config.privacy.modalities:
        # Nothing of what is scored privately is there: no release, by the site's own word.
        report = uncharged(site, dataset, header)
        return evaluated(header, site.name, sums={}, report=report)
    options, noise = private_options(header.evaluation), header.privacy.noise
    weights = gather_weights(task, site)
    own = RunMemory(site.runs, header).read(header.memory if header.local else "")
    model = load_model(header, weights, own.groups.get(LOCAL, {}))
    model = model.to(pick_device(site.config.device)).eval()
    probes = {k: np.array(v) for k, v in task.weights.get(PROBES, {}).items()}
    require_probes(probes, diseases=len(header.diseases))
    report = charged(site, dataset, header, {header.action: release_charge(noise)}, mark=mark)
    fault_point("charged")
    rng = PrivacyRandom()
    if header.action == "fit":
        sums = private_fit_sums(model, dataset, options, noise=noise, rng=rng)
    else:
        sums = private_score_sums(model, dataset, probes, options, noise=noise, rng=rng)
    return evaluated(header, site.name, sums=sums, report=report)
